"""`make run`: a stage that stays, and how to call it."""

import shlex
import sys
from pathlib import Path
from string import Template
from urllib.parse import urlsplit

from tests.demo.stage import BRAND, Stage
from tests.demo.story import Story
from tests.running import caller_files

BOT_FILE = "bot.py"

_BOT = Template("""\
from http.client import HTTPConnection

from tokenvault import ConsentRequired, TokenVaultClient

with TokenVaultClient.from_environment() as vault:
    try:
        token = vault.get_token("$brand", conversation="c-1")
    except ConsentRequired:  # never asked, or expired
        challenge = vault.challenge("$brand", conversation="c-1")
        print("Log in here:", challenge.authorization_url, flush=True)
        challenge.outcome()
        token = vault.get_token("$brand", conversation="c-1")

api = HTTPConnection("$api")
api.request("GET", "/me", headers={"Authorization": token.authorization_header})
print("The brand's API answers", api.getresponse().status)
""")

_GUIDE = Template("""
Both are up. To call the sidecar as the bot:

$exports

  $python $bot

which is:

--------
$code--------

Log in as alice, or anybody, with any password. The sidecar takes your browser back, and the bot,
which waits, goes on.

As the brand's service: $service_certificate and $service_key
The configuration:      $config

Ctrl-C stops both.
""")


def snippet(stage: Stage) -> str:
    """A bot in a few lines."""
    return _BOT.substitute(brand=BRAND, api=urlsplit(stage.provider.issuer).netloc)


def keep(stage: Stage, story: Story) -> int:
    """Say how to call, and wait for the sidecar's end: its exit status, should it end by itself."""
    folder = stage.folder.resolve()
    files, service = caller_files(folder, "bot"), caller_files(folder, "brand-service")
    exports = {
        "TOKENVAULT_ADDRESS": stage.sidecar.address,
        "TOKENVAULT_CA": files["ca"],
        "TOKENVAULT_CERT": files["certificate"],
        "TOKENVAULT_KEY": files["private_key"],
    }
    code = snippet(stage)
    (folder / BOT_FILE).write_text(code)
    story.say(
        _GUIDE.substitute(
            exports="\n".join(
                f"  export {name}={shlex.quote(str(value))}" for name, value in exports.items()
            ),
            python=_short(Path(sys.executable)),
            bot=_short(folder / BOT_FILE),
            code=code,
            service_certificate=service["certificate"],
            service_key=service["private_key"],
            config=stage.sidecar.config.resolve(),
        )
    )
    return stage.sidecar.wait()


def _short(path: Path) -> str:
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
