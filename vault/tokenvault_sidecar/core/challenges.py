"""What a challenge may ask for: the rules of StartDelegation. Each raises InvalidRequest or PolicyDenied."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenvault_sidecar.core.errors import InvalidRequest, PolicyDenied
from tokenvault_sidecar.core.model import Brand, Context

OPENID = "openid"


@dataclass(frozen=True, slots=True)
class DelegationRequest:
    """What StartDelegation asks for. No scopes, no redirect URI: the brand's own.

    `askable` are the scopes the caller may ask for, None any.
    """

    brand: str
    context: Context
    caller: str
    scopes: tuple[str, ...] = ()
    redirect_uri: str | None = None
    expected_subject: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    askable: frozenset[str] | None = None


def redirect_uri(brand: Brand, request: DelegationRequest) -> str:
    """The wanted one, or the brand's first."""
    wanted = request.redirect_uri or brand.redirect_uris[0]
    if wanted not in brand.redirect_uris:
        raise InvalidRequest("redirect_uri", f"is not one of the registered ones of brand {brand.id!r}")
    return wanted


def scopes(brand: Brand, request: DelegationRequest) -> tuple[str, ...]:
    """The wanted ones, or the brand's default."""
    settings = brand.contexts[request.context.kind]
    wanted = request.scopes or settings.scopes
    unknown = [s for s in wanted if s not in settings.allowed_scopes]
    if unknown:
        raise InvalidRequest(
            "scopes",
            f"brand {brand.id!r} is not configured with {' '.join(unknown)} for {request.context.kind}s",
        )
    if request.askable is not None and not request.askable.issuperset(wanted):
        raise PolicyDenied("the brand's default scopes are more than the caller's policy allows: name fewer")
    if request.expected_subject is not None and OPENID not in wanted:
        raise InvalidRequest("expected_subject", "needs the scope openid: without it no subject is told")
    return wanted


def parameters(brand: Brand, request: DelegationRequest) -> dict[str, str]:
    """The brand's, and the caller's over them."""
    foreign = sorted(request.parameters.keys() - brand.allowed_parameters)
    if foreign:
        raise InvalidRequest(
            "authorization_parameters", f"brand {brand.id!r} does not allow {', '.join(foreign)}"
        )
    return {**brand.authorization_parameters, **request.parameters}
