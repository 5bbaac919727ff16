"""Where the server listens, and what it puts up with."""

import asyncio
import socket
from pathlib import Path

import grpc
import pytest

from tests.api.running import DEADLINE, Pki, Running, consumer, refusal, serving
from tests.fuzz.http2 import Http2, call_headers, message, tls_context
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault.v1.token_vault_pb2_grpc import TokenVaultStub
from tokenvault_sidecar.core.errors import Reason
from tokenvault_sidecar.listening import CannotListen

GET_TOKEN = "/tokenvault.v1.TokenVault/GetToken"
REQUEST = pb.GetTokenRequest(brand_id="acme", context=consumer())


async def answers(running: Running, address: str) -> None:
    """The call gets as far as the use-case, which has no grant."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call(running.pki.bot, "GetToken", REQUEST, address=address)
    assert refusal(caught.value).reason == Reason.GRANT_NOT_FOUND


async def test_several_addresses_at_once(pki: Pki, tmp_path: Path) -> None:
    path = tmp_path / "vault.sock"
    async with serving(pki, listen=["127.0.0.1:0", "localhost:0", f"unix:{path}"]) as running:
        first, second, third = running.addresses
        assert first.startswith("127.0.0.1:")
        assert second.startswith("localhost:")
        assert third == f"unix:{path}"
        assert "0" not in {first.rpartition(":")[2], second.rpartition(":")[2]}
        for address in running.addresses:
            await answers(running, address)
    assert not path.exists()


async def test_the_unix_socket_is_for_known_callers_too(pki: Pki, tmp_path: Path) -> None:
    path = tmp_path / "vault.sock"
    async with serving(pki, listen=[f"unix:{path}"]) as running:
        assert path.stat().st_mode & 0o777 == 0o660
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.call(None, "GetToken", REQUEST)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.call(pki.stranger, "GetToken", REQUEST)
        assert refusal(caught.value).reason == Reason.UNKNOWN_CALLER


async def test_a_port_in_use_is_named(pki: Pki) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(CannotListen, match=f"cannot listen on {address}: in use"):
            async with serving(pki, listen=[address]):
                pass


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.0.0.1:", ":0", "127.0.0.1:http", "127.0.0.1:65536", "unix:a"]
)
async def test_what_is_no_address_is_named(pki: Pki, address: str) -> None:
    with pytest.raises(CannotListen, match=f"{address} is no address to listen on"):
        async with serving(pki, listen=[address]):
            pass


async def test_a_socket_nobody_listens_on_is_replaced(pki: Pki, tmp_path: Path) -> None:
    path = tmp_path / "vault.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with serving(pki, listen=[f"unix:{path}"]) as running:
        await answers(running, running.addresses[0])


async def test_a_socket_somebody_listens_on_is_left_alone(pki: Pki, tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'vault.sock'}"
    async with serving(pki, listen=[address]) as running:
        with pytest.raises(CannotListen, match="another process is listening there"):
            async with serving(pki, listen=[address]):
                pass
        await answers(running, address)


async def test_a_file_in_the_way_is_left_alone(pki: Pki, tmp_path: Path) -> None:
    path = tmp_path / "vault.sock"
    path.write_text("precious")
    with pytest.raises(CannotListen, match="a file that is no socket"):
        async with serving(pki, listen=[f"unix:{path}"]):
            pass
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["missing/vault.sock", "a" * 108])
async def test_an_impossible_socket_path_is_named(pki: Pki, tmp_path: Path, name: str) -> None:
    with pytest.raises(CannotListen, match="its folder must be there and writable, its path short"):
        async with serving(pki, listen=[f"unix:{tmp_path / name}"]):
            pass


async def test_a_request_of_more_than_64_kib_is_refused(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.raw(running.pki.bot, GET_TOKEN, b"\0" * (64 * 1024 + 1))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("size", [17_000, 1 << 20])
async def test_metadata_of_more_than_16_kib_is_refused(running: Running, tmp_path: Path, size: int) -> None:
    """From who does not care for what gRPC's own clients are told in time: until then gRPC lets it pass."""
    connection = await Http2.connect(
        running.addresses[0], tls_context(running.pki.ca, running.pki.bot, tmp_path)
    )
    headers = [*call_headers(GET_TOKEN), (b"authorization", b"a" * size)]
    answer = await connection.call(headers, message(REQUEST.SerializeToString()))
    connection.close()
    assert answer.grpc_status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert running.tokens.asked == []


async def test_a_connection_does_not_outlive_its_age(pki: Pki) -> None:
    async with serving(pki, max_connection_age=0.2) as running, running.channel(pki.bot) as channel:
        async with asyncio.timeout(DEADLINE):
            await channel.channel_ready()
            # Asked to go, an idle client leaves READY; its next call connects anew.
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await TokenVaultStub(channel).GetToken(REQUEST, timeout=DEADLINE, wait_for_ready=True)
        assert refusal(caught.value).reason == Reason.GRANT_NOT_FOUND


@pytest.mark.parametrize("path", ["/\xff/\xff", "", "*", "/tokenvault.v1.TokenVault/GetToken/", "/a" * 4000])
async def test_no_path_brings_it_down(running: Running, tmp_path: Path, path: str) -> None:
    """grpc.aio's own server ends at the first of these."""
    context = tls_context(running.pki.ca, running.pki.stranger, tmp_path)
    connection = await Http2.connect(running.addresses[0], context)
    headers = [(key, path.encode("latin-1") if key == b":path" else value) for key, value in call_headers("")]
    answer = await connection.call(headers, message(b""))
    connection.close()
    assert answer.grpc_status == grpc.StatusCode.UNIMPLEMENTED.value[0]
    await answers(running, running.addresses[0])
