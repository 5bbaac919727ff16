"""What a developer needs to start. Not for production."""

from tokenvault_sidecar.devkit.authority import DevelopmentCA, Issued
from tokenvault_sidecar.devkit.start import AlreadyThere, CannotWrite, Development, init, render_config

__all__ = ["DevelopmentCA", "Issued", "Development", "init", "render_config", "AlreadyThere", "CannotWrite"]
