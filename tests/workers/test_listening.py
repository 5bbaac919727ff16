"""A port that is held for workers: theirs, and nobody else's."""

import socket

import pytest

from tokenvault_sidecar.listening import CannotListen, HeldPort, split_address


def _listening(address: str, *, shared: bool) -> socket.socket:
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    one = socket.socket(family)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        one.bind((host.strip("[]"), port))
        one.listen()
    except BaseException:
        one.close()
        raise
    return one


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::]"])
def test_who_shares_it_may_listen_and_nobody_else(host: str) -> None:
    try:
        held = HeldPort(f"{host}:0")
    except CannotListen:
        pytest.skip("this machine has no such address")
    name = "127.0.0.1" if host == "localhost" else host
    address = f"{name}:{split_address(held.address)[1]}"
    workers = []
    try:
        for _ in range(3):
            with pytest.raises(CannotListen, match="in use already"):
                HeldPort(held.address)
            with pytest.raises(OSError, match="in use"):
                _listening(address, shared=False)
            workers.append(_listening(address, shared=True))
        for worker in workers:
            worker.close()
        with pytest.raises(CannotListen, match="in use already"):  # all may be ending at the same time
            HeldPort(held.address)
    finally:
        held.close()
        for worker in workers:
            worker.close()
    HeldPort(held.address).close()


def test_connections_of_before_do_not_keep_it() -> None:
    """TIME_WAIT is what they leave where the server closes first."""
    held = HeldPort("127.0.0.1:0")
    worker = _listening(held.address, shared=True)
    client = socket.create_connection(split_address(held.address))
    accepted, _ = worker.accept()
    accepted.close()
    assert client.recv(1) == b""
    for used in (client, worker):
        used.close()
    held.close()
    HeldPort(held.address).close()


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.0.0.1:65536", ":1", "192.0.2.1:0", "nowhere.invalid:0"]
)
def test_what_is_no_address_of_this_machine(address: str) -> None:
    with pytest.raises(CannotListen, match=address):
        HeldPort(address)
