"""A small authorization server that does as a test says: over real sockets, one answer at a time.

    async with ScriptedServer() as server:
        server.on("/token", Reply(status=503, headers={"Retry-After": "7"}), Reply(json={...}))

Paths without a script: discovery (OpenID and RFC 8414) and the JWK set answer
as they should, from `server.metadata` and `server.keys`; all else is 404. Of
several replies the last one stays.
"""

import asyncio
import contextlib
import json
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

Fault = Literal[
    "aud", "azp", "iss", "nonce", "none", "hs256", "expired", "unknown-kid", "forged", "future", "several-aud"
]
FAULTS: Sequence[Fault] = Fault.__args__  # type: ignore[attr-defined]  # typing does not know it of a Literal

_ALGORITHMS = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}


@dataclass(frozen=True)
class Reply:
    """One answer. `json` or `body`; `raw` bytes instead of a whole HTTP answer.

    `delay` is in seconds, or what to wait for. `close` "before" resets the connection having read
    the head alone, "after" closes it having read the whole request.
    `truncate` announces the whole body, sends half of it and closes.
    `chunk_pause` sends the body byte by byte with that pause between.
    `keep_alive` False closes after the answer, without having said so.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    json: object = None
    body: bytes = b""
    raw: bytes | None = None
    delay: float | asyncio.Event = 0.0
    close: Literal["before", "after"] | None = None
    truncate: bool = False
    chunk_pause: float = 0.0
    keep_alive: bool = True

    def payload(self) -> bytes:
        return self.body if self.json is None else json.dumps(self.json).encode()


@dataclass(frozen=True)
class Seen:
    """A request as it came. `connection` numbers the connections."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True, strict_parsing=True))


Answer = Callable[[Seen], Reply]
"""Makes the reply from the request."""


class ScriptedServer:
    """`tls`: a server-side SSLContext for https. `path` is the issuer's, such as "/tenant"."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", path: str = "") -> None:
        self._tls = tls
        self._host = host
        self._path = path
        self._scripts: dict[str, list[Reply | Answer]] = {}
        self._changed = asyncio.Condition()
        self._handlers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.connections = 0
        self.open = 0
        self.seen: list[Seen] = []
        self.metadata: dict[str, object] = {}
        self.keys: list[Key] = []

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"http{'s' if self._tls else ''}://{self._host}:{self.port}"

    @property
    def issuer(self) -> str:
        return self.url + self._path

    async def __aenter__(self) -> "ScriptedServer":
        self._server = await asyncio.start_server(self._accept, self._host, 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.rotate()
        self.metadata = {
            "issuer": self.issuer,
            "authorization_endpoint": self.url + "/authorize",
            "token_endpoint": self.url + "/token",
            "revocation_endpoint": self.url + "/revoke",
            "jwks_uri": self.url + "/jwks",
            "authorization_response_iss_parameter_supported": True,
        }
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Close the port and every connection: from now on it is refused."""
        if self._server is None:
            return
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def on(self, path: str, *replies: Reply | Answer) -> None:
        """Answer this path so from now on; without replies: as by default."""
        self._scripts[path] = list(replies)

    def requests(self, path: str) -> list[Seen]:
        """What came for a path, in order."""
        return [seen for seen in self.seen if seen.path == path]

    async def arrived(self, path: str, count: int = 1, *, within: float = 10.0) -> Seen:
        """Wait until this many requests came for a path; the last of them."""
        async with asyncio.timeout(within), self._changed:
            await self._changed.wait_for(lambda: len(self.requests(path)) >= count)
        return self.requests(path)[count - 1]

    async def all_closed(self, *, within: float = 10.0) -> None:
        """Wait until no connection is open on this side."""
        async with asyncio.timeout(within), self._changed:
            await self._changed.wait_for(lambda: self.open == 0)

    def rotate(self, kind: Literal["RSA", "EC", "OKP"] = "EC") -> Key:
        """Sign with a new key from now on, and publish it in place of the others."""
        self.keys = [new_key(kind)]
        return self.keys[0]

    def mint(
        self,
        fault: Fault | None = None,
        *,
        client_id: str = "client",
        subject: str = "alice",
        nonce: str | None = "n-1",
        now: float | None = None,
        drop: Sequence[str] = (),
        header: Mapping[str, object] | None = None,
        **claims: object,
    ) -> str:
        """An id token by the newest key: valid, or wrong in one way; `claims` replace, `drop` removes.

        A `header` parameter of None is left out.
        """
        at = int(time.time() if now is None else now)
        payload: dict[str, object] = {
            "iss": self.issuer,
            "sub": subject,
            "aud": client_id,
            "iat": at,
            "exp": at + 300,
            **({} if nonce is None else {"nonce": nonce}),
            **_faulty_claims(fault, at, client_id),
            **claims,
        }
        payload = {name: value for name, value in payload.items() if name not in drop}
        key = self.keys[-1]
        if fault == "unknown-kid":
            key = new_key("EC")
        elif fault == "forged":
            key = _with_id(ECKey.generate_key(), str(key.kid))
        return _sign(payload, key, fault, header or {})

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            await self._serve(reader, writer, self.connections)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._handlers.discard(task)
            writer.close()
            if not self._tls:  # TLS would wait for the other side's goodbye
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
            self.open -= 1
            async with self._changed:
                self._changed.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            request_line, *lines = head.rstrip().split("\r\n")
            method, target, _ = request_line.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (li.partition(":") for li in lines)}
            path = urlsplit(target).path
            reply = self._next(path)
            if isinstance(reply, Reply) and reply.close == "before":
                writer.transport.abort()
                return
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            query = dict(parse_qsl(urlsplit(target).query))
            seen = Seen(method, path, query, headers, body, number)
            async with self._changed:
                self.seen.append(seen)
                self._changed.notify_all()
            if not await self._answer(writer, reply if isinstance(reply, Reply) else reply(seen)):
                return

    async def _answer(self, writer: asyncio.StreamWriter, reply: Reply) -> bool:
        """Whether the connection stays."""
        await (reply.delay.wait() if isinstance(reply.delay, asyncio.Event) else asyncio.sleep(reply.delay))
        if reply.close == "after":
            return False
        if reply.raw is not None:
            writer.write(reply.raw)
            await writer.drain()
            return False
        payload = reply.payload()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(payload)), **reply.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {reply.status} Scripted\r\n{head}\r\n".encode("latin-1"))
        if reply.chunk_pause:
            for octet in payload:
                writer.write(bytes([octet]))
                await writer.drain()
                await asyncio.sleep(reply.chunk_pause)
        else:
            writer.write(payload[: len(payload) // 2] if reply.truncate else payload)
        await writer.drain()
        return reply.keep_alive and not reply.truncate

    def _next(self, path: str) -> Reply | Answer:
        script = self._scripts.get(path)
        if script:
            return script.pop(0) if len(script) > 1 else script[0]
        if path in (
            f"{self._path}/.well-known/openid-configuration",
            f"/.well-known/oauth-authorization-server{self._path}",
        ):
            return Reply(json=self.metadata)
        if path == "/jwks":
            return Reply(json={"keys": [key.as_dict(private=False) for key in self.keys]})
        return Reply(status=404, body=b"not found")


def new_key(kind: Literal["RSA", "EC", "OKP"] = "EC") -> Key:
    """A signing key with an id."""
    key: Key
    if kind == "RSA":
        key = RSAKey.generate_key(2048)
    else:
        key = ECKey.generate_key("P-256") if kind == "EC" else OKPKey.generate_key("Ed25519")
    key.ensure_kid()
    return key


def _with_id(key: Key, kid: str) -> Key:
    return type(key).import_key({**key.as_dict(private=True), "kid": kid})


def _faulty_claims(fault: Fault | None, at: int, client_id: str) -> Mapping[str, object]:
    wrong: dict[Fault, Mapping[str, object]] = defaultdict(
        dict,
        {
            "aud": {"aud": "another-client"},
            "azp": {"aud": [client_id, "another-client"], "azp": "another-client"},
            "several-aud": {"aud": [client_id, "another-client"]},
            "iss": {"iss": "https://another-issuer.example"},
            "nonce": {"nonce": "another-nonce"},
            "expired": {"iat": at - 600, "exp": at - 300},
            "future": {"iat": at + 300, "exp": at + 600},
        },
    )
    return wrong[fault] if fault else {}


class _Anything(JWSRegistry):
    """Signs with whatever a forger would."""

    def get_alg(self, name: str):  # type: ignore[no-untyped-def]  # the library's return type
        return self.algorithms[name]


def _sign(payload: Mapping[str, object], key: Key, fault: Fault | None, header: Mapping[str, object]) -> str:
    registry = _Anything(strict_check_header=False)
    full = {"alg": _ALGORITHMS[key.key_type], "kid": key.kid, **header}
    full = {name: value for name, value in full.items() if value is not None}
    signer: Key | None = key
    if fault == "none":
        full["alg"], signer = "none", None
    elif fault == "hs256":
        # The old trick: the public key, taken for a shared secret.
        public = str(key.as_dict(private=False)["x"])
        full["alg"], signer = "HS256", OctKey.import_key({"kty": "oct", "k": public})
    return jws.serialize_compact(full, json.dumps(payload).encode(), signer, registry=registry)
