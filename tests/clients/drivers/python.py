"""The Python client's driver."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

from tokenvault import (
    Challenge,
    ConfirmationCodeWrong,
    ConfirmationRequired,
    ConsentRequired,
    Delegated,
    Token,
    TokenSource,
    TokenVaultClient,
    TokenVaultError,
    errors,
)
from tokenvault.http import httpx2_auth

_FAMILIES = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__base__ is TokenVaultError
]


class Driver:
    def __init__(self, vault: TokenVaultClient) -> None:
        self._vault = vault
        self._sources: dict[str, TokenSource] = {}

    def start_delegation(self, brand: str, **options: Any) -> dict[str, Any]:
        return _challenge(self._vault.start_delegation(brand, **options))

    def complete_delegation(self, query: dict[str, str]) -> dict[str, Any]:
        return _delegated(self._vault.complete_delegation(query))

    def confirm_delegation(self, delegation_id: str, code: str) -> dict[str, Any]:
        return _delegated(self._vault.confirm_delegation(delegation_id, code))

    def watch_delegation(self, brand: str, delegation_id: str) -> dict[str, Any]:
        return _delegated(self._vault.watch_delegation(delegation_id))

    def get_token(self, brand: str, **options: Any) -> dict[str, Any]:
        return _token(self._vault.get_token(brand, **options))

    def invalidate(self, brand: str, **context: Any) -> dict[str, Any]:
        return {"revocation": self._vault.invalidate(brand, **context).value}

    def source(self, brand: str, times: int, **context: Any) -> dict[str, Any]:
        source = self._source(brand, context)
        together = threading.Barrier(min(times, 50))

        def ask(number: int) -> Token:
            if number < together.parties:
                together.wait()
            return source.token()

        with ThreadPoolExecutor(together.parties) as threads:
            return _token(list(threads.map(ask, range(times)))[-1])

    def fetch(self, brand: str, url: str, **context: Any) -> dict[str, Any]:
        auth = httpx2_auth(self._source(brand, context))
        return {"status": httpx2.get(url, auth=auth, trust_env=False).status_code}

    def bench(self, brand: str, by: str, seconds: float, **context: Any) -> dict[str, Any]:
        source = self._source(brand, context)
        once: Callable[[], Token] = (
            source.token if by == "memory" else lambda: self._vault.get_token(brand, **context)
        )
        once()
        calls, began = 0, time.perf_counter()
        while (taken := time.perf_counter() - began) < seconds:
            once()
            calls += 1
        return {"calls": calls, "seconds": taken}

    def _source(self, brand: str, context: dict[str, str]) -> TokenSource:
        key = json.dumps([brand, context])
        if key not in self._sources:
            self._sources[key] = self._vault.token_source(brand, **context)
        return self._sources[key]


def _challenge(challenge: Challenge) -> dict[str, Any]:
    return {
        "delegation_id": challenge.delegation_id,
        "authorization_url": challenge.authorization_url,
        "expire_time": challenge.expire_time.timestamp(),
    }


def _delegated(done: Delegated) -> dict[str, Any]:
    return {
        "brand": done.brand,
        "consumer": done.consumer,
        "conversation": done.conversation,
        "confirmation_code": done.confirmation and done.confirmation.code,
    }


def _token(token: Token) -> dict[str, Any]:
    return {
        "access_token": token.access_token,
        "token_type": token.token_type,
        "expire_time": token.expire_time and token.expire_time.timestamp(),
        "scopes": token.scopes,
        "token_version": token.token_version,
        "degraded": token.degraded,
    }


def _error(error: TokenVaultError) -> dict[str, Any]:
    family = next((kind for kind in _FAMILIES if isinstance(error, kind)), TokenVaultError)
    text = f"{error} {error!r}"
    told: dict[str, Any] = {
        "family": family.__name__,
        "reason": error.reason,
        "code": error.code.name,
        "text": text,
    }
    if isinstance(error, ConsentRequired) and error.challenge:
        told["challenge"] = _challenge(error.challenge)
    if isinstance(error, ConfirmationRequired):
        told["delegation_id"] = error.delegation_id
    if isinstance(error, ConfirmationCodeWrong):
        told["tries_left"] = error.tries_left
    return told


def answers(vault: TokenVaultClient) -> Iterator[dict[str, Any]]:
    driver = Driver(vault)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            yield {"ok": getattr(driver, command.pop("op"))(**command)}
        except TokenVaultError as error:
            yield {"error": _error(error)}


if __name__ == "__main__":
    with TokenVaultClient.from_environment() as vault:
        for answer in answers(vault):
            print(json.dumps(answer), flush=True)
