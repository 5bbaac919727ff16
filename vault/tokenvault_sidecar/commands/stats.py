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
    """Count what the store holds, and say how much memory the sidecar takes that serves it."""
    found = asyncio.run(_gather(load(file)))
    click.echo(as_json(found) if is_json else _in_lines(found))


async def _gather(config: Config) -> dict[str, Any]:
    import pysqlite3

    from tokenvault_sidecar.adapters.sqlite_inspection import look_at
    from tokenvault_sidecar.adapters.sqlite_schema import UnusableSchema
    from tokenvault_sidecar.commands.opening import opened

    path, now = config.store.path, time.time()
    try:
        # Before the store is opened here: then it would be us who have it open.
        file = look_at(path) if path.is_file() else None
    except (OSError, UnusableSchema, pysqlite3.Error) as problem:
        fail(f"{path}: {problem}")
    async with opened(config) as store:
        counts = await store.count(now)
        keys = await store.get_keys()
    assert file is not None
    return {
        "store": {
            "path": str(path),
            "schema": file.schema,
            "bytes": file.size,
            "write_ahead_log_bytes": file.log_size,
        },
        "process": {"pid": file.served_by, "resident_memory_bytes": file.memory},
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


def _in_lines(found: dict[str, Any]) -> str:
    store, process = found["store"], found["process"]
    memory = process["resident_memory_bytes"]
    lines = [
        ("store", f"{store['path']}, schema {store['schema']}"),
        ("size", f"{size(store['bytes'])}, write-ahead log {size(store['write_ahead_log_bytes'])}"),
        ("process", "none is known to have it open" if process["pid"] is None else str(process["pid"])),
        ("memory", "-" if memory is None else size(memory)),
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
