"""The access token a service shows of itself, by its client credentials (RFC 6749 section 4.4)."""

import ssl
from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tokenvault._connection import StrPath, read_pem
from tokenvault._keeper import AsyncTokenKeeper, TokenKeeper

if TYPE_CHECKING:
    from tokenvault._token_endpoint import TokenEndpoint


class ClientCredentials:
    """Gets this service's own access token, keeps it, and renews it before it ends.

    Give it to a client as `credentials`; the sidecar wants to see it where its
    configuration has a `bearer` table for this caller. One object serves any
    number of clients, threads and event loops: they share one token, and one
    request for it. It needs the extra: `pip install tokenvault[client-credentials]`.
    """

    def __init__(
        self,
        *,
        token_endpoint: str,
        client_id: str,
        client_secret: str | None = None,
        private_key: str | None = None,
        private_key_id: str | None = None,
        assertion_audience: str | None = None,
        scope: str | Iterable[str] = "delegated.token.read.external",
        audience: str | None = None,
        resource: str | None = None,
        ca: StrPath | None = None,
        certificate: StrPath | None = None,
        private_key_file: StrPath | None = None,
        timeout: float = 10.0,
    ) -> None:
        """Nothing is sent yet.

        `token_endpoint`: an https URL (http to loopback only). Either
        `client_secret`, sent by client_secret_basic, or `private_key` (PEM;
        RSA, EC or Ed25519) with its `private_key_id`, for private_key_jwt
        (RFC 7523): `assertion_audience` is the server's issuer, or the token
        endpoint where None. `scope`, `audience` and `resource` (RFC 8707) are
        sent as they are. `ca`: PEM file of whom to trust, None: whom the
        system does. `certificate` and `private_key_file`: PEM files of what to
        show in TLS, so that the token is bound to it (RFC 8705 section 3);
        then the same as the client's. `timeout` in seconds is for one request.

        Raises ImportError without the extra, ValueError for a parameter that
        cannot be used, and OSError for a file that cannot be read.
        """
        _check_url(token_endpoint)
        fields = {
            "grant_type": "client_credentials",
            "scope": scope if isinstance(scope, str) else " ".join(scope),
            "audience": audience,
            "resource": resource,
        }
        endpoint = _token_endpoint(
            token_endpoint,
            client_id=client_id,
            client_secret=client_secret,
            private_key=private_key,
            private_key_id=private_key_id,
            assertion_audience=assertion_audience or token_endpoint,
            form={name: value for name, value in fields.items() if value},
            tls=_tls(ca, certificate, private_key_file),
            timeout=timeout,
        )
        self._keeper = TokenKeeper(endpoint.ask)

    @property
    def aio(self) -> AsyncTokenKeeper:
        """The same with `await`."""
        return self._keeper.aio

    def token(self, timeout: float, *, rejected: str | None = None) -> str:
        """The access token, `timeout` seconds from now at most; not the one that was `rejected`.

        Raises CredentialsUnavailable, CredentialsRefused.
        """
        return self._keeper.token(timeout, rejected=rejected)


def _token_endpoint(
    url: str,
    *,
    client_id: str,
    client_secret: str | None,
    private_key: str | None,
    private_key_id: str | None,
    assertion_audience: str,
    form: dict[str, str],
    tls: ssl.SSLContext,
    timeout: float,
) -> "TokenEndpoint":
    try:
        from tokenvault import _token_endpoint as extra
    except ModuleNotFoundError as missing:
        problem = f"ClientCredentials needs {missing.name}: pip install 'tokenvault[client-credentials]'"
        raise ImportError(problem) from None
    authentication: extra.ClientSecretBasic | extra.PrivateKeyJwt
    if client_secret and not private_key:
        authentication = extra.ClientSecretBasic(client_id, client_secret)
    elif private_key and not client_secret:
        authentication = extra.PrivateKeyJwt(
            client_id, private_key, key_id=private_key_id, audience=assertion_audience
        )
    else:
        raise ValueError("give exactly one of client_secret and private_key")
    return extra.TokenEndpoint(url, authentication, form=form, tls=tls, timeout=timeout)


def _tls(ca: StrPath | None, certificate: StrPath | None, private_key: StrPath | None) -> ssl.SSLContext:
    if (certificate is None) != (private_key is None):
        raise ValueError("certificate and private_key_file: give both or neither")
    for path, label in ((ca, "CERTIFICATE"), (certificate, "CERTIFICATE"), (private_key, "PRIVATE KEY")):
        if path is not None:
            read_pem(path, label)
    try:
        context = ssl.create_default_context(cafile=ca)
        if certificate is not None:
            context.load_cert_chain(certificate, private_key, password="")  # None would ask the terminal
    except ssl.SSLError:
        problem = (
            "ca, certificate and private_key_file: not certificates and the key of the second, as plain PEM"
        )
    else:
        return context
    raise ValueError(problem)


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" and host:
        return
    if parts.scheme != "http" or not _is_loopback(host):
        raise ValueError("token_endpoint: not an https URL (http is for loopback only)")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
