"""What a developer needs to start. Not for production."""

from tokenvault_sidecar.devkit.authority import DevelopmentCA, Issued
from tokenvault_sidecar.devkit.start import AlreadyThere, CannotWrite, Development, init

__all__ = ["DevelopmentCA", "Issued", "Development", "init", "AlreadyThere", "CannotWrite"]
