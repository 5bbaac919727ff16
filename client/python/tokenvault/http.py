"""Authentication for HTTP libraries: the bearer header from a token source; on 401 a newer token, once.

    httpx2.get(url, auth=httpx2_auth(source))

The library is imported when its function is called: extras "httpx2", "httpx" and "requests".
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

from tokenvault.errors import TokenVaultError
from tokenvault.models import Token
from tokenvault.source import AsyncTokenSource, TokenSource

_UNAUTHORIZED = 401


def httpx2_auth(source: TokenSource | AsyncTokenSource) -> Any:
    """An `httpx2.Auth`: of a TokenSource for Client, of an AsyncTokenSource for AsyncClient."""
    return _httpx_auth("httpx2", source)


def httpx_auth(source: TokenSource | AsyncTokenSource) -> Any:
    """An `httpx.Auth`: of a TokenSource for Client, of an AsyncTokenSource for AsyncClient."""
    return _httpx_auth("httpx", source)


def requests_auth(source: TokenSource) -> Any:
    """A `requests.auth.AuthBase`."""
    base: Any = import_module("requests.auth").AuthBase

    class BearerAuth(base):  # type: ignore[misc]  # known when the library is
        def __call__(self, request: Any) -> Any:
            token = source.token()
            _show(token, request)

            def on_response(response: Any, **options: Any) -> Any:
                if not _rejected(token, response):
                    return response
                body = response.request.body
                if not (body is None or isinstance(body, str | bytes)):  # a stream is used up
                    with suppress(TokenVaultError):  # the next request tells it
                        source.token(rejected=token.token_version)
                    return response
                newer = source.token(rejected=token.token_version)
                if newer.token_version == token.token_version:
                    return response
                _ = response.content  # read, so that the connection can be used again
                response.close()
                repeated = response.request.copy()
                repeated.deregister_hook("response", on_response)
                _show(newer, repeated)
                answer = response.connection.send(repeated, **options)
                answer.history.append(response)
                answer.request = repeated
                return answer

            request.register_hook("response", on_response)
            return request

    return BearerAuth()


def _httpx_auth(library: str, source: TokenSource | AsyncTokenSource) -> Any:
    httpx: Any = import_module(library)

    def can_be_sent_again(request: Any) -> bool:
        try:
            _ = request.content
        except httpx.RequestNotRead:  # a stream is used up
            return False
        return True

    class SyncBearerAuth(httpx.Auth):  # type: ignore[misc]  # known when the library is
        def sync_auth_flow(self, request: Any) -> Iterator[Any]:
            assert isinstance(source, TokenSource)
            token = source.token()
            response = yield _show(token, request)
            if not _rejected(token, response):
                return
            if not can_be_sent_again(request):
                with suppress(TokenVaultError):  # the next request tells it
                    source.token(rejected=token.token_version)
                return
            newer = source.token(rejected=token.token_version)
            if newer.token_version != token.token_version:
                yield _show(newer, request)

        async def async_auth_flow(self, request: Any) -> AsyncIterator[Any]:
            raise TypeError("AsyncClient needs the token source of an AsyncTokenVaultClient")
            yield request

    class AsyncBearerAuth(httpx.Auth):  # type: ignore[misc]  # known when the library is
        def sync_auth_flow(self, request: Any) -> Iterator[Any]:
            raise TypeError("Client needs the token source of a TokenVaultClient")
            yield request

        async def async_auth_flow(self, request: Any) -> AsyncIterator[Any]:
            assert isinstance(source, AsyncTokenSource)
            token = await source.token()
            response = yield _show(token, request)
            if not _rejected(token, response):
                return
            if not can_be_sent_again(request):
                with suppress(TokenVaultError):
                    await source.token(rejected=token.token_version)
                return
            newer = await source.token(rejected=token.token_version)
            if newer.token_version != token.token_version:
                yield _show(newer, request)

    return SyncBearerAuth() if isinstance(source, TokenSource) else AsyncBearerAuth()


def _show(token: Token, request: Any) -> Any:
    request.headers["Authorization"] = token.authorization_header
    return request


def _rejected(token: Token, response: Any) -> bool:
    """Whether the answer is 401 to this token: a redirect may have led to where it was not shown."""
    shown = response.request.headers.get("Authorization")
    return bool(response.status_code == _UNAUTHORIZED and shown == token.authorization_header)
