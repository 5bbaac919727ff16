"""The sources of key-encryption keys, made once: a token is the process's, and moto is slow to start."""

from collections.abc import Iterator

import pytest

from tests.keys.sources import Sources, moto, softhsm_settings


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    folder = tmp_path_factory.mktemp("keks")
    with pytest.MonkeyPatch.context() as patch, moto() as url:
        patch.setenv("SOFTHSM2_CONF", str(softhsm_settings(folder)))
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "canary-aws-secret")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield Sources(folder, url)
