"""A key-encryption key in AWS KMS, which encrypts and decrypts and gives no key away."""

import hashlib
from dataclasses import dataclass
from typing import Any

from tokenvault_sidecar.adapters.kek import CannotUnwrap, KeyringError

_SECONDS = 5
_PROBE = b"tokenvault's kek fingerprint"
_REFUSED = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})


@dataclass(frozen=True, slots=True)
class AwsKmsSource:
    """Which key: its id, ARN or alias, its region, an endpoint of one's own. Who asks is as boto3 finds."""

    key_id: str
    region: str
    endpoint: str | None = None

    def __str__(self) -> str:
        return f"the KEK {self.key_id!r} of AWS KMS in {self.region!r}"


class AwsKmsKek:
    """Each key of the store is bound to its id, by the encryption context.

    Raises KeyringError where KMS cannot be reached or refuses, at once and at each use.
    """

    def __init__(self, source: AwsKmsSource) -> None:
        self.source = source
        self._client = _client(source)
        # The key's own name: an alias may come to mean another one, which then is another KEK.
        arn = self._ask("encrypt", KeyId=source.key_id, Plaintext=_PROBE)["KeyId"]
        self._arn = arn
        self.fingerprint = hashlib.sha256(arn.encode()).hexdigest()[:16]

    def wrap(self, key: bytes, *, name: str) -> bytes:
        answer = self._ask("encrypt", KeyId=self._arn, Plaintext=key, EncryptionContext=_context(name))
        return bytes(answer["CiphertextBlob"])

    def unwrap(self, wrapped: bytes, *, name: str) -> bytes:
        if not wrapped:
            raise CannotUnwrap
        answer = self._ask(
            "decrypt", KeyId=self._arn, CiphertextBlob=wrapped, EncryptionContext=_context(name)
        )
        return bytes(answer["Plaintext"])

    def _ask(self, operation: str, **parameters: object) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer: dict[str, Any] = getattr(self._client, operation)(**parameters)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "no code"))
            if operation == "decrypt" and code in _REFUSED:
                raise CannotUnwrap from None
            raise KeyringError(
                f"{self.source} refuses to {operation} ({code}): see that the key is there and enabled, "
                "and that this workload's role may kms:Encrypt and kms:Decrypt with it"
            ) from None
        except BotoCoreError as error:
            raise KeyringError(
                f"{self.source} cannot be asked ({type(error).__name__}): see that its endpoint can be "
                "reached, and that this workload has credentials"
            ) from None
        return answer


def _client(source: AwsKmsSource) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise KeyringError(f"{source} needs boto3: pip install 'tokenvault-sidecar[aws-kms]'") from None
    settings = Config(connect_timeout=_SECONDS, read_timeout=_SECONDS, retries={"total_max_attempts": 2})
    return boto3.client("kms", region_name=source.region, endpoint_url=source.endpoint, config=settings)


def _context(name: str) -> dict[str, str]:
    return {"tokenvault-key": name}
