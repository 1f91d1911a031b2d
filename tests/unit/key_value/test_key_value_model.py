"""Whatever is done to a key-value store in whatever order, it is a dict that sorts its keys."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from agentlayers.key_value import (
    Delete,
    FileSystemKeyValueStore,
    KeyRange,
    KeyValueStore,
    MemoryKeyValueStore,
    Put,
    RedisKeyValueStore,
    SQLiteKeyValueStore,
    filesystem_medium,
    memory_store,
    redis_store,
    sqlite_store,
)
from agentlayers.testing.contracts.key_value_store import read_all
from helpers import redis_server

KEYS = st.sampled_from(
    [b"", b"a", b"a\x00", b"ab", b"b", b"b\xff", b"b\xff\xff", b"\xff", b"c" * 130, b"c" * 130 + b"d"]
)
VALUES = st.sampled_from([b"", b"1", b"22", b"x" * 40])
BOUNDS = st.none() | KEYS
OPERATIONS = st.lists(st.builds(Put, KEYS, VALUES) | st.builds(Delete, KEYS), max_size=5)


class KeyValueModel(RuleBasedStateMachine):
    """A store beside a dict; the keys are few, so that operations meet."""

    make: Any

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._model: dict[bytes, bytes] = {}

    @initialize()
    def open(self) -> None:
        self._place = contextlib.ExitStack()
        self._make = self._place.enter_context(type(self).make())
        self._store: KeyValueStore = self._make()
        self._run(self._store.__aenter__())

    def _run(self, work: Any) -> Any:
        async def call() -> Any:
            return await work

        return self._runner.run(call())

    @rule(key=KEYS, value=VALUES)
    def put(self, key: bytes, value: bytes) -> None:
        self._run(self._store.put(key, value))
        self._model[key] = value

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        self._run(self._store.delete(key))
        self._model.pop(key, None)

    @rule(operations=OPERATIONS)
    def batch(self, operations: list[Put | Delete]) -> None:
        self._run(self._store.batch(operations))
        for operation in operations:
            if isinstance(operation, Put):
                self._model[operation.key] = operation.value
            else:
                self._model.pop(operation.key, None)

    @rule(writes=st.lists(OPERATIONS.filter(bool), min_size=2, max_size=4))
    def write_at_once(self, writes: list[list[Put | Delete]]) -> None:
        """Different keys at the same time: in the end each is as its own writer left it."""
        taken: set[bytes] = set()
        disjoint = []
        for operations in writes:
            own = [operation for operation in operations if operation.key not in taken]
            taken |= {operation.key for operation in own}
            disjoint.append(own)

        async def all_at_once() -> None:
            await asyncio.gather(*(self._store.batch(own) for own in disjoint))

        self._runner.run(all_at_once())
        for own in disjoint:
            for operation in own:
                if isinstance(operation, Put):
                    self._model[operation.key] = operation.value
                else:
                    self._model.pop(operation.key, None)

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        assert self._run(self._store.get(key)) == self._model.get(key)

    @rule(
        prefix=st.just(b"") | KEYS,
        start=BOUNDS,
        end=BOUNDS,
        reverse=st.booleans(),
        limit=st.none() | st.integers(0, 4),
    )
    def scan(self, prefix: bytes, start: bytes | None, end: bytes | None, reverse: bool, limit: int | None) -> None:
        found = self._run(read_all(self._store, prefix, start=start, end=end, reverse=reverse, limit=limit))

        expected = sorted(
            (
                (key, value)
                for key, value in self._model.items()
                if key.startswith(prefix) and (start is None or key >= start) and (end is None or key < end)
            ),
            reverse=reverse,
        )
        assert found == expected[:limit]

    @rule()
    def reopen(self) -> None:
        self._run(self._store.__aexit__(None, None, None))
        if not self._store.capabilities.durable and not self._store.capabilities.shared_between_processes:
            self._model.clear()
        self._store = self._make()
        self._run(self._store.__aenter__())

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        if hasattr(self, "_store"):
            assert self._run(read_all(self._store)) == sorted(self._model.items())
            assert self._run(read_all(self._store, reverse=True)) == sorted(self._model.items(), reverse=True)

    def teardown(self) -> None:
        if hasattr(self, "_store"):
            self._run(self._store.__aexit__(None, None, None))
            self._place.close()
        self._runner.close()


@contextlib.contextmanager
def in_memory() -> Iterator[Any]:
    yield MemoryKeyValueStore


@contextlib.contextmanager
def in_files() -> Iterator[Any]:
    directory = tempfile.mkdtemp()
    yield lambda: FileSystemKeyValueStore(Path(directory) / "store")
    shutil.rmtree(directory)


@contextlib.contextmanager
def in_sqlite() -> Iterator[Any]:
    directory = tempfile.mkdtemp()
    yield lambda: SQLiteKeyValueStore(Path(directory) / "store")
    shutil.rmtree(directory)


def check(make: Any, monkeypatch: pytest.MonkeyPatch, *, examples: int) -> None:
    # Small pages, so that the few keys fill several.
    for module in (memory_store, sqlite_store, filesystem_medium, redis_store):
        monkeypatch.setattr(module, "KEY_VALUE_PAGE_ENTRIES_MAX", 2)
        monkeypatch.setattr(module, "KEY_VALUE_PAGE_BYTES_MAX", 300)
    machine = type("Model", (KeyValueModel,), {"make": staticmethod(make)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=20,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    check(in_memory, monkeypatch, examples=100)


def test_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    check(in_files, monkeypatch, examples=20)


def test_in_sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    check(in_sqlite, monkeypatch, examples=25)


def test_in_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    with redis_server.running() as server:
        number = 0

        @contextlib.contextmanager
        def in_redis() -> Iterator[Any]:
            nonlocal number
            number += 1
            yield lambda: RedisKeyValueStore(server.url, namespace=f"model{number}")

        check(in_redis, monkeypatch, examples=25)


@pytest.mark.parametrize("reverse", [False, True])
def test_what_is_left_of_a_range_is_what_lies_beyond_the_key(reverse: bool) -> None:
    keys = [b"", b"a", b"a\x00", b"a\x00\x00", b"b"]
    left = KeyRange.of(reverse=reverse).beyond(b"a\x00")

    assert [key for key in keys if key in left] == (keys[:2] if reverse else keys[3:])
