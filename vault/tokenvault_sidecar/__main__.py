"""`tokenvault`, and `python -m tokenvault_sidecar`."""

import gc

# A tenth of the time to start: what is imported stays, so there is little to collect.
gc.set_threshold(200_000)

from tokenvault_sidecar.cli import main  # noqa: E402

__all__ = ["main"]

if __name__ == "__main__":
    main(prog_name="tokenvault")
