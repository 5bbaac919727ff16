"""The configuration file: one TOML file, strictly checked. docs/configuration.md has every key."""

from tokenvault_sidecar.config.bearer import BearerTable
from tokenvault_sidecar.config.brands import BrandTable
from tokenvault_sidecar.config.describe import describe
from tokenvault_sidecar.config.load import load_config, load_fixed, load_ops, to_toml
from tokenvault_sidecar.config.problems import ConfigError, Problem
from tokenvault_sidecar.config.schema import FIXED, Config

__all__ = [
    "load_config",
    "load_fixed",
    "load_ops",
    "FIXED",
    "Config",
    "BearerTable",
    "BrandTable",
    "ConfigError",
    "Problem",
    "describe",
    "to_toml",
]
