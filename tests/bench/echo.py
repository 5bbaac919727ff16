"""A server process that does nothing, on the sidecar's stack: `python -m tests.bench.echo CONFIG SIZE`.

The same transport, options and credentials, and a handler that answers any
request with `SIZE` bytes: what a call costs before the vault does anything.
"""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import uvloop

from tokenvault_sidecar.api.server import server_options
from tokenvault_sidecar.api.tls import TlsFiles, server_credentials
from tokenvault_sidecar.config import Config, load_config

METHOD = "/tokenvault.bench.Echo/Echo"


async def serve(config: Config, answer: bytes) -> None:
    """Serve until SIGTERM."""

    async def echo(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return answer

    _, service, name = METHOD.split("/")
    server = grpc.aio.server(options=server_options(config.server.connection_max_age))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {name: grpc.unary_unary_rpc_method_handler(echo)}),)
    )
    tls = TlsFiles(
        config.server.certificate_file, config.server.private_key_file.path, config.server.client_ca_file
    )
    port = server.add_secure_port("127.0.0.1:0", server_credentials(tls))
    await server.start()
    print(f"ready: listening on 127.0.0.1:{port}", flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(serve(load_config(Path(sys.argv[1])), bytes(int(sys.argv[2]))))
