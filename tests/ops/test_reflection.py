"""A client that knows nothing but the address finds the service by reflection, and calls it."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import Parse
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.e2e.vaults import BOT, SERVICE, make_vault
from tests.running import SidecarProcess, caller_files
from tokenvault._connection import connection

NAME = "tokenvault.v1.TokenVault"


def _channel(sidecar: SidecarProcess, caller: str) -> grpc.Channel:
    made = connection(sidecar.address, **caller_files(sidecar.folder, caller), server_name=None)
    return grpc.secure_channel(made.address, made.credentials, options=made.options)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    brand = {
        "issuer": "http://127.0.0.1:9",
        "client_id": "vault",
        "client_auth": "none",
        "redirect_uris": ["http://127.0.0.1:9/callback"],
        "consumer": {"scopes": ["openid"]},
        "conversation": {"scopes": ["openid"]},
    }
    return make_vault(tmp_path / "vault", {"acme": brand})


def test_found_and_called(config: Path) -> None:
    with SidecarProcess(config) as sidecar, _channel(sidecar, BOT) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert NAME in database.get_services()
        service = DescriptorPool(database).FindServiceByName(NAME)
        method = service.methods_by_name["GetToken"]
        ask = Parse(
            '{"brandId": "acme", "context": {"consumer": {"consumerId": "c-1"}}}',
            GetMessageClass(method.input_type)(),
        )
        call: Any = channel.unary_unary(f"/{NAME}/GetToken")  # untyped as bytes
        with pytest.raises(grpc.RpcError) as error:
            call(ask.SerializeToString(), timeout=30)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_not_for_who_may_not(config: Path) -> None:
    with SidecarProcess(config) as sidecar, _channel(sidecar, SERVICE) as channel:
        with pytest.raises(grpc.RpcError) as error:
            ProtoReflectionDescriptorDatabase(channel).get_services()
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
