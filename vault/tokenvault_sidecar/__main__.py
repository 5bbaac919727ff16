"""`tokenvault`, and `python -m tokenvault_sidecar`."""

import gc
import sys

# Together a fifth of the time to start. What is imported stays: there is nothing for the collector to find.
# And structlog brings in whatever draws tracebacks, where it is installed: ours draws none.
gc.set_threshold(200_000)
sys.modules["rich"] = None  # type: ignore[assignment]  # it cannot be imported

from tokenvault_sidecar.cli import main  # noqa: E402

__all__ = ["main"]

if __name__ == "__main__":
    main(prog_name="tokenvault")
