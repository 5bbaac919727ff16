"""Sealing records and blinding row keys: what a store sees is opaque, bound to its place, and names no one.

A record is AES-256-GCM under a data key, with a random 96-bit nonce (NIST SP
800-38D: at most 2^32 records a key). The associated data binds table, row key,
brand, kind and token version, so a record does not open in another row, nor in
its own after the version changed; a whole row put back as it was does. Row keys
are HMAC-SHA-256, so that a stolen file cannot be searched for a consumer.
"""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from pydantic_core import from_json

from tokenvault_sidecar.core.errors import Reason, StoreUnavailable
from tokenvault_sidecar.core.model import (
    Context,
    ContextKind,
    Delegated,
    Delegation,
    DelegationStatus,
    Grant,
    Held,
    Outcome,
    Secret,
    Session,
    TokenSet,
)
from tokenvault_sidecar.core.ports import DelegationRow, GrantRow, OutcomeRow, RevocationRow, SealedRecord

_FORMAT = b"\x01"
_NONCE = 12
_CONTEXTS = 1024
"""Whose row keys are kept at hand: a call needs its context's more than once."""


class UnknownDataKey(StoreUnavailable):
    """Sealed by a data key that is not here: a peer's new one perhaps, or one that was lost."""


class Keyring:
    """The opened keys: one index key, and data keys by id, of which the `active` one seals.

    `unsaved`: how many records the active key has sealed that the store has not counted yet.
    """

    def __init__(self, *, index_key: bytes, data_keys: Mapping[str, bytes], active: str) -> None:
        self.active = active
        self.unsaved = 0
        self._index = HMAC(index_key, SHA256())
        self._ciphers = {name: AESGCM(key) for name, key in data_keys.items()}
        self._head = self.head(active)

    def __repr__(self) -> str:
        return f"Keyring(active={self.active!r}, data_keys={sorted(self._ciphers)!r})"

    @staticmethod
    def head(name: str) -> bytes:
        """What the records begin with that this data key seals."""
        raw = name.encode()
        return _FORMAT + bytes([len(raw)]) + raw

    @property
    def data_keys(self) -> tuple[str, ...]:
        """The ids of the data keys, oldest first."""
        return tuple(self._ciphers)

    def replace(self, names: Sequence[str], added: Mapping[str, bytes]) -> None:
        """Have the data keys of these names, oldest first; `added` are the new ones. The last seals."""
        self._ciphers = {
            name: AESGCM(added[name]) if name in added else self._ciphers[name] for name in names
        }
        if names[-1] != self.active:
            self.active, self._head, self.unsaved = names[-1], self.head(names[-1]), 0

    def blind(self, plain: bytes) -> bytes:
        """HMAC-SHA-256 under the index key."""
        index = self._index.copy()
        index.update(plain)
        return index.finalize()

    def seal(self, plain: bytes, bound_to: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        self.unsaved += 1
        return self._head + nonce + self._ciphers[self.active].encrypt(nonce, plain, bound_to)

    def open(self, sealed: bytes, bound_to: bytes) -> bytes:
        """Raises KeyError for a data key that is not here, InvalidTag for a record that is not authentic."""
        if sealed[:1] != _FORMAT:
            raise InvalidTag
        end = 2 + sealed[1]
        cipher = self._ciphers[sealed[2:end].decode("ascii", "replace")]
        return cipher.decrypt(sealed[end : end + _NONCE], sealed[end + _NONCE :], bound_to)


class Sealer:
    """Turns the core's objects into a store's rows and back."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring
        self._grant_key = lru_cache(maxsize=_CONTEXTS)(partial(self._blind, "grant"))

    @property
    def active(self) -> str:
        """The id of the data key that seals."""
        return self.keyring.active

    def context_key(self, brand: str, context: Context) -> bytes:
        """The row key of a grant: 32 bytes, blind."""
        return self._grant_key(brand, context.kind.value, context.id)

    def state_key(self, state: Secret) -> bytes:
        """The row key of a pending delegation: its state's hash, 32 bytes."""
        return self._blind("delegation", state.reveal())

    def delegation_id(self, state: Secret) -> str:
        """A delegation's id: who has the state finds by it what became of the delegation."""
        return (
            base64.urlsafe_b64encode(self._blind("delegation id", state.reveal())[:16]).decode().rstrip("=")
        )

    def response_hash(self, state: Secret, code: Secret) -> bytes:
        """What is kept of an authorization response: 32 bytes, blind."""
        return self._blind("response", state.reveal(), code.reveal())

    def shown_code(self, response: bytes, *, digits: int) -> Secret:
        """The confirmation code for who showed the response of this hash, and for nobody else."""
        chance = int.from_bytes(self._blind("shown", response.hex()))
        return Secret(f"{chance % 10**digits:0{digits}}")

    def seal_grant(self, key: bytes, grant: Grant) -> bytes:
        return self._seal(_grant_record(grant), "grants", key, grant.brand, grant.kind, grant.tokens.version)

    def open_grant(self, row: GrantRow) -> Grant:
        """Raises StoreUnavailable for a row that is not authentic or whose data key is gone."""
        r = self._open(row.sealed, "grants", row.key, row.brand, row.kind, row.version)
        return _grant(r, row.brand, row.kind, row.version)

    def seal_delegation(self, state: Secret, delegation: Delegation) -> DelegationRow:
        key, context = self.state_key(state), delegation.context
        record = {
            "id": delegation.id,
            "ctx": context.id,
            "c": delegation.caller,
            "u": delegation.redirect_uri,
            "s": " ".join(delegation.scopes),
            "n": delegation.nonce.reveal(),
            "v": delegation.code_verifier.reveal(),
            "e": delegation.expires_at,
            "sub": delegation.expected_subject,
        }
        return DelegationRow(
            key=key,
            context_key=self.context_key(delegation.brand, context),
            brand=delegation.brand,
            kind=context.kind,
            expires_at=delegation.expires_at,
            sealed=self._seal(record, "delegations", key, delegation.brand, context.kind, ""),
        )

    def open_delegation(self, row: DelegationRow) -> Delegation:
        """Raises StoreUnavailable, as `open_grant`."""
        r = self._open(row.sealed, "delegations", row.key, row.brand, row.kind, "")
        return Delegation(
            id=r["id"],
            brand=row.brand,
            context=Context(row.kind, r["ctx"]),
            caller=r["c"],
            redirect_uri=r["u"],
            scopes=tuple(r["s"].split()),
            nonce=Secret(r["n"]),
            code_verifier=Secret(r["v"]),
            expires_at=r["e"],
            expected_subject=r["sub"],
        )

    def code_hash(self, delegation_id: str, code: Secret) -> bytes:
        """What is kept of a confirmation code: 32 bytes, blind."""
        return self._blind("confirmation", delegation_id, code.reveal())

    def seal_held(self, row: DelegationRow, held: Held) -> DelegationRow:
        """The delegation's row with this in it."""
        record = {
            "g": _grant_record(held.grant),
            "v": held.grant.tokens.version,
            "c": held.code.hex(),
            "q": held.revocations,
            "w": [code.hex() for code in held.tried],
        }
        return replace(row, sealed=self._seal(record, "delegations", row.key, row.brand, row.kind, ""))

    def open_held(self, row: DelegationRow) -> Held:
        """Raises StoreUnavailable, as `open_grant`."""
        r = self._open(row.sealed, "delegations", row.key, row.brand, row.kind, "")
        return Held(
            grant=_grant(r["g"], row.brand, row.kind, r["v"]),
            code=bytes.fromhex(r["c"]),
            revocations=tuple(r["q"]),
            tried=tuple(bytes.fromhex(code) for code in r["w"]),
        )

    def outcome_key(self, delegation_id: str) -> bytes:
        """The row key of a delegation's outcome: its id's hash, 32 bytes."""
        return self._blind("outcome", delegation_id)

    def seal_outcome(self, outcome: Outcome, *, purge_at: float) -> OutcomeRow:
        key, context, delegated = self.outcome_key(outcome.delegation_id), outcome.context, outcome.delegated
        record = {
            "id": outcome.delegation_id,
            "k": outcome.delegation_key.hex(),
            "ctx": context.id,
            "c": outcome.caller,
            "e": outcome.expires_at,
            "st": outcome.status,
            "why": outcome.reason,
            "d": delegated
            and [
                " ".join(delegated.scopes),
                delegated.subject,
                delegated.access_token_expires_at,
                delegated.session_ends_at,
            ],
            "u": _reveal(outcome.link),
            "w": outcome.wish and outcome.wish.hex(),
            "a": outcome.untold and outcome.untold.hex(),
        }
        return OutcomeRow(
            key=key,
            context_key=self.context_key(outcome.brand, context),
            brand=outcome.brand,
            kind=context.kind,
            purge_at=purge_at,
            sealed=self._seal(record, "outcomes", key, outcome.brand, context.kind, ""),
        )

    def open_outcome(self, row: OutcomeRow) -> Outcome:
        """Raises StoreUnavailable, as `open_grant`."""
        r = self._open(row.sealed, "outcomes", row.key, row.brand, row.kind, "")
        context = Context(row.kind, r["ctx"])
        delegated = None
        if r["d"]:
            scopes, subject, access_token_expires_at, session_ends_at = r["d"]
            delegated = Delegated(
                row.brand,
                context,
                tuple(scopes.split()),
                subject,
                access_token_expires_at,
                session_ends_at,
            )
        return Outcome(
            delegation_id=r["id"],
            delegation_key=bytes.fromhex(r["k"]),
            brand=row.brand,
            context=context,
            caller=r["c"],
            expires_at=r["e"],
            status=DelegationStatus(r["st"]),
            reason=r["why"] and Reason(r["why"]),
            delegated=delegated,
            link=_secret(r.get("u")),  # older records have none of these
            wish=bytes.fromhex(r["w"]) if r.get("w") else None,
            untold=bytes.fromhex(r["a"]) if r.get("a") else None,
        )

    def wish(self, *parts: str) -> bytes:
        """What tells requests for the same link from others: 32 bytes, blind."""
        return self._blind("wish", *parts)

    def seal_revocation(self, row_id: str, brand: str, token: Secret, hint: str) -> bytes:
        return self._seal({"t": token.reveal(), "h": hint}, "revocations", row_id.encode(), brand, "", "")

    def open_revocation(self, row: RevocationRow) -> tuple[Secret, str]:
        """The token and its type hint. Raises StoreUnavailable, as `open_grant`."""
        r = self._open(row.sealed, "revocations", row.id.encode(), row.brand, "", "")
        return Secret(r["t"]), r["h"]

    def reseal(self, record: SealedRecord) -> bytes:
        """The same record, sealed by the active data key. Raises StoreUnavailable, as `open_grant`."""
        place = (record.table, record.key, record.brand, record.kind, record.version)
        return self.keyring.seal(self._unseal(record.sealed, *place), _bound(*place))

    def _blind(self, *parts: str) -> bytes:
        return self.keyring.blind(_join(*(p.encode() for p in parts)))

    def _seal(
        self,
        record: Mapping[str, object],
        table: str,
        key: bytes,
        brand: str,
        kind: ContextKind | str,
        version: str,
    ) -> bytes:
        plain = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()
        return self.keyring.seal(plain, _bound(table, key, brand, kind, version))

    def _open(
        self, sealed: bytes, table: str, key: bytes, brand: str, kind: ContextKind | str, version: str
    ) -> dict[str, Any]:
        # Four times faster than the json module's. It must not keep the strings, which are secrets.
        opened: dict[str, Any] = from_json(
            self._unseal(sealed, table, key, brand, kind, version), cache_strings="keys"
        )
        return opened

    def _unseal(
        self, sealed: bytes, table: str, key: bytes, brand: str, kind: ContextKind | str, version: str
    ) -> bytes:
        try:
            return self.keyring.open(sealed, _bound(table, key, brand, kind, version))
        except KeyError:
            raise UnknownDataKey(
                f"a row of {table} of brand {brand!r} is sealed by a data key this store does not have: "
                "restore the keys table, or invalidate the context"
            ) from None
        except (InvalidTag, ValueError, IndexError):
            raise StoreUnavailable(
                f"a row of {table} of brand {brand!r} is not authentic: it was changed or moved; "
                "restore the file from a backup, or invalidate the context"
            ) from None


def _grant_record(grant: Grant) -> dict[str, object]:
    tokens, session = grant.tokens, grant.session
    return {
        "f": grant.family,
        "a": tokens.access_token.reveal(),
        "t": tokens.token_type,
        "s": " ".join(tokens.scopes),
        "i": tokens.issued_at,
        "e": tokens.expires_at,
        "r": _reveal(tokens.refresh_token),
        "d": _reveal(tokens.id_token),
        "de": tokens.id_token_expires_at,
        "sub": grant.subject,
        "ses": session and [session.absolute_end, session.idle, session.last_used_at],
        "end": grant.ends_at,
    }


def _grant(r: Mapping[str, Any], brand: str, kind: ContextKind, version: str) -> Grant:
    return Grant(
        brand=brand,
        kind=kind,
        family=r["f"],
        tokens=TokenSet(
            version=version,
            access_token=Secret(r["a"]),
            token_type=r["t"],
            scopes=tuple(r["s"].split()),
            issued_at=r["i"],
            expires_at=r["e"],
            refresh_token=_secret(r["r"]),
            id_token=_secret(r["d"]),
            id_token_expires_at=r["de"],
        ),
        subject=r["sub"],
        session=Session(*r["ses"]) if r["ses"] else None,
        ends_at=r["end"],
    )


def _bound(table: str, key: bytes, brand: str, kind: ContextKind | str, version: str) -> bytes:
    return _join(table.encode(), key, brand.encode(), kind.encode(), version.encode())


def _join(*parts: bytes) -> bytes:
    """Length-prefixed, so that no two lists of parts join to the same bytes."""
    return b"".join(len(p).to_bytes(4) + p for p in parts)


def _reveal(secret: Secret | None) -> str | None:
    return secret.reveal() if secret else None


def _secret(value: str | None) -> Secret | None:
    return Secret(value) if value is not None else None
