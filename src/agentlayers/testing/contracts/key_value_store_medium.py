"""
What the medium of a :class:`~agentlayers.key_value.KeyValueStore` has to do: keep things, and be full.

Subclass next to :class:`~agentlayers.testing.contracts.key_value_store.KeyValueStoreContract`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from agentlayers.errors import StorageUnavailableError
from agentlayers.key_value import KeyValueStore, Put
from agentlayers.testing.contracts.key_value_store import Make, numbered, read_all

__all__ = ["DurableKeyValueStoreContract", "LimitedKeyValueStoreContract", "LimitedMedium"]


class DurableKeyValueStoreContract:
    """For stores that outlive the object: the fixture ``make`` leads to the same place each time."""

    async def test_what_was_stored_is_there_after_reopening(self, make: Make) -> None:
        """Values, empty values, deletions and batches."""
        async with make() as store:
            await store.put(b"deleted", b"value")
            await store.batch([Put(key, value) for key, value in numbered(50).items()])
            await store.put(b"empty", b"")
            await store.delete(b"deleted")

        async with make() as store:
            assert dict(await read_all(store)) == numbered(50) | {b"empty": b""}

    async def test_it_says_the_same_of_its_home_each_time(self, make: Make) -> None:
        """Otherwise every start of what is kept in it would look like a copy."""
        async with make() as store:
            await store.put(b"key", b"value")
            first = await store.home()
        async with make() as one, make() as two:
            await one.batch([Put(key, value) for key, value in numbered(50).items()])
            homes = {await one.home(), await two.home()}

        assert homes == {first}

    async def test_two_open_stores_of_one_place_see_each_other(self, make: Make) -> None:
        """Nothing is kept in memory that the medium does not know."""
        async with make() as one, make() as two:
            await one.put(b"one", b"1")
            await two.put(b"two", b"2")
            await one.delete(b"two")
            await two.batch([Put(b"three", b"3"), Put(b"one", b"1 of two")])

            expected = [(b"one", b"1 of two"), (b"three", b"3")]
            assert sorted(await read_all(one)) == sorted(await read_all(two)) == expected


@dataclass(frozen=True)
class LimitedMedium:
    """
    A place with little room.

    Attributes:
        make: Returns a store there.
        make_room: Gives it plenty.
    """

    make: Make
    make_room: Callable[[], None]


class LimitedKeyValueStoreContract:
    """What a full medium does; the fixture ``limited`` has room for about two megabytes."""

    async def test_a_full_medium_is_an_error_that_loses_nothing(self, limited: LimitedMedium) -> None:
        """What was acknowledged stays, and writing goes on once there is room."""
        acknowledged: dict[bytes, bytes] = {}
        async with limited.make() as store:
            with pytest.raises(StorageUnavailableError) as caught:
                await _put_each(store, numbered(400, size=20_000), acknowledged)

            assert len(acknowledged) > 3
            assert caught.value.retryable
            assert dict(await read_all(store)) == acknowledged
            limited.make_room()
            await store.put(b"after", b"value")
        async with limited.make() as store:
            assert dict(await read_all(store)) == acknowledged | {b"after": b"value"}

    async def test_a_batch_too_large_for_the_medium_does_nothing(self, limited: LimitedMedium) -> None:
        """Not even its small operations, now or after reopening."""
        async with limited.make() as store:
            await store.put(b"kept", b"value")
            with pytest.raises(StorageUnavailableError):
                await store.batch([Put(key, value) for key, value in numbered(400, size=20_000).items()])

            assert await read_all(store) == [(b"kept", b"value")]
        limited.make_room()
        async with limited.make() as store:
            assert await read_all(store) == [(b"kept", b"value")]


async def _put_each(store: KeyValueStore, pairs: dict[bytes, bytes], acknowledged: dict[bytes, bytes]) -> None:
    for key, value in pairs.items():
        await store.put(key, value)
        acknowledged[key] = value
