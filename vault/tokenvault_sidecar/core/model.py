"""The things the vault is about. Times are seconds since the epoch, spans seconds."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tokenvault_sidecar.core.errors import Reason


class Secret:
    """A value no log, error or repr shows. Opening one is visible in the code: `.reveal()`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    __hash__ = None  # type: ignore[assignment]  # a secret is no key

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a Secret is not pickled: seal it")


class ContextKind(StrEnum):
    """Whose tokens: a consumer's, or one conversation's."""

    CONSUMER = "consumer"
    CONVERSATION = "conversation"


@dataclass(frozen=True, slots=True)
class Context:
    """A consumer id or a conversation id, within a brand. The id is personal data: not in the repr."""

    kind: ContextKind
    id: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenSet:
    """What one answer of the authorization server gave (RFC 6749 section 5.1).

    `version` names it: opaque, changes with every new set. `expires_at` None
    means the server did not say: use the token until it is rejected.
    """

    version: str
    access_token: Secret
    token_type: str
    scopes: tuple[str, ...]
    issued_at: float
    expires_at: float | None
    refresh_token: Secret | None = None
    id_token: Secret | None = None
    id_token_expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """How long a consumer grant may be renewed: an absolute end, and an idle limit from the last use."""

    absolute_end: float
    idle: float
    last_used_at: float

    @property
    def ends_at(self) -> float:
        return min(self.absolute_end, self.last_used_at + self.idle)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a completed delegation leaves.

    `family` names the delegation all its token sets descend from: two sets of
    one family share a refresh token lineage at the authorization server.
    A consumer grant has a `session`; a conversation grant has `ends_at`, no
    refresh token, no id token and no subject.
    """

    brand: str
    kind: ContextKind
    family: str
    tokens: TokenSet
    subject: str | None = field(default=None, repr=False)
    session: Session | None = None
    ends_at: float | None = None

    @property
    def life_ends_at(self) -> float | None:
        """When the grant is over whatever its token says; None: never by itself."""
        return self.session.ends_at if self.session else self.ends_at

    @property
    def usable_until(self) -> float | None:
        """When the access token must not be served any more; None: unknown."""
        token_end, life_end = self.tokens.expires_at, self.life_ends_at
        if token_end is None or life_end is None:
            return life_end if token_end is None else token_end
        return min(token_end, life_end)


@dataclass(frozen=True, slots=True)
class Delegation:
    """A pending challenge, from StartDelegation to CompleteDelegation."""

    id: str
    brand: str
    context: Context
    caller: str
    redirect_uri: str
    scopes: tuple[str, ...]
    nonce: Secret
    code_verifier: Secret
    expires_at: float
    expected_subject: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The code that the consumer is shown, to be typed into the conversation."""

    code: Secret
    expires_at: float


@dataclass(frozen=True, slots=True)
class Held:
    """A grant that waits for its consumer to bring the code; `code` and `tried`, the wrong ones, are hashes.

    `revocations` are the ids of those that wait to be taken back then.
    """

    grant: Grant
    code: bytes = field(repr=False)
    revocations: tuple[str, ...]
    tried: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Delegated:
    """What the consumer has delegated: under lock, where `confirmation` is there.

    `told`: of one telling, by which it is known again where that was not heard.
    """

    brand: str
    context: Context
    scopes: tuple[str, ...]
    subject: str | None = field(repr=False)
    access_token_expires_at: float | None
    session_ends_at: float | None
    confirmation: Confirmation | None = None
    told: bytes | None = field(default=None, repr=False, compare=False)


class DelegationStatus(StrEnum):
    """How a delegation stands."""

    PENDING = "PENDING"
    AWAITING_CONFIRMATION = "AWAITING_CONFIRMATION"
    COMPLETED = "COMPLETED"
    DENIED = "DENIED"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"

    @property
    def is_final(self) -> bool:
        """Nothing more comes of it."""
        return self not in (DelegationStatus.PENDING, DelegationStatus.AWAITING_CONFIRMATION)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a delegation so far; it outlives the delegation.

    `delegation_key` is the delegation's row key. `reason` goes with DENIED
    and FAILED, `delegated` with COMPLETED. `link` is that of a pending one
    which may be given again to who asks for the same, which `wish` tells.
    `expires_at` is the link's end; the confirmation code's, where one was shown.
    `untold` is the hash of the response that led here until who shows it is told.
    """

    delegation_id: str
    delegation_key: bytes
    brand: str
    context: Context
    caller: str
    expires_at: float
    status: DelegationStatus = DelegationStatus.PENDING
    reason: Reason | None = None
    delegated: Delegated | None = None
    link: Secret | None = None
    wish: bytes | None = field(default=None, repr=False)
    untold: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """A brand's settings for one kind of context; the brand lacks the kind where it has none.

    `scopes` are asked for by default; `allowed_scopes` is all a caller may ask
    for. Consumer: `session_absolute` and `session_idle`. Conversation:
    `max_lifetime`, the longest an access token is kept.
    """

    scopes: tuple[str, ...]
    allowed_scopes: frozenset[str]
    session_absolute: float = 0.0
    session_idle: float = 0.0
    max_lifetime: float = 0.0


@dataclass(frozen=True, slots=True)
class Brand:
    """A configured tenant: one OAuth client registration at the brand's authorization server.

    `confirms`: a grant is locked until its consumer brings the code they were shown.
    """

    id: str
    redirect_uris: tuple[str, ...]
    contexts: Mapping[ContextKind, ContextSettings]
    delegation_lifetime: float = 600.0
    renewal_margin: float = 60.0
    authorization_parameters: Mapping[str, str] = field(default_factory=dict)
    allowed_parameters: frozenset[str] = frozenset()
    confirms: bool = False
