"""The groups of the `tokenvault` command, a module each; cli.py puts them together."""
