"""Where a key-encryption key is, as a URI: `keys.kek`. A URI that cannot be used is not repeated."""

from typing import Annotated
from urllib.parse import unquote

from pydantic import PlainValidator, ValidationInfo

from tokenvault_sidecar.config.files import PrivateFile, kek_file
from tokenvault_sidecar.config.problems import reject


def _source(value: object, info: ValidationInfo) -> PrivateFile:
    scheme, colon, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
    if scheme != "file" or not colon or rest.startswith("//"):
        raise reject("is no URI of a key-encryption key", 'write it as "file:/run/secrets/kek"')
    return kek_file(unquote(rest), info)


KekUri = Annotated[PrivateFile, PlainValidator(_source)]
