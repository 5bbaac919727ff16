"""`tokenvault grants`: what is known of grants, but for what is secret or names people; and their end."""

import asyncio
from pathlib import Path
from typing import Any

import click

from tokenvault_sidecar.commands.shared import config_option, confirm, fail, load, yes_option
from tokenvault_sidecar.commands.shown import as_json, moment
from tokenvault_sidecar.config import Config
from tokenvault_sidecar.core.administration import GrantFacts
from tokenvault_sidecar.core.model import Context, ContextKind

_COLUMNS = "{:<12}  {:<16}  {:<12}  {:<22}  {:<20}  {:<20}  {:<20}  {:<20}  {:<9}  {}"
_TITLES = (
    "KEY", "BRAND", "KIND", "VERSION", "ISSUED", "EXPIRES", "ENDS", "RENEW AT", "ATTEMPTS", "SCOPES",
)  # fmt: skip

_one_brand = click.option("--brand", metavar="BRAND", required=True, help="The brand.")
_any_brand = click.option("--brand", metavar="BRAND", help="This brand only.")
_consumer = click.option("--consumer", metavar="ID", help="This consumer.")
_conversation = click.option("--conversation", metavar="ID", help="This conversation.")
_json = click.option("--json", "is_json", is_flag=True, help="One JSON object a line.")


@click.group()
def grants() -> None:
    """Grants: metadata only, never a token, a subject or an id. The sidecar may run meanwhile."""


@grants.command("list")
@config_option
@_any_brand
@_consumer
@_conversation
@_json
def list_(
    file: Path, brand: str | None, consumer: str | None, conversation: str | None, is_json: bool
) -> None:
    """List all grants, or those of a brand, a consumer or a conversation."""
    config = load(file)
    context = _context(consumer, conversation) if consumer or conversation else None
    asyncio.run(_list(config, brand, context, is_json=is_json))


@grants.command()
@config_option
@_one_brand
@_consumer
@_conversation
@_json
def show(file: Path, brand: str, consumer: str | None, conversation: str | None, is_json: bool) -> None:
    """Show the grant of one consumer or conversation."""
    context = _context(consumer, conversation)
    facts = asyncio.run(_find(load(file), brand, context))
    if facts is None:
        fail(f"brand {brand!r} has no grant for this {context.kind}")
    click.echo(as_json(_json_of(facts)) if is_json else _in_lines(facts))


@grants.command()
@config_option
@_one_brand
@_consumer
@_conversation
@click.option("--all", "is_all", is_flag=True, help="All grants and pending delegations of the brand.")
@yes_option
def invalidate(
    file: Path, brand: str, consumer: str | None, conversation: str | None, is_all: bool, yes: bool
) -> None:
    """Delete grants, void pending delegations, and queue the tokens for revocation by the sidecar."""
    config = load(file)
    if brand not in config.brands:
        click.echo(f"warning: brand {brand!r} is not configured: its tokens cannot be revoked", err=True)
    if is_all:
        if consumer or conversation:
            raise click.UsageError("give --all, --consumer or --conversation: one of them")
        confirm(f"Invalidate all grants and pending delegations of brand {brand!r}?", yes=yes)
        click.echo(f"{asyncio.run(_invalidate_all(config, brand))} grants invalidated")
        return
    context = _context(consumer, conversation)
    confirm(f"Invalidate the grant of this {context.kind} at brand {brand!r}?", yes=yes)
    found = asyncio.run(_invalidate(config, brand, context))
    click.echo("1 grant invalidated" if found else "there was no grant; pending delegations are void")


def _context(consumer: str | None, conversation: str | None) -> Context:
    if bool(consumer) == bool(conversation):
        raise click.UsageError("give --consumer or --conversation: one of them")
    if consumer:
        return Context(ContextKind.CONSUMER, consumer)
    return Context(ContextKind.CONVERSATION, conversation or "")


async def _list(config: Config, brand: str | None, context: Context | None, *, is_json: bool) -> None:
    from tokenvault_sidecar.commands.opening import administration

    if not is_json:
        click.echo(_COLUMNS.format(*_TITLES))
    async with administration(config) as admin:
        if context is None:
            async for facts in admin.grants(brand):
                click.echo(as_json(_json_of(facts)) if is_json else _in_columns(facts))
            return
        for name in [brand] if brand else list(config.brands):
            if found := await admin.grant(name, context):
                click.echo(as_json(_json_of(found)) if is_json else _in_columns(found))


async def _find(config: Config, brand: str, context: Context) -> GrantFacts | None:
    from tokenvault_sidecar.commands.opening import administration

    async with administration(config) as admin:
        return await admin.grant(brand, context)


async def _invalidate(config: Config, brand: str, context: Context) -> bool:
    from tokenvault_sidecar.commands.opening import administration

    async with administration(config) as admin:
        return await admin.invalidate(brand, context)


async def _invalidate_all(config: Config, brand: str) -> int:
    from tokenvault_sidecar.commands.opening import administration

    async with administration(config) as admin:
        return await admin.invalidate_all(brand)


def _json_of(facts: GrantFacts) -> dict[str, Any]:
    attempt = facts.attempt
    return {
        "key": facts.key,
        "brand": facts.brand,
        "kind": facts.kind.value,
        "token_version": facts.version,
        "readable": facts.readable,
        "issued_at": moment(facts.issued_at),
        "expires_at": moment(facts.expires_at),
        "ends_at": moment(facts.ends_at),
        "renews": facts.renews,
        "renew_at": moment(facts.renew_at),
        "attempt": {
            "under_way": attempt.leased,
            "unanswered": attempt.unanswered,
            "failures": attempt.failures,
            "retry_at": moment(attempt.retry_at),
            "reason": attempt.reason,
        },
        "scopes": list(facts.scopes),
    }


def _in_columns(facts: GrantFacts) -> str:
    attempt = facts.attempt
    times = (facts.issued_at, facts.expires_at, facts.ends_at, facts.renew_at)
    return _COLUMNS.format(
        facts.key[:12],
        facts.brand,
        facts.kind,
        facts.version,
        *(moment(time) or "-" for time in times),
        f"{attempt.unanswered}+{attempt.failures}",
        " ".join(facts.scopes) if facts.readable else "(does not open)",
    )


def _in_lines(facts: GrantFacts) -> str:
    lines = []
    for name, value in _json_of(facts).items():
        shown = " ".join(value) if isinstance(value, list) else value
        inside = value.items() if isinstance(value, dict) else ((None, shown),)
        lines += [f"{f'{name} {part}' if part else name:<20} {'-' if v is None else v}" for part, v in inside]
    return "\n".join(lines)
