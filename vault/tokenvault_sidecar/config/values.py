"""The kinds of value a configuration holds, each with its check."""

import ipaddress
import re
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from tokenvault_sidecar.config.files import resolve
from tokenvault_sidecar.config.problems import reject
from tokenvault_sidecar.core.policy import BELOW

_DURATION = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?(?:(\d{1,9})ms)?")
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))
_DNS_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_DNS_NAME = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
# The SPIFFE ID standard, sections 2.1 and 2.2: no empty, "." or ".." segment.
_SPIFFE_ID = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+)+")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 section 3.3
_SOCKET_PATH_BYTES = 107  # what sun_path holds on Linux


def parse_duration(value: object) -> float:
    """Seconds from "90d", "12h", "15m", "30s", "500ms", or several together, as in "1h30m"."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    remedy = 'write it as "12h", "15m", "30s", "500ms" or together as "1h30m"'
    if not found or not value:
        raise reject("is not a duration", remedy)
    total = sum(int(n or 0) * unit for n, (_, unit) in zip(found.groups(), _UNITS, strict=True))
    if not total:
        raise reject("must be longer than nothing", remedy)
    return total / 1000


def format_duration(seconds: float) -> str:
    """The reverse of `parse_duration`, to the millisecond."""
    left, text = round(seconds * 1000), ""
    for name, unit in _UNITS:
        count, left = divmod(left, unit)
        text += f"{count}{name}" if count else ""
    return text or "0s"


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine's loopback."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _split_url(value: str) -> SplitResult:
    remedy = 'write an absolute URL such as "https://login.example.com/path"'
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("https", "http") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not value.isascii() or re.search(r'[\x00-\x20"<>\\^`{|}\x7f]', value):
        raise reject("is not a URL", remedy)
    if "@" in parts.netloc:
        raise reject("has a user name in it", "credentials belong into a file of their own")
    if "#" in value:
        raise reject("has a fragment", "delete it from # on")
    if parts.scheme == "http" and not is_loopback(value):
        raise reject("is not safe in transit", "use https; http is for loopback addresses in development")
    return parts


def _url(value: str) -> str:
    _split_url(value)
    return value


check_url = _url


def _issuer(value: str) -> str:
    if _split_url(value).query or "?" in value:
        raise reject("has a query", "an issuer has none (RFC 8414 section 2): delete it from ? on")
    return value


def _listen(value: str, info: ValidationInfo) -> str:
    if value.startswith("unix:"):
        name = value.removeprefix("unix:")
        path = str(resolve(name, info))
        if not name or len(path.encode()) > _SOCKET_PATH_BYTES:
            raise reject("is no path for a socket", f"name a path of 1 to {_SOCKET_PATH_BYTES} bytes")
        return f"unix:{path}"
    try:
        parts = urlsplit(f"//{value}")
        valid = parts.hostname and parts.port is not None and parts.netloc == value and "@" not in value
    except ValueError:
        valid = False
    if not valid or re.search(r"\s", value):
        raise reject(
            "is no address to listen on", 'write "127.0.0.1:7443", "[::1]:7443" or "unix:/run/vault.sock"'
        )
    return value


def _tcp(value: str, info: ValidationInfo) -> str:
    if value.startswith("unix:"):
        raise reject("is no TCP address", 'write "127.0.0.1:7480" or "[::1]:7480"')
    return _listen(value, info)


def _identity(value: str) -> str:
    if value.startswith("spiffe://"):
        example = f"{value[:-1]}x" if value.endswith(BELOW) else value
        if not _SPIFFE_ID.fullmatch(example):
            raise reject(
                "is no SPIFFE ID",
                "write it in full, as in spiffe://example.org/bot; spiffe://example.org/bots/* is all below",
            )
    elif not _DNS_NAME.fullmatch(value) or len(value) > 253:
        raise reject(
            "is neither a SPIFFE ID nor a DNS name",
            "write spiffe://example.org/bot or a lower-case DNS name without wildcard, bot.example.org",
        )
    return value


def _scope(value: str) -> str:
    if value == "*" or not _SCOPE.fullmatch(value):
        raise reject("is not a scope", "write one scope per entry, without spaces (RFC 6749 section 3.3)")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise reject(
            "is not a usable name", "use 1 to 64 letters, digits, dots, dashes and underscores, no dot first"
        )
    return value


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    for index, value in enumerate(values):
        if (first := values.index(value)) != index:
            raise reject(f"has the same entry at [{first}] and [{index}]", "delete one of them")
    return values


Duration = Annotated[float, BeforeValidator(parse_duration)]
Flag = Annotated[bool, Field(strict=True)]
Url = Annotated[str, AfterValidator(_url)]
Issuer = Annotated[str, AfterValidator(_issuer)]
ListenAddress = Annotated[str, AfterValidator(_listen)]
TcpAddress = Annotated[str, AfterValidator(_tcp)]
Identity = Annotated[str, AfterValidator(_identity)]
Scope = Annotated[str, AfterValidator(_scope)]
Name = Annotated[str, AfterValidator(_name)]
Distinct = AfterValidator(_distinct)
