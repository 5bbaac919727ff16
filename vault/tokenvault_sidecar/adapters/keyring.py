"""The key hierarchy: the KEK from outside wraps the keys in the store."""

import asyncio
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace

from tokenvault_sidecar.adapters.kek import KEY_BYTES, CannotUnwrap, Kek, KeyringError, read_kek
from tokenvault_sidecar.core.errors import KeyUnwrappable, StoreUnavailable
from tokenvault_sidecar.core.ports import Store, WrappedKey
from tokenvault_sidecar.core.sealing import Keyring

__all__ = ["KeyKeeper", "KeyringError", "new_key", "open_keyring", "read_kek", "unwrap"]


class KeyKeeper:
    """`core.ports.Keys`: the store's keys, opened in `keyring`. Any of the KEKs opens.

    The first one wraps the first keys, and all in `rewrap`. A new key is wrapped
    by what wraps the others: whoever opens those opens it too, so that sidecars
    may be given a new KEK one after another.
    """

    def __init__(self, store: Store, keks: Sequence[Kek], keyring: Keyring) -> None:
        self.keyring = keyring
        self._store = store
        self.keks = keks
        self._refreshing = asyncio.Lock()

    @classmethod
    async def open(cls, store: Store, keks: Sequence[Kek], now: float | None) -> "KeyKeeper":
        """Open the store's keys; with `now`, made where there are none.

        Raises KeyringError, StoreUnavailable.
        """
        keys = await store.get_keys()
        if not keys and now is not None:
            made = [await asyncio.to_thread(new_key, purpose, keks[0], now) for purpose in ("index", "data")]
            await store.add_keys(made, first=True)  # False: a peer was faster, its keys are the store's
            keys = await store.get_keys()
        return cls(store, keks, await asyncio.to_thread(unwrap, keys, *keks))

    async def refresh(self) -> None:
        async with self._refreshing:
            await self._refresh()

    async def use(self, keks: Sequence[Kek]) -> None:
        """Go by these KEKs from now on. Raises KeyringError where they do not open every key of the store."""
        if [kek.fingerprint for kek in keks] != [kek.fingerprint for kek in self.keks]:
            await asyncio.to_thread(unwrap, await self._store.get_keys(), *keks)
        self.keks = keks

    async def rewrap(self) -> int:
        """Have every key of the store wrapped by the first KEK; how many were not.

        Raises KeyringError, StoreUnavailable, with nothing changed.
        """
        while True:
            keys = await self._store.get_keys()
            others = [key for key in keys if key.kek != self.keks[0].fingerprint]
            anew = [await asyncio.to_thread(_rewrap_one, key, self.keks) for key in others]
            kept = [key for key in keys if key not in others]
            # False: a peer added or rewrapped one meanwhile
            if not others or await self._store.rewrap_keys([*kept, *anew], were=keys):
                return len(others)

    async def add(self, now: float, *, after: str) -> bool:
        while True:
            await self.refresh()
            if self.keyring.active != after:
                return False
            newest = next((key for key in await self._store.get_keys() if key.id == after), None)
            if newest is None:
                return False
            try:
                kek = _kek_of(newest, self.keks)
                # However the clock was set meanwhile, a new key is the newest.
                key = await asyncio.to_thread(new_key, "data", kek, max(now, newest.created_at))
            except KeyringError as error:
                raise KeyUnwrappable(f"no new key can be wrapped: {error}") from None
            if await self._store.add_data_key(key, after=after):
                await self.refresh()
                return True
            # a peer has added one, or has just wrapped all of them anew

    async def _refresh(self) -> None:
        keys = [key for key in await self._store.get_keys() if key.purpose == "data"]
        names = tuple(key.id for key in keys)
        if not names or names == self.keyring.data_keys:
            return
        new = [key for key in keys if key.id not in self.keyring.data_keys]
        try:
            added = {key.id: await asyncio.to_thread(_unwrap_one, key, self.keks) for key in new}
        except KeyringError as error:
            raise StoreUnavailable(f"a new key of the store cannot be opened: {error}") from None
        self.keyring.replace(names, added)


async def open_keyring(store: Store, kek: Kek, now: float) -> Keyring:
    """The store's keys, opened; made at the first start. Raises KeyringError, StoreUnavailable."""
    return (await KeyKeeper.open(store, [kek], now)).keyring


def new_key(purpose: str, kek: Kek, now: float) -> WrappedKey:
    """A new random key, wrapped. `purpose` is "data" or "index". Raises KeyringError."""
    name = secrets.token_hex(4)
    wrapped = kek.wrap(os.urandom(KEY_BYTES), name=name)
    return WrappedKey(name, purpose, kek.fingerprint, wrapped, created_at=now)


def unwrap(keys: Iterable[WrappedKey], *keks: Kek) -> Keyring:
    """The newest data key seals, all of them open. Raises KeyringError where the KEK is another."""
    opened: dict[str, dict[str, bytes]] = {"index": {}, "data": {}}
    for key in keys:
        opened[key.purpose][key.id] = _unwrap_one(key, keks)
    if not opened["index"] or not opened["data"]:
        raise KeyringError(
            "the store has lost its index or data key: restore it from a backup; "
            "or where copying to it was stopped, finish that"
        )
    (index_key,) = opened["index"].values()
    return Keyring(index_key=index_key, data_keys=opened["data"], active=list(opened["data"])[-1])


def _rewrap_one(key: WrappedKey, keks: Sequence[Kek]) -> WrappedKey:
    wrapped = keks[0].wrap(_unwrap_one(key, keks), name=key.id)
    return replace(key, kek=keks[0].fingerprint, wrapped=wrapped)


def _unwrap_one(key: WrappedKey, keks: Sequence[Kek]) -> bytes:
    try:
        return _kek_of(key, keks).unwrap(key.wrapped, name=key.id)
    except CannotUnwrap:
        raise _wrapped_by_another(key, keks) from None


def _kek_of(key: WrappedKey, keks: Sequence[Kek]) -> Kek:
    for kek in keks:
        if kek.fingerprint == key.kek:
            return kek
    raise _wrapped_by_another(key, keks)


def _wrapped_by_another(key: WrappedKey, keks: Sequence[Kek]) -> KeyringError:
    given = " and ".join(kek.fingerprint for kek in keks)
    return KeyringError(
        f"the store's {key.purpose} key {key.id} is wrapped by KEK {key.kek}, "
        f"and the KEK given is {given}: give the KEK this store was made with, or was rewrapped by"
    )
