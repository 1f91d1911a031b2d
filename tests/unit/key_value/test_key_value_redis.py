"""A key-value store in Redis: its address, its secrets, and a server that fails."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlayers.errors import (
    ConfigurationError,
    MigrationError,
    SettingsError,
    StorageCorruptionError,
    StorageError,
    StorageUnavailableError,
)
from agentlayers.key_value import KeyValueStore, Put, RedisKeyValueStore
from agentlayers.key_value.redis_address import RedisAddress
from agentlayers.testing.contracts.key_value_store import numbered, read_all
from helpers import redis_server

PASSWORD = "hunter2/§"
QUOTED = "hunter2%2F%C2%A7"
needs_redis = pytest.mark.skipif(redis_server.is_there() is not None, reason=redis_server.is_there() or "")


@pytest.fixture
def server() -> Iterator[redis_server.RedisServer]:
    with redis_server.running() as server:
        yield server


async def opening(store: RedisKeyValueStore) -> StorageError:
    with pytest.raises(StorageError) as caught:
        async with store:
            pass
    return caught.value


# -- the address -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("url", "shown", "where"),
    [
        ("redis://localhost", "redis://localhost:6379/0", ("localhost", 6379, "", False, 0)),
        ("redis://cache:7000/3", "redis://cache:7000/3", ("cache", 7000, "", False, 3)),
        ("rediss://[::1]/1", "rediss://[::1]:6379/1", ("::1", 6379, "", True, 1)),
        ("unix:///run/redis.sock", "unix:///run/redis.sock", ("", 6379, "/run/redis.sock", False, 0)),
    ],
)
def test_an_address_is_taken_apart(url: str, shown: str, where: tuple[object, ...]) -> None:
    address = RedisAddress.parse(url)

    assert (address.host, address.port, address.path, address.is_encrypted, address.database) == where
    assert address.url == shown
    assert address.username is address.password is None


def test_credentials_are_taken_out_of_the_address() -> None:
    address = RedisAddress.parse(f"rediss://anna:{QUOTED}@cache/2")

    assert (address.username, address.password) == ("anna", PASSWORD)
    assert address.url == "rediss://anna@cache:6379/2"
    assert "hunter2" not in repr(address)


def test_a_password_given_apart_wins() -> None:
    assert RedisAddress.parse("redis://:other@cache", password=PASSWORD).password == PASSWORD
    assert RedisAddress.parse("redis://:other@cache", password="").password == "other"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cache:6379",
        "http://cache",
        "redis://",
        "redis://cache:port",
        "redis://cache:70000",
        "redis://cache/name",
        "redis://cache?db=1",
        "redis://cache#1",
        "unix://host/run/redis.sock",
        "unix://",
        "redis://[::1",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="a Redis address such as"):
        RedisAddress.parse(url)


@given(
    st.sampled_from(["", "http://", "redis://", "unix://", "redis://["]), st.sampled_from(["", ":x", "/x", "?x", "#x"])
)
def test_no_refusal_repeats_a_password(before: str, after: str) -> None:
    url = f"{before}anna:hunter2@cache{after}"
    try:
        shown = repr(RedisAddress.parse(url))
    except SettingsError as error:
        shown = "".join(traceback.format_exception(error))
        shown = shown.replace(f"url = {url!r}", "")

    assert "hunter2" not in "\n".join(line for line in shown.splitlines() if "parse(" not in line)


@pytest.mark.parametrize("namespace", ["", "a{b", "a}b", "x" * 201])
def test_a_namespace_that_would_split_its_names_is_refused(namespace: str) -> None:
    with pytest.raises(SettingsError, match="namespace"):
        RedisKeyValueStore("redis://cache", namespace=namespace)


def test_a_missing_package_is_said_when_the_store_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ConfigurationError, match=r"agentlayers\[redis\]"):
        RedisKeyValueStore("redis://cache")


# -- secrets -----------------------------------------------------------------------------------------------
@needs_redis
def test_the_password_is_in_no_repr_and_no_drawing() -> None:
    store = RedisKeyValueStore(f"redis://anna:{QUOTED}@cache")
    layer = KeyValueStore.layer_redis(f"redis://anna:{QUOTED}@cache")
    graph = layer.graph(KeyValueStore) if hasattr(layer, "graph") else layer

    assert repr(store) == "RedisKeyValueStore('redis://anna@cache:6379/0', namespace='agentlayers')"
    for shown in (repr(layer), str(graph), repr(graph)):
        assert "hunter2" not in shown


@needs_redis
async def test_a_wrong_password_is_an_error_that_does_not_repeat_it() -> None:
    with redis_server.running("--requirepass", "right") as server:
        error = await opening(RedisKeyValueStore(server.url, password="hunter2"))
        none = await opening(RedisKeyValueStore(server.url))
        async with RedisKeyValueStore(server.url, password="right") as store:
            await store.put(b"key", b"value")

    assert isinstance(error, StorageUnavailableError)
    assert "check user and password" in str(error)
    assert "check user and password" in str(none)
    causes = [str(error), str(error.__cause__), str(error.__context__), repr(error.__cause__)]
    assert not any("hunter2" in text for text in causes)


# -- the server --------------------------------------------------------------------------------------------
@needs_redis
async def test_a_server_that_is_not_there_is_an_error_that_may_be_retried(server: redis_server.RedisServer) -> None:
    server.kill()
    error = await opening(RedisKeyValueStore(server.url))

    assert isinstance(error, StorageUnavailableError)
    assert error.retryable
    assert server.url in str(error)


@needs_redis
async def test_a_store_goes_on_when_its_server_is_back(server: redis_server.RedisServer) -> None:
    async with RedisKeyValueStore(server.url) as store:
        await store.put(b"key", b"value")
        server.kill()
        for work in (store.get(b"key"), store.put(b"key", b"new"), read_all(store)):
            with pytest.raises(StorageUnavailableError):
                await work
        server.start()
        await store.put(b"key", b"after")

        assert await store.get(b"key") == b"after"


@needs_redis
async def test_with_every_write_synced_a_killed_server_loses_nothing() -> None:
    with redis_server.running("--appendonly", "yes", "--appendfsync", "always") as server:
        async with RedisKeyValueStore(server.url) as store:
            await asyncio.gather(*(store.put(key, value) for key, value in numbered(50).items()))
            await store.batch([Put(key, value) for key, value in numbered(50, prefix=b"batch:").items()])
            server.kill()
        server.start()
        async with RedisKeyValueStore(server.url) as store:
            assert dict(await read_all(store)) == numbered(50) | numbered(50, prefix=b"batch:")


@needs_redis
async def test_more_tasks_than_connections_wait_for_one(server: redis_server.RedisServer) -> None:
    async with RedisKeyValueStore(server.url) as store:
        await asyncio.gather(*(store.put(key, value) for key, value in numbered(200).items()))
        clients = server.command("INFO clients")

        assert dict(await read_all(store)) == numbered(200)
        assert int(clients.partition("connected_clients:")[2].split()[0]) <= 17


@needs_redis
async def test_stores_of_different_namespaces_never_meet(server: redis_server.RedisServer) -> None:
    async with (
        RedisKeyValueStore(server.url, namespace="one") as one,
        RedisKeyValueStore(server.url, namespace="two") as two,
    ):
        await one.put(b"key", b"1")
        await two.put(b"key", b"2")

        assert await read_all(one) == [(b"key", b"1")]
        assert await read_all(two) == [(b"key", b"2")]


@needs_redis
async def test_names_that_another_program_uses_are_refused(server: redis_server.RedisServer) -> None:
    server.command("SET", "{agentlayers}:values", "theirs")
    error = await opening(RedisKeyValueStore(server.url))

    assert isinstance(error, MigrationError)
    assert "another program" in str(error)
    assert "theirs" in server.command("GET", "{agentlayers}:values")


@needs_redis
async def test_a_listed_key_without_a_value_is_damage_not_absence(server: redis_server.RedisServer) -> None:
    async with RedisKeyValueStore(server.url) as store:
        await store.put(b"key", b"value")
        await store.put(b"other", b"value")
        server.command("HDEL", "{agentlayers}:values", "key")
        with pytest.raises(StorageCorruptionError, match="noeviction"):
            await read_all(store)


@needs_redis
async def test_a_user_without_rights_is_told_so(server: redis_server.RedisServer) -> None:
    server.command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+@connection", "-@scripting")
    async with RedisKeyValueStore(server.url.replace("unix://", "unix://reader:pw@")) as store:
        with pytest.raises(StorageUnavailableError, match="check user and password"):
            await store.put(b"key", b"value")
