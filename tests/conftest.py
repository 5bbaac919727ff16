"""Fixtures that every test may use."""

pytest_plugins = ["tests.authserver.fixtures", "tests.postgres.fixtures"]
