"""`tokenvault stats`: how much there is in the store, what is waiting, and what serves it."""

import asyncio
import time
from pathlib import Path
from typing import Any

import click

from tokenvault_sidecar.commands.shared import config_option, fail, load
from tokenvault_sidecar.commands.shown import as_json, moment, size
from tokenvault_sidecar.config import Config


@click.command()
@config_option
@click.option("--json", "is_json", is_flag=True, help="As one JSON object.")
def stats(file: Path, is_json: bool) -> None:
    """Count what the store holds; of a file, say how much memory the sidecar takes that serves it."""
    found = asyncio.run(_gather(load(file)))
    click.echo(as_json(found) if is_json else _in_lines(found))


async def _gather(config: Config) -> dict[str, Any]:
    from tokenvault_sidecar.commands.opening import opened

    now = time.time()
    about = {} if config.store.url else _about_file(config.store.file)
    async with opened(config) as store:
        counts = await store.count(now)
        keys = await store.get_keys()
        about = about or {
            "store": {
                "url": config.store.where,
                "schema": await store.schema_version(),
                "bytes": await store.size(),
            }
        }
    return {
        **about,
        "grants": [
            {"brand": brand, "kind": kind.value, "count": number}
            for (brand, kind), number in sorted(counts.grants.items())
        ],
        "ambiguous_grants": counts.ambiguous,
        "due_renewals": counts.due,
        "pending_delegations": counts.delegations,
        "waiting_revocations": counts.revocations,
        "keys": [
            {
                "id": key.id,
                "purpose": key.purpose,
                "kek": key.kek,
                "created_at": moment(key.created_at),
                "age_seconds": round(now - key.created_at),
            }
            for key in keys
        ],
    }


def _about_file(path: Path) -> dict[str, Any]:
    """What only this machine knows. Before the store is opened here: then it would be us who have it open."""
    import pysqlite3

    from tokenvault_sidecar.adapters.sqlite_inspection import look_at
    from tokenvault_sidecar.adapters.sqlite_schema import UnusableSchema

    if not path.is_file():  # what opening it says
        return {}
    try:
        file = look_at(path)
    except (OSError, UnusableSchema, pysqlite3.Error) as problem:
        fail(f"{path}: {problem}")
    return {
        "store": {
            "path": str(path),
            "schema": file.schema,
            "bytes": file.size,
            "write_ahead_log_bytes": file.log_size,
        },
        "process": {"pid": file.served_by, "resident_memory_bytes": file.memory},
    }


def _in_lines(found: dict[str, Any]) -> str:
    lines = [
        *(_of_file(found) if "process" in found else _of_database(found["store"])),
        ("grants", str(sum(row["count"] for row in found["grants"]))),
        *((f"  {row['brand']} {row['kind']}", str(row["count"])) for row in found["grants"]),
        ("ambiguous grants", str(found["ambiguous_grants"])),
        ("due renewals", str(found["due_renewals"])),
        ("pending delegations", str(found["pending_delegations"])),
        ("waiting revocations", str(found["waiting_revocations"])),
        *(
            (
                f"{key['purpose']} key",
                f"{key['id']}, {key['age_seconds'] / 86400:.1f} days, by KEK {key['kek']}",
            )
            for key in found["keys"]
        ),
    ]
    return "\n".join(f"{name:<28} {value}" for name, value in lines)


def _of_file(found: dict[str, Any]) -> list[tuple[str, str]]:
    store, process = found["store"], found["process"]
    memory = process["resident_memory_bytes"]
    return [
        ("store", f"{store['path']}, schema {store['schema']}"),
        ("size", f"{size(store['bytes'])}, write-ahead log {size(store['write_ahead_log_bytes'])}"),
        ("process", "none is known to have it open" if process["pid"] is None else str(process["pid"])),
        ("memory", "-" if memory is None else size(memory)),
    ]


def _of_database(store: dict[str, Any]) -> list[tuple[str, str]]:
    return [("store", f"{store['url']}, schema {store['schema']}"), ("size", size(store["bytes"]))]
