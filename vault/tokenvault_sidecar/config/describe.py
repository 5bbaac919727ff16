"""A configuration in words, for the one who wrote it."""

from collections.abc import Iterator

from tokenvault_sidecar.config.bearer import BearerTable
from tokenvault_sidecar.config.brands import BrandTable
from tokenvault_sidecar.config.callers import ANY, AllowTable
from tokenvault_sidecar.config.files import PrivateFile
from tokenvault_sidecar.config.schema import Config
from tokenvault_sidecar.config.values import format_duration


def describe(config: Config) -> str:
    """What was understood, without warnings. Holds no secret."""
    return "\n".join(_lines(config))


def _lines(config: Config) -> Iterator[str]:
    workers = f", by {config.server.workers} workers" if config.server.workers > 1 else ""
    yield f"Listens on {' and '.join(config.server.listen)}{workers}"
    if config.callback:
        yield f"Takes consumers back at {config.callback.path} on {config.callback.listen}"
    kek = config.keys.keks[0]
    by = kek.path if isinstance(kek, PrivateFile) else kek
    yield f"Keeps grants in {config.store.where}, sealed by {by}"
    if config.ops:
        yield f"Answers probes on {config.ops.listen}"
    if config.tracing:
        yield f"Sends traces to {config.tracing.endpoint}"
    if config.development:
        yield "Development: http to loopback addresses is allowed"
    yield "Brands"
    for brand, table in config.brands.items():
        yield f"  {brand}"
        yield from ("    " + line for line in _brand(table))
    yield "Callers"
    for name, caller in config.callers.items():
        yield f"  {name}: {', '.join(caller.identities)}"
        if caller.bearer:
            yield "    " + _bearer(caller.bearer)
        yield from ("    " + _allow(entry) for entry in caller.allow)


def _brand(table: BrandTable) -> Iterator[str]:
    how = "discovered" if table.discovers else "with the endpoints given here"
    yield f"authorization server {table.issuer}, {how}"
    yield f"client {table.client_id}, authenticates by {table.client_auth}"
    yield f"redirect URIs {' '.join(table.redirect_uris)}"
    if table.confirmation_code:
        yield "consumers confirm: what they delegate is locked until they type a code into the conversation"
    if consumer := table.consumer:
        absolute, idle = map(format_duration, (consumer.session_absolute, consumer.session_idle))
        yield f"consumer: asks for {' '.join(consumer.scopes)}; session {absolute} at most, {idle} idle"
    if conversation := table.conversation:
        lifetime = format_duration(conversation.max_lifetime)
        yield f"conversation: asks for {' '.join(conversation.scopes)}; kept {lifetime} at most"


def _bearer(table: BearerTable) -> str:
    bound = ", bound to its certificate" if table.require_certificate_binding else ""
    return (
        f"must show an access token of {table.issuer} for {table.audience} "
        f"with scope {' '.join(table.scopes)}{bound}"
    )


def _allow(entry: AllowTable) -> str:
    brands = "any brand" if entry.brands == (ANY,) else "brand " + ", ".join(entry.brands)
    scopes = "" if entry.scopes == (ANY,) else f", scopes {' '.join(entry.scopes)}"
    extras = ", id token" if entry.id_token else ""
    extras += ", keeps sessions alive" if entry.keeps_session_alive else ""
    return (
        f"may {', '.join(entry.rpcs)} on {' and '.join(entry.contexts)} contexts of {brands}{scopes}{extras}"
    )
