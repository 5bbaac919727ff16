"""The `tokenvault` command, as a process where it matters and in this one where it does not."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tokenvault_sidecar import devkit
from tokenvault_sidecar.cli import main
from tokenvault_sidecar.devkit import DevelopmentCA


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return devkit.init(tmp_path / "vault")[-1]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_init_then_check_config(tmp_path: Path) -> None:
    made = run("init", tmp_path / "vault")
    assert made.exit_code == 0, made.output
    config = tmp_path / "vault" / "tokenvault.toml"
    assert f"tokenvault check-config {config}" in made.stdout
    assert f"tokenvault serve --config {config}" in made.stdout
    checked = run("check-config", config)
    assert checked.exit_code == 0, checked.output
    assert checked.stderr == ""


def test_init_twice_is_refused(tmp_path: Path) -> None:
    run("init", tmp_path / "vault")
    before = {path: path.read_bytes() for path in (tmp_path / "vault").iterdir()}
    again = run("init", tmp_path / "vault")
    assert again.exit_code == 2
    assert all(str(path) in again.stderr for path in before)
    assert {path: path.read_bytes() for path in (tmp_path / "vault").iterdir()} == before


def test_init_where_no_folder_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("init", tmp_path / "file" / "vault")
    assert result.exit_code == 2
    assert "nothing was made" in result.stderr


def test_check_config_says_what_it_understood(config: Path) -> None:
    text = config.read_text().replace(
        'listen = ["127.0.0.1:7443"]', 'listen = ["127.0.0.1:7443", "unix:v.sock"]'
    )
    config.write_text(text.replace('brands = ["acme"]', 'brands = ["acme"]\nscopes = ["openid"]'))
    folder = config.parent
    assert (
        run("check-config", config).stdout
        == f"""\
{config} is in order.

Listens on 127.0.0.1:7443 and unix:{folder}/v.sock
Takes consumers back at /callback/{{brand}} on 127.0.0.1:7481
Keeps grants in {folder}/tokenvault.db, sealed by {folder}/kek
Answers probes on 127.0.0.1:7480
Development: http to loopback addresses is allowed
Brands
  acme
    authorization server http://127.0.0.1:9400, discovered
    client tokenvault, authenticates by client_secret_basic
    redirect URIs http://127.0.0.1:7481/callback/acme
    consumer: asks for openid offline_access; session 12h at most, 30m idle
    conversation: asks for openid; kept 1h at most
Callers
  bot: spiffe://tokenvault.test/bot
    may StartDelegation, CompleteDelegation, ConfirmDelegation, WatchDelegation, GetToken, Invalidate, \
Health, ServerReflection on consumer and conversation contexts of any brand, id token, keeps sessions alive
  brand-service: spiffe://tokenvault.test/brand-service
    may GetToken on consumer contexts of brand acme, scopes openid
"""
    )


def test_check_config_warns_of_files_open_to_others(config: Path) -> None:
    (config.parent / "kek").chmod(0o644)
    result = run("check-config", config)
    assert result.exit_code == 0
    assert result.stderr.startswith(f"warning: keys.kek_file: {config.parent}/kek can be read")


@pytest.fixture
def softened(monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve` hardens its process, which here is pytest's."""
    monkeypatch.setattr("tokenvault_sidecar.beginning.harden", lambda: None)


@pytest.mark.usefixtures("softened")
@pytest.mark.parametrize("command", [("check-config",), ("serve", "--config")])
def test_problems_are_printed_and_the_exit_code_is_2(config: Path, command: tuple[str, ...]) -> None:
    config.write_text(config.read_text().replace("issuer = ", "isuer = ").replace('"60s"', "60"))
    result = run(*command, config)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"{config}: renewal.margin is not a duration: "
        'write it as "12h", "15m", "30s", "500ms" or together as "1h30m"',
        f'{config}: brands.acme.issuer is missing: write it like this: issuer = "https://login.acme.example"',
        f"{config}: brands.acme.isuer is not a known key: did you mean 'issuer'?",
    ]


def test_check_config_finds_a_certificate_of_another_key(config: Path) -> None:
    other = DevelopmentCA.create("other").issue(name="other")
    (config.parent / "server.pem").write_bytes(other.certificate_pem)
    result = run("check-config", config)
    assert result.exit_code == 2
    assert f"{config}: server: " in result.stderr
    assert "is not the private key of" in result.stderr


def test_check_config_finds_a_kek_that_is_none(config: Path) -> None:
    (config.parent / "kek").write_text("canary-" * 7)
    result = run("check-config", config)
    assert result.exit_code == 2
    assert f"{config}: keys: " in result.stderr
    assert "canary" not in result.output


def test_grants_are_invalidated_by_one_choice(config: Path) -> None:
    invalidate = ("grants", "invalidate", "--yes", "--brand", "acme", "--config", config)
    for wrong in ((), ("--all", "--consumer", "c"), ("--consumer", "c", "--conversation", "d")):
        result = run(*invalidate, *wrong)
        assert (result.exit_code, "one of them" in result.stderr) == (2, True)


def test_secrets_are_in_no_output(tmp_path: Path) -> None:
    output = run("init", tmp_path / "vault").output
    config = tmp_path / "vault" / "tokenvault.toml"
    output += run("check-config", config).output + run("init", tmp_path / "vault").output
    config.write_text(config.read_text().replace("[keys]", "[kees]"))
    output += run("check-config", config).output
    for path in config.parent.iterdir():
        if path.stat().st_mode & 0o077 == 0:
            assert all(line not in output for line in path.read_text().splitlines()), path


def test_the_version_is_the_distributions() -> None:
    assert run("--version").stdout.strip() == f"tokenvault, version {version('tokenvault-sidecar')}"


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-W", "error", "-m", "tokenvault_sidecar", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("Usage: tokenvault ")
    assert all(name in done.stdout for name in ("init", "check-config", "serve"))
    assert done.stderr == ""
