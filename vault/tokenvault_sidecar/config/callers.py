"""`[callers.NAME]`: who may do what."""

from typing import Annotated

from pydantic import AfterValidator, Field

from tokenvault_sidecar.config.access import LimitsTable
from tokenvault_sidecar.config.bearer import BearerTable
from tokenvault_sidecar.config.problems import reject
from tokenvault_sidecar.config.tables import Table
from tokenvault_sidecar.config.values import Distinct, Flag, Identity
from tokenvault_sidecar.core.model import ContextKind
from tokenvault_sidecar.core.policy import Allow, Caller, Rpc

ANY = "*"


def _any_alone(values: tuple[str, ...]) -> tuple[str, ...]:
    if ANY in values and len(values) > 1:
        raise reject('has "*" among others', 'keep either ["*"], which means any, or the others')
    return values


Wanted = Annotated[tuple[str, ...], Field(min_length=1), Distinct, AfterValidator(_any_alone)]


class AllowTable(Table):
    """Everything in an entry is allowed together; what no entry allows is refused."""

    rpcs: Annotated[tuple[Rpc, ...], Distinct] = Field(
        description="RPCs of the service; `Health` and `ServerReflection` are gRPC's own services.",
        min_length=1,
        examples=[["GetToken"]],
    )
    brands: Wanted = Field(description='Brand ids; `["*"]` for any.', examples=[["acme"]])
    contexts: Annotated[tuple[ContextKind, ...], Distinct] = Field(
        description="Kinds of context.", min_length=1, examples=[["consumer", "conversation"]]
    )
    scopes: Wanted = Field(
        default=(ANY,),
        description='Scopes it may ask for; `["*"]` for any the brand allows.',
        examples=[["orders:read"]],
    )
    id_token: Flag = Field(
        default=False, description="Whether it may read the id token of a consumer.", examples=[True]
    )
    keeps_session_alive: Flag = Field(
        default=False,
        description="Whether its reads count as use of the consumer's session (`session_idle`).",
        examples=[True],
    )

    def to_allow(self) -> Allow:
        """What the core knows of this entry."""
        return Allow(
            rpcs=frozenset(self.rpcs),
            brands=_any_or(self.brands),
            contexts=frozenset(self.contexts),
            scopes=_any_or(self.scopes),
            id_token=self.id_token,
            keeps_session_alive=self.keeps_session_alive,
        )


class CallerTable(Table):
    """A workload that may call. Its name is for logs."""

    identities: Annotated[tuple[Identity, ...], Distinct] = Field(
        description="What its certificates show: a SPIFFE ID (URI name), else a DNS name in lower case. "
        "A SPIFFE ID that ends in `/*` stands for all below that path. No two callers share one.",
        min_length=1,
        examples=[["spiffe://example.org/bot"]],
    )
    bearer: BearerTable | None = None
    allow: tuple[AllowTable, ...] = Field(min_length=1)
    limits: LimitsTable | None = None

    def to_caller(self, name: str) -> Caller:
        """What the core knows of this caller."""
        return Caller(
            name=name,
            identities=frozenset(self.identities),
            allows=tuple(entry.to_allow() for entry in self.allow),
        )


def _any_or(values: tuple[str, ...]) -> frozenset[str] | None:
    return None if values == (ANY,) else frozenset(values)
