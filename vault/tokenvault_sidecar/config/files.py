"""Files a configuration names. Relative paths start at the folder it is in, which is the validation context.

Of a file that cannot be used the path is not repeated: who mistakes a
`…_file` key for the secret itself shall not find it in a log.
"""

import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import PlainValidator, ValidationInfo

from tokenvault_sidecar.config.problems import reject
from tokenvault_sidecar.core.model import Secret

_KEK_CHARACTERS = 43  # base64 of 32 bytes, without padding
_OTHERS = 0o066
_OTHERS_HANDED_OVER = 0o026
_ROOT = 0
_PRIVATE_JWK_MEMBERS = {"d", "k"}  # RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1; RFC 8037 section 2


@dataclass(frozen=True, slots=True)
class PrivateFile:
    """A file for the vault's eyes only, and the permissions it was found with."""

    path: Path
    mode: int
    exposed: bool
    """Whether more may read or write it than must."""


def exposed(mode: int, *, owner: int, reader: int) -> bool:
    """Whether such a file of `owner` is open to more than must be for `reader` (user ids) to read it.

    Kubernetes and systemd hand secrets over as root's own, readable by the
    process's group or by an access list, which shows as its group's.
    """
    handed_over = reader not in (owner, _ROOT)
    return bool(mode & (_OTHERS_HANDED_OVER if handed_over else _OTHERS))


@dataclass(frozen=True, slots=True)
class SecretFile(PrivateFile):
    """A private file and what it held."""

    secret: Secret


@dataclass(frozen=True, slots=True)
class JwksFile:
    """A JWK set of public keys (RFC 7517 section 5), as text."""

    path: Path
    text: str = field(repr=False)


def resolve(name: str, info: ValidationInfo) -> Path:
    """The path a configuration means."""
    folder = info.context
    assert isinstance(folder, Path)
    return folder / name


def _path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise reject("must be a path", 'write it in quotes, as in "secrets/client-secret"')
    return resolve(value, info)


def _stat(path: Path, info: ValidationInfo) -> os.stat_result:
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK):
            if status.st_size:
                return status
            raise reject("names an empty file", "put in what belongs there")
    except OSError:
        pass
    raise reject(
        "names no file that can be read",
        f"create the file or correct its path and permissions (relative paths start at {info.context})",
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise reject("names no text file that can be read", "put in text in UTF-8") from None


def _file(value: object, info: ValidationInfo) -> Path:
    path = _path(value, info)
    _stat(path, info)
    return path


readable = _file


def _private(value: object, info: ValidationInfo) -> PrivateFile:
    path = _path(value, info)
    status = _stat(path, info)
    mode = stat.S_IMODE(status.st_mode)
    return PrivateFile(path, mode, exposed(mode, owner=status.st_uid, reader=os.geteuid()))


private_file = _private


def kek_file(value: object, info: ValidationInfo) -> PrivateFile:
    """The file with a key-encryption key that a configuration means."""
    file = _private(value, info)
    if file.path.stat().st_size < _KEK_CHARACTERS:
        raise reject("names too short a file for a key", "make one with: openssl rand -base64 32")
    return file


def _secret(value: object, info: ValidationInfo) -> SecretFile:
    file = _private(value, info)
    text = _read(file.path).rstrip("\r\n")
    if not text:
        raise reject("names an empty file", "put in the secret, on one line")
    return SecretFile(file.path, file.mode, file.exposed, Secret(text))


def _signing_key(value: object, info: ValidationInfo) -> SecretFile:
    file = _secret(value, info)
    try:
        load_pem_private_key(file.secret.reveal().encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise reject("holds no usable private key", "put in one as PEM, without a passphrase") from None
    return file


def _jwks(value: object, info: ValidationInfo) -> JwksFile:
    path = _file(value, info)
    text = _read(path)
    try:
        keys = json.loads(text)["keys"]
        usable = bool(keys) and all(isinstance(key["kty"], str) for key in keys)
    except (ValueError, TypeError, KeyError, RecursionError):
        usable = False
    if not usable:
        raise reject("holds no JWK set", 'put in {"keys": […]} with at least one key (RFC 7517)') from None
    if any(_PRIVATE_JWK_MEMBERS & set(key) for key in keys):
        raise reject("holds private keys", "put in the authorization server's public keys only")
    return JwksFile(path, text)


OutputPath = Annotated[Path, PlainValidator(_path)]
File = Annotated[Path, PlainValidator(_file)]
PrivateFilePath = Annotated[PrivateFile, PlainValidator(_private)]
KekFilePath = Annotated[PrivateFile, PlainValidator(kek_file)]
SecretFilePath = Annotated[SecretFile, PlainValidator(_secret)]
SigningKeyFilePath = Annotated[SecretFile, PlainValidator(_signing_key)]
JwksFilePath = Annotated[JwksFile, PlainValidator(_jwks)]
