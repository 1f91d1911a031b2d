"""
What a :class:`~agentlayers.key_value.KeyValueStore` has to do among several processes and after ``kill -9``.

Subclass next to :class:`~agentlayers.testing.contracts.key_value_store.KeyValueStoreContract` and give the
fixture ``recipe``, which tells another process how to make the store, beside ``make``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from agentlayers.key_value import Put
from agentlayers.testing.contracts.key_value_store import Make, numbered, read_all

__all__ = ["CrashingKeyValueStoreContract", "SharedKeyValueStoreContract", "StoreRecipe"]

_PROGRAM = textwrap.dedent(
    """
    import asyncio, importlib, json, sys
    from agentlayers.key_value import Delete, Put

    async def put(store, tag, count):
        for number in range(count):
            await store.put(b"%s:%06d" % (tag, number), tag)
            print(number, flush=True)

    async def flip(store, tag, count):
        keys = [b"%d" % number for number in range(8)]
        for number in range(count):
            gone, there = (keys[:4], keys[4:]) if number % 2 else (keys[4:], keys[:4])
            value = b"%s %d" % (tag, number)
            await store.batch([*(Delete(key) for key in gone), *(Put(key, value) for key in there)])
            print(number, flush=True)

    async def main(constructor, arguments, job, tag, count):
        module, _, name = constructor.partition(":")
        async with getattr(importlib.import_module(module), name)(**arguments) as store:
            print("open", flush=True)
            await globals()[job](store, tag.encode(), count)

    asyncio.run(main(*json.loads(sys.argv[1])))
    """
)


@dataclass(frozen=True)
class StoreRecipe:
    """
    How another process makes the store.

    Attributes:
        constructor: ``package.module:Class``.
        arguments: By name; anything JSON can hold.
    """

    constructor: str
    arguments: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def _process(recipe: StoreRecipe, job: str, tag: str, count: int) -> Iterator[subprocess.Popen[str]]:
    """Start a process that works on the store and prints what was acknowledged; it is open when this yields."""
    order = json.dumps([recipe.constructor, recipe.arguments, job, tag, count])
    process = subprocess.Popen([sys.executable, "-c", _PROGRAM, order], stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "open\n"
        yield process
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


class SharedKeyValueStoreContract:
    """Several processes on one store at once."""

    async def test_two_processes_lose_nothing_and_see_each_other(self, make: Make, recipe: StoreRecipe) -> None:
        """Every write of both is there, for whoever looks."""
        async with make() as store:
            with _process(recipe, "put", "theirs", 150) as process:
                for number in range(150):
                    await store.put(b"ours:%06d" % number, b"ours")

                assert await asyncio.to_thread(process.wait, 30) == 0
            found = dict(await read_all(store))

        assert {key for key in found if key.startswith(b"ours")} == set(numbered(150, prefix=b"ours:"))
        assert {key for key in found if key.startswith(b"theirs")} == set(numbered(150, prefix=b"theirs:"))

    async def test_batches_of_two_processes_never_mix(self, make: Make, recipe: StoreRecipe) -> None:
        """A third party sees all of one or all of the other, at any time."""
        if not make().capabilities.atomic_batches:
            pytest.skip("this medium has no atomic batches, and says so")
        looks = 0
        async with make() as store:
            with _process(recipe, "flip", "one", 100_000), _process(recipe, "flip", "two", 100_000):
                until = time.monotonic() + 1
                while time.monotonic() < until:
                    found = await read_all(store)
                    assert len({value for _, value in found}) <= 1, found
                    assert len(found) in (0, 4), found
                    looks += 1

        assert looks > 3


class CrashingKeyValueStoreContract:
    """What ``kill -9`` leaves behind."""

    async def test_what_was_acknowledged_survives_a_kill(self, make: Make, recipe: StoreRecipe) -> None:
        """Every acknowledged put is there, and each value is whole."""
        chance = random.Random(5)
        for attempt in range(4):
            with _process(recipe, "put", f"run{attempt}", 100_000) as process:
                assert process.stdout is not None
                for _ in range(chance.randint(5, 60)):
                    acknowledged = int(process.stdout.readline())
                process.send_signal(signal.SIGKILL)
                acknowledged = max([acknowledged, *map(int, process.stdout.read().splitlines())])
            async with make() as store:
                found = await read_all(store, f"run{attempt}:".encode())

            assert {value for _, value in found} == {f"run{attempt}".encode()}
            assert set(numbered(acknowledged + 1, prefix=f"run{attempt}:".encode())) <= {key for key, _ in found}

    async def test_a_killed_batch_is_there_whole_or_not_at_all(self, make: Make, recipe: StoreRecipe) -> None:
        """Also for a neighbour that had the store open all the time, and never older than acknowledged."""
        if not make().capabilities.atomic_batches:
            pytest.skip("this medium has no atomic batches, and says so")
        chance = random.Random(6)
        async with make() as neighbour:
            for attempt in range(8):
                with _process(recipe, "flip", "run", 100_000) as process:
                    assert process.stdout is not None
                    for _ in range(chance.randint(1, 30)):
                        acknowledged = int(process.stdout.readline())
                    await asyncio.sleep(chance.random() / 100)
                    process.send_signal(signal.SIGKILL)
                    acknowledged = max([acknowledged, *map(int, process.stdout.read().splitlines())])
                seen = await read_all(neighbour)
                async with make() as store:
                    found = await read_all(store)
                    await store.batch([Put(b"after %d" % attempt, b"value")])

                _is_one_batch(seen, acknowledged)
                _is_one_batch(found, acknowledged)


def _is_one_batch(found: list[tuple[bytes, bytes]], acknowledged: int) -> None:
    pairs = [(key, value) for key, value in found if not key.startswith(b"after")]
    numbers = {int(value.split()[1]) for _, value in pairs}
    assert len(pairs) == 4, pairs
    assert len(numbers) == 1, pairs
    (number,) = numbers
    assert number in (acknowledged, acknowledged + 1)
    assert {key for key, _ in pairs} == {b"%d" % key for key in (range(4, 8) if number % 2 else range(4))}
