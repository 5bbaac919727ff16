import pytest

# Their asserts then say what differs, as a test module's own do.
pytest.register_assert_rewrite("tests.adapters.store_conformance", "tests.adapters.oauth_world")
