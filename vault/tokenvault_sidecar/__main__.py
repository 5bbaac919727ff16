"""`python -m tokenvault_sidecar` is `tokenvault`."""

from tokenvault_sidecar.cli import main

main(prog_name="tokenvault")
