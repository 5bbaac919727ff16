"""What the core asks of the world. Adapters implement these; tests/fakes has stateful fakes.

Stores see sealed records only: their plain columns are what queries need.
Times are seconds since the epoch, spans seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tokenvault_sidecar.core.model import ContextKind, Secret

Clock = Callable[[], float]
"""The time now, in seconds since the epoch. Read once per request."""


class Events(Protocol):
    """Where the core tells what it did, for logs and metrics. Facts are never secrets or ids of people."""

    def __call__(self, event: str, /, **facts: str | int | float) -> None:
        """Note that `event` happened. Must not raise."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How renewing a row's token version stands.

    `leased`: somebody is redeeming its refresh token now, by the store's own
    clock. `unanswered`: redemptions begun of which no answer is known, the
    one under way included. `failures` in a row; not again before `retry_at`;
    `reason` is the last failure's.
    """

    leased: bool = False
    unanswered: int = 0
    failures: int = 0
    retry_at: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class GrantRow:
    """A grant as a store holds it. `key` is the blind row key, 32 bytes."""

    key: bytes
    brand: str
    kind: ContextKind
    version: str
    sealed: bytes = field(repr=False)
    purge_at: float
    renew_at: float | None = None
    attempt: Attempt = Attempt()


@dataclass(frozen=True, slots=True)
class DelegationRow:
    """A delegation, pending or held; `key` is its state's hash, `context_key` its context's row key."""

    key: bytes
    context_key: bytes
    brand: str
    kind: ContextKind
    expires_at: float
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """What became of a delegation; `key` is its id's hash. Deleted after `purge_at`."""

    key: bytes
    context_key: bytes
    brand: str
    kind: ContextKind
    purge_at: float
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Completion:
    """The delegation that a grant completes, and what becomes true with that.

    Only while the delegation of this `key` is taken, and sealed as it `was`
    where that is given; and while `revocations`, ids, wait untried. In the
    same transaction it is deleted, they are, and `outcome` is written.
    """

    key: bytes
    outcome: OutcomeRow | None = None
    was: bytes | None = None
    revocations: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class RevocationRow:
    """A token waiting to be revoked (RFC 7009). `id` is random; `tries` so far; not before `due_at`."""

    id: str
    brand: str
    due_at: float
    give_up_at: float
    sealed: bytes = field(repr=False)
    tries: int = 0


SEALED_HEAD = 10
"""Bytes that every sealed record begins with, and that name its data key."""


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """A record of any table, and what its seal is bound to. `key` is its row's; of a revocation, its id."""

    table: str
    key: bytes
    brand: str
    kind: str
    version: str
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A key in the store, wrapped by the KEK of the fingerprint `kek`. `purpose` is "data" or "index".

    `seals`: about how many records were ever sealed by it.
    """

    id: str
    purpose: str
    kek: str
    wrapped: bytes = field(repr=False)
    created_at: float
    seals: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rows a store has: grants by brand and kind, and of all.

    `ambiguous` grants have an unanswered redemption; `due` ones may be renewed now.
    `revocations` are those that were due at least once.
    """

    grants: Mapping[tuple[str, ContextKind], int]
    ambiguous: int
    due: int
    delegations: int
    revocations: int


@dataclass(frozen=True, slots=True)
class Stock:
    """What a store holds. Grants by brand and kind, the earliest renewal due by brand."""

    grants: Mapping[tuple[str, str], int]
    next_due: Mapping[str, float]
    revocations: int
    data_key_created: float | None


class Store(Protocol):
    """Where rows live. What a method has returned from is durable.

    Every method raises StoreUnavailable where the store cannot be read or
    written. It has then changed nothing; or, where a connection broke while
    it was committing, perhaps all.
    """

    async def get_grant(self, key: bytes) -> GrantRow | None:
        """The row, or None."""

    async def put_grant(
        self,
        row: GrantRow,
        *,
        replaces: str | None,
        owner: str | None = None,
        completes: Completion | None = None,
    ) -> bool:
        """Write the row, and drop any lease: it replaces the row of token version `replaces`.

        `replaces` None: only where no row is there. With `owner`: only while
        that lease is still the row's. The row's own version may be the old
        one. `row.attempt.leased` is not written. False: not the row, the
        lease or what is completed that was expected, nothing written.
        """

    async def touch_grant(self, row: GrantRow, *, was: bytes | None = None) -> bool:
        """Write `sealed`, `purge_at` and `renew_at` where the version still is this; attempt and lease stay.

        With `was`: only while the row is sealed so still. False: not that row, nothing written.
        """

    async def forget_context(
        self,
        key: bytes,
        *,
        version: str | None,
        was: bytes | None = None,
        revocations: Sequence[RevocationRow] = (),
        voids: bool = True,
    ) -> bool:
        """In one transaction: delete the grant, void the context's delegations, queue the revocations.

        With the delegations go their outcomes; both stay where `voids` is False.

        `version` None: only where no grant is there (delegations are voided).
        With `was`: only while the row is sealed so still. False: not the row
        that was expected, nothing written.
        """

    async def acquire_lease(
        self,
        key: bytes,
        *,
        version: str,
        unanswered: int,
        owner: str,
        seconds: float,
        was: bytes | None = None,
    ) -> bool:
        """Lease the row for `seconds` of the store's own clock, and count one more unanswered.

        `owner` names this one lease. False where the row is leased, gone, of
        another version, not sealed as it `was` where that is given, or its
        attempt no longer has this many `unanswered`.
        """

    async def release_lease(self, key: bytes, *, owner: str, attempt: Attempt) -> bool:
        """End this lease and write the attempt's other fields. False where it is the row's lease no more."""

    async def due_grants(self, now: float, *, brand: str, limit: int) -> Sequence[GrantRow]:
        """Rows of the brand to renew; soonest due first.

        `renew_at` and `retry_at` past, not leased, and nothing unanswered:
        what is ambiguous is not for the background.
        """

    async def ended_grants(self, now: float, *, limit: int) -> Sequence[GrantRow]:
        """Rows whose `purge_at` is past; soonest first."""

    async def grants_after(self, key: bytes, *, brand: str | None, limit: int) -> Sequence[GrantRow]:
        """Rows with greater keys, of the brand where one is given, in the keys' order."""

    async def count(self, now: float) -> Counts:
        """How many rows there are. Looks at all of them: not for an event loop that serves."""

    async def put_delegation(self, row: DelegationRow, outcome: OutcomeRow | None = None) -> None:
        """Keep a pending delegation, and its outcome so far."""

    async def get_delegation(self, key: bytes) -> DelegationRow | None:
        """The row, or None; one that is taken is not to be seen."""

    async def take_delegation(self, key: bytes) -> int | None:
        """Take the row: the name of this taking for exactly one of all who do, for the others None.

        It stays, unseen, until completed or voided.
        """

    async def get_taken(self, key: bytes) -> DelegationRow | None:
        """The row where it is taken, else None."""

    async def change_taken(
        self,
        row: DelegationRow,
        *,
        was: bytes,
        outcome: OutcomeRow | None = None,
        revocations: Sequence[RevocationRow] = (),
    ) -> bool:
        """Write `sealed` and `expires_at` while the row is taken and sealed as it `was`; then it is held.

        In the same transaction write the outcome, and queue the revocations.
        False: not that row, nothing written.
        """

    async def end_taken(self, row: DelegationRow, *, outcome: OutcomeRow) -> bool:
        """Delete the row while it is taken and sealed so still, and write the outcome.

        False: not that row, nothing written.
        """

    async def give_back_delegation(self, key: bytes, taker: int) -> bool:
        """Undo this taking of the row. False where it is not there, not taken so, or held."""

    async def purge_delegations(self, now: float, *, taken: float) -> int:
        """Delete the rows that expired before `now`, how many; and outcomes whose `purge_at` was.

        Those that are taken and not held: only where they expired before `taken`.
        """

    async def get_outcome(self, key: bytes) -> OutcomeRow | None:
        """The row, or None."""

    async def latest_outcomes(self, context_key: bytes, *, after: float, limit: int) -> Sequence[OutcomeRow]:
        """The context's rows whose `purge_at` is after this; the latest first."""

    async def set_outcome(self, row: OutcomeRow) -> bool:
        """Write the row where one of its key is there. False: none is, nothing written."""

    async def void_delegations(self, *, brand: str) -> int:
        """Delete the brand's rows, taken or not, how many; and their outcomes."""

    async def add_revocations(self, rows: Sequence[RevocationRow]) -> None:
        """Queue tokens for revocation."""

    async def due_revocations(self, now: float, *, limit: int) -> Sequence[RevocationRow]:
        """Rows whose `due_at` is past; soonest first."""

    async def postpone_revocation(self, row_id: str, *, tries: int, due_at: float) -> bool:
        """Write `tries` and `due_at` where the row has one try less: True for exactly one who does so."""

    async def drop_revocation(self, row_id: str) -> None:
        """Delete the row, if it is there."""

    async def get_keys(self) -> Sequence[WrappedKey]:
        """All keys, oldest first."""

    async def add_keys(self, keys: Sequence[WrappedKey], *, first: bool) -> bool:
        """Add keys, all or none. With `first`: only where the store holds nothing yet, else False."""

    async def add_data_key(self, key: WrappedKey, *, after: str) -> bool:
        """Add a data key, only where `after` is the newest one, wrapped by the same KEK; else False."""

    async def rewrap_keys(self, keys: Sequence[WrappedKey], *, were: Sequence[WrappedKey]) -> bool:
        """In one transaction: write each key's `kek` and `wrapped`.

        Only where the store's keys are `were`, wrapped so still. False: they are not, nothing written.
        """

    async def drop_data_key(self, key_id: str, *, head: bytes) -> bool:
        """Delete the data key, only where no record begins with `head`. False: one does, or it is gone."""

    async def count_seals(self, key_id: str, more: int) -> None:
        """Add to the key's `seals`, where it is there."""

    async def sealed_records(self, head: bytes, *, limit: int) -> Sequence[SealedRecord]:
        """Records of every table that begin with `head`, in an order that stays."""

    async def count_sealed(self, head: bytes) -> int:
        """How many records begin with `head`."""

    async def reseal(self, records: Sequence[tuple[SealedRecord, bytes]]) -> int:
        """Write the new seal of each record that is sealed so still; how many were. Nothing else changes."""

    async def close(self) -> None:
        """Commit what is under way and let go of the file or server."""


class Keys(Protocol):
    """The store's keys, opened by the KEK. Raises StoreUnavailable where store or KEK cannot be used."""

    async def refresh(self) -> None:
        """Have the keys that are in the store now: the newest data key seals from here on."""

    async def add(self, now: float, *, after: str) -> bool:
        """Add a data key after this one; it seals from here on. False: a peer was faster, its key does."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What an authorization server says of itself (RFC 8414, RFC 9207), or its configuration does."""

    issuer: str
    sends_iss: bool
    revokes: bool


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """What the consumer's browser takes to the authorization endpoint (RFC 6749 section 4.1.1, RFC 7636)."""

    redirect_uri: str
    scopes: tuple[str, ...]
    state: Secret
    nonce: Secret
    code_challenge: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IdClaims:
    """What a verified id token says."""

    subject: str
    expires_at: float


TokenAnswer = Mapping[str, object]
"""The JSON object of a 200 from the token endpoint, not looked at yet. Full of secrets: never logged."""


class AuthorizationServer(Protocol):
    """A brand's OAuth 2.0 server, as this client sees it.

    Raises ServerUnavailable (did not act: asking again is safe), AnswerLost
    (may have acted), ServerMisconfigured, and where said InvalidGrant. No
    call takes longer than its deadline, in seconds.
    """

    @property
    def facts(self) -> ServerFacts | None:
        """What is known of the server without asking it; None before the first `prepare`."""

    async def prepare(self, *, keys: bool = False) -> ServerFacts:
        """Have the metadata at hand, and with `keys` the signing keys, fetched where not cached."""

    async def authorization_url(self, request: AuthorizationRequest) -> str:
        """The link for the consumer's browser."""

    async def exchange(self, code: Secret, *, redirect_uri: str, code_verifier: Secret) -> TokenAnswer:
        """Redeem an authorization code (RFC 6749 section 4.1.3). Raises InvalidGrant where it is refused."""

    async def refresh(self, refresh_token: Secret) -> TokenAnswer:
        """Redeem a refresh token (RFC 6749 section 6). Raises InvalidGrant where it is refused."""

    async def revoke(self, token: Secret, *, hint: str) -> None:
        """Revoke a token (RFC 7009); `hint` is "access_token" or "refresh_token"."""

    async def verify_id_token(self, id_token: Secret, *, nonce: Secret | None, now: float) -> IdClaims:
        """Verify an id token (OpenID Connect Core 3.1.3.7, 12.2). Raises InvalidIdToken."""


class Audit(Protocol):
    """Where decisions are recorded."""

    def write(self, facts: Mapping[str, object]) -> None:
        """Record one. Raises StoreUnavailable where it cannot, and nothing may leave unrecorded."""


class Bearer(Protocol):
    """How a caller's OAuth 2.0 access token is verified (RFC 9068), beside its certificate."""

    async def verify(self, authorization: Sequence[str | bytes], certificate: bytes) -> None:
        """Verify what the call's `authorization` metadata shows, every value of it.

        `certificate` is the caller's, PEM. Raises BearerInvalid; and where its keys
        were never had, ServerUnavailable or ServerMisconfigured.
        """
