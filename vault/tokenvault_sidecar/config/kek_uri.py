"""Where a key-encryption key is, as a URI: `keys.kek`. A URI that cannot be used is not repeated."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import parse_qsl, unquote

from pydantic import PlainValidator, ValidationInfo

from tokenvault_sidecar.config.files import PrivateFile, kek_file, private_file, resolve
from tokenvault_sidecar.config.problems import reject
from tokenvault_sidecar.config.values import check_url

_PKCS11: Final = (
    "pkcs11:token=vault;object=kek?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:pin"
)
_AWS: Final = "aws-kms:alias/tokenvault?region=eu-central-1"


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """A key on a PKCS #11 token (RFC 7512): the token's and the key's labels, the library, the PIN's file."""

    token: str
    label: str
    module: Path
    pin_file: PrivateFile

    def __str__(self) -> str:
        return f"the key {self.label} on the PKCS #11 token {self.token}"


@dataclass(frozen=True, slots=True)
class AwsKmsUri:
    """A key of AWS KMS: its id, ARN or alias, the region, and another endpoint than the region's."""

    key_id: str
    region: str
    endpoint: str | None

    def __str__(self) -> str:
        return f"the AWS KMS key {self.key_id} in {self.region}"


KekSource = PrivateFile | Pkcs11Uri | AwsKmsUri


def _source(value: object, info: ValidationInfo) -> KekSource:
    scheme, _, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
    match scheme:
        case "file" if rest and not rest.startswith("//"):
            return kek_file(unquote(rest), info)
        case "pkcs11":
            return _pkcs11(rest, info)
        case "aws-kms":
            return _aws_kms(rest)
    raise reject(
        "is no URI of a key-encryption key", f'write it as "file:/run/secrets/kek", "{_PKCS11}" or "{_AWS}"'
    )


def _pkcs11(rest: str, info: ValidationInfo) -> Pkcs11Uri:
    path, _, query = rest.partition("?")
    parts = [part.partition("=") for part in (*path.split(";"), *query.split("&")) if part]
    given = {name: unquote(value) for name, _, value in parts}
    pin = given.get("pin-source", "")
    wanted = {"token", "object", "module-path", "pin-source"}
    if given.keys() != wanted or len(parts) != len(wanted) or not all(given.values()):
        raise reject(
            "is no PKCS #11 URI with token, object, module-path and pin-source, each once",
            f'write it as "{_PKCS11}" (RFC 7512)',
        )
    if not pin.startswith("file:"):
        raise reject("has its PIN elsewhere than in a file", "write pin-source=file: and the file's path")
    return Pkcs11Uri(
        token=given["token"],
        label=given["object"],
        module=resolve(given["module-path"], info),
        pin_file=private_file(pin.removeprefix("file:"), info),
    )


def _aws_kms(rest: str) -> AwsKmsUri:
    key_id, _, query = rest.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    given = dict(pairs)
    if (
        not key_id
        or not re.fullmatch(r"[a-z0-9-]+", given.get("region", ""))
        or not given.keys() <= {"region", "endpoint"}
        or len(pairs) != len(given)
    ):
        raise reject("is no URI of an AWS KMS key in a region", f'write it as "{_AWS}"')
    if "endpoint" in given:
        check_url(given["endpoint"])
    return AwsKmsUri(unquote(key_id), given["region"], given.get("endpoint"))


KekUri = Annotated[KekSource, PlainValidator(_source)]
