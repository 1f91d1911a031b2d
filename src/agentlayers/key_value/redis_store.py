"""
Pairs in a Redis server: a hash of values, and beside it a sorted set of the keys for ordered scans.

Both change in one ``MULTI``/``EXEC``, and both names hold the namespace in braces, so that a cluster keeps
them on one node. A page of a scan is one script, hence one look. How durable a write is, the server's
configuration says (``appendonly``, ``appendfsync``), so nothing is promised here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from agentlayers.errors import (
    ConfigurationError,
    MigrationError,
    SettingsError,
    StateError,
    StorageCorruptionError,
    StorageError,
    StorageUnavailableError,
)
from agentlayers.key_value.capabilities import KeyValueCapabilities
from agentlayers.key_value.expectation import Expectation, not_as_expected
from agentlayers.key_value.key_range import KeyRange
from agentlayers.key_value.key_value_store import Changes, KeyValueStore, Pair
from agentlayers.key_value.redis_address import RedisAddress
from agentlayers.limits import (
    CONNECT_TIMEOUT_SECONDS,
    KEY_VALUE_PAGE_BYTES_MAX,
    KEY_VALUE_PAGE_ENTRIES_MAX,
)

__all__ = ["RedisKeyValueStore"]

_BACKEND: Final = "redis key-value store"
_CONNECTIONS_MAX: Final = 16
"""Commands under way at once; more wait for a connection instead of opening one each."""

_COMMAND_TIMEOUT_SECONDS: Final = 30.0
"""A server that says nothing for so long is as good as gone."""

_NAMESPACE_BYTES_MAX: Final = 200

_PAGE_SCRIPT: Final = """
local command = ARGV[1]
local keys = redis.call(command, KEYS[2], ARGV[2], ARGV[3], 'LIMIT', 0, ARGV[4])
local page, size = {#keys < tonumber(ARGV[4]) and 1 or 0}, 0
for _, key in ipairs(keys) do
    size = size + #key + redis.call('HSTRLEN', KEYS[1], key)
    if #page > 1 and size > tonumber(ARGV[5]) then
        page[1] = 0
        break
    end
    page[#page + 1] = key
    page[#page + 1] = redis.call('HGET', KEYS[1], key)
end
return page
"""
"""
Bounds memory by the sizes before it reads a value. The first item says whether nothing is left behind the
page; a key without a value comes back as false.
"""

_CONDITIONAL_SCRIPT: Final = """
local at = 4
for _ = 1, ARGV[1] do
    if redis.call('HGET', KEYS[1], ARGV[at + 1]) ~= ARGV[at + 2] then return ARGV[at + 1] end
    at = at + 2
end
for _ = 1, ARGV[2] do
    if redis.call('HEXISTS', KEYS[1], ARGV[at + 1]) == 1 then return ARGV[at + 1] end
    at = at + 1
end
for _ = 1, ARGV[3] do
    redis.call('HSET', KEYS[1], ARGV[at + 1], ARGV[at + 2])
    redis.call('ZADD', KEYS[2], 0, ARGV[at + 1])
    at = at + 2
end
for _ = 1, ARGV[4] do
    redis.call('HDEL', KEYS[1], ARGV[at + 1])
    redis.call('ZREM', KEYS[2], ARGV[at + 1])
    at = at + 1
end
return false
"""
"""
Four counts, then values expected, keys expected to be absent, values to put, keys to delete. Returns a key that
is not as expected. Puts come first: a server without memory refuses the first write, and none after it.
"""


class RedisKeyValueStore(KeyValueStore):
    """
    Keep everything in a Redis server; needs the extra ``agentlayers[redis]``.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``; may carry user, password and database number.
        password: Instead of one in the address. Never shown, neither here nor in a drawing of a graph.
        namespace: Stores of different namespaces share a database without meeting.
        place: Name of this copy of the data: give another one when a dump was put back, or runs on beside the server
            it was made of, at an address of the same name. Nothing in Redis tells the two apart.

    Raises:
        SettingsError: The address or the namespace cannot be used.
        ConfigurationError: The package ``redis`` is not installed.
    """

    capabilities: ClassVar = KeyValueCapabilities(
        ordered_scans=True,
        atomic_batches=True,
        conditional_batches=True,
        durable=False,
        shared_between_processes=True,
    )

    def __init__(
        self, url: str, *, password: str | None = None, namespace: str = "agentlayers", place: str | None = None
    ) -> None:
        self._address = RedisAddress.parse(url, password=password)
        if not namespace or "{" in namespace or "}" in namespace or len(namespace.encode()) > _NAMESPACE_BYTES_MAX:
            raise SettingsError(
                setting="namespace",
                value=namespace,
                expected=f"1 to {_NAMESPACE_BYTES_MAX} bytes without braces",
            )
        self._namespace, self._place = namespace, place or ""
        self._values = f"{{{namespace}}}:values".encode()
        self._keys = f"{{{namespace}}}:keys".encode()
        # Typed loosely: the driver's annotations differ between its releases.
        self._client: Any = None
        self._under_way = 0
        self._idle = asyncio.Event()
        self._slots = asyncio.Semaphore(_CONNECTIONS_MAX)
        _load_driver()

    async def __aenter__(self) -> Self:
        if self._client is not None:
            raise StateError(f"{self!r} is open already")
        client = _connected(self._address)
        try:
            with self._translated("open"):
                await self._check_names(client)
        except BaseException:
            await client.aclose()
            raise
        self._client = client
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        client, self._client = self._client, None
        if client is not None:
            if self._under_way:
                await self._idle.wait()
            await client.aclose()
            await client.connection_pool.disconnect()

    async def home(self) -> str:
        """
        Say where the data is, as far as its address tells.

        The ids of a server are no help: ``run_id`` is another one after each start, and the one of replication is in
        the dump.
        """
        address = self._address
        where = address.path or f"{address.host}:{address.port}"
        return f"redis {where}/{address.database} {self._namespace} {self._place}".rstrip()

    async def _check_names(self, client: Any) -> None:
        # Within EXEC a command that meets another type fails alone, so this is made sure of before.
        kinds = [await client.execute_command("TYPE", name) for name in (self._values, self._keys)]
        if kinds[0] not in (b"none", b"hash") or kinds[1] not in (b"none", b"zset"):
            reason = f"another program uses names of the namespace {self._namespace!r}; choose another one"
            raise MigrationError(backend=_BACKEND, operation="open", reason=reason, path=self._address.url)

    # -- operations ------------------------------------------------------------------------------------
    async def _read(self, key: bytes) -> bytes | None:
        async with self._command("read") as client:
            value: bytes | None = await client.execute_command("HGET", self._values, key)
            return value

    async def _read_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        async with self._command("read") as client:
            values: list[bytes | None] = await client.execute_command("HMGET", self._values, *keys)
            return values

    async def _write(self, changes: Changes, expected: Expectation) -> None:
        if expected:
            await self._write_if(changes, expected)
            return
        puts = [(key, value) for key, value in changes.items() if value is not None]
        deletes = [key for key, value in changes.items() if value is None]
        async with self._command("write") as client, client.pipeline(transaction=True) as transaction:
            if puts:
                transaction.execute_command("HSET", self._values, *(part for pair in puts for part in pair))
                transaction.execute_command("ZADD", self._keys, *(part for key, _ in puts for part in (0, key)))
            if deletes:
                transaction.execute_command("HDEL", self._values, *deletes)
                transaction.execute_command("ZREM", self._keys, *deletes)
            await transaction.execute()

    async def _write_if(self, changes: Changes, expected: Expectation) -> None:
        present = {key: value for key, value in expected.items() if value is not None}
        absent = [key for key, value in expected.items() if value is None]
        puts = {key: value for key, value in changes.items() if value is not None}
        deletes = [key for key, value in changes.items() if value is None]
        parts = (*_flat(present), *absent, *_flat(puts), *deletes)
        counts = (len(present), len(absent), len(puts), len(deletes))
        async with self._command("write") as client:
            other = await client.execute_command(
                "EVAL", _CONDITIONAL_SCRIPT, 2, self._values, self._keys, *counts, *parts
            )
        if other is not None:
            raise not_as_expected(other, backend=_BACKEND, path=self._address.url)

    async def _pages(self, key_range: KeyRange, limit: int | None) -> AsyncIterator[list[Pair]]:
        self._opened()
        is_last = key_range.is_empty
        while not is_last and (limit is None or limit > 0):
            page, is_last = await self.first_page(key_range, limit)
            if not page:
                return
            yield page
            limit = None if limit is None else limit - len(page)
            key_range = key_range.beyond(page[-1][0])

    async def first_page(self, key_range: KeyRange, limit: int | None = None) -> tuple[list[Pair], bool]:
        """Return the first page of a scan, and whether nothing is left behind it."""
        if key_range.is_empty or limit == 0:
            return [], True
        count = KEY_VALUE_PAGE_ENTRIES_MAX if limit is None else min(limit, KEY_VALUE_PAGE_ENTRIES_MAX)
        low = b"[" + key_range.start
        high = b"+" if key_range.end is None else b"(" + key_range.end
        order = ("ZREVRANGEBYLEX", high, low) if key_range.reverse else ("ZRANGEBYLEX", low, high)
        async with self._command("scan") as client:
            is_last, *flat = await client.execute_command(
                "EVAL", _PAGE_SCRIPT, 2, self._values, self._keys, *order, count, KEY_VALUE_PAGE_BYTES_MAX
            )
        return [self._complete(key, value) for key, value in zip(flat[::2], flat[1::2], strict=True)], bool(is_last)

    def _complete(self, key: bytes, value: bytes | None) -> Pair:
        if value is None:
            reason = f"key {key[:40]!r} is listed, but its value is gone; set 'maxmemory-policy noeviction'"
            raise StorageCorruptionError(backend=_BACKEND, operation="scan", reason=reason, path=self._address.url)
        return key, value

    # -- errors ----------------------------------------------------------------------------------------
    def _opened(self) -> Any:
        if self._client is None:
            raise StateError(f"{self!r} is not open; use it inside `async with`")
        return self._client

    @contextlib.asynccontextmanager
    async def _command(self, operation: str) -> AsyncIterator[Any]:
        """Lend the client for one command; closing waits for it."""
        client = self._opened()
        self._under_way += 1
        self._idle.clear()
        try:
            # Bounded here: the driver's own pool that waits hangs in some releases when a connection is refused.
            async with self._slots:
                with self._translated(operation):
                    yield client
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    @contextlib.contextmanager
    def _translated(self, operation: str) -> Iterator[None]:
        from redis.exceptions import RedisError

        try:
            yield
        except (RedisError, OSError) as error:
            raise self._translate(error, operation) from error

    def _translate(self, error: Exception, operation: str) -> StorageError:
        kind, reason = _fault(error)
        return kind(backend=_BACKEND, operation=operation, reason=reason, path=self._address.url)

    def __repr__(self) -> str:
        return f"RedisKeyValueStore({self._address.url!r}, namespace={self._namespace!r})"


def _flat(pairs: dict[bytes, bytes]) -> Iterator[bytes]:
    return (part for pair in pairs.items() for part in pair)


def _load_driver() -> Any:
    try:
        import redis.asyncio
    except ImportError as error:
        raise ConfigurationError(
            "the Redis key-value store needs the package redis; install agentlayers[redis]"
        ) from error
    return redis.asyncio


def _connected(address: RedisAddress) -> Any:
    """Return a client that connects on first use and repeats nothing by itself."""
    from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    where: dict[str, Any] = {"connection_class": SSLConnection if address.is_encrypted else Connection}
    where |= {"host": address.host, "port": address.port}
    if address.path:
        where = {"connection_class": UnixDomainSocketConnection, "path": address.path}
    pool = ConnectionPool(
        username=address.username,
        password=address.password,
        db=address.database,
        protocol=2,  # the same answers from every release of driver and server
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=_COMMAND_TIMEOUT_SECONDS,
        # A write whose answer is lost may have been done; done again later, it could undo somebody else's.
        retry=Retry(NoBackoff(), 0),
        **where,
    )
    return Redis.from_pool(pool)


def _fault(error: Exception) -> tuple[type[StorageError], str]:
    """Return the kind of our error and a text; the driver's texts hold no credentials."""
    from redis import exceptions

    refusals = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
    # Met while connecting, it comes inside of a connection error.
    if isinstance(error, refusals) or isinstance(error.__cause__ or error.__context__, refusals):
        return StorageUnavailableError, "the server refuses these credentials; check user and password"
    if isinstance(error, exceptions.OutOfMemoryError):
        return StorageUnavailableError, "the server is out of memory; raise maxmemory, nothing acknowledged is lost"
    if isinstance(error, exceptions.ResponseError) and str(error).startswith("WRONGTYPE"):
        return StorageCorruptionError, "another program uses the names of this namespace; choose another namespace"
    if isinstance(error, exceptions.ResponseError) and not isinstance(error, exceptions.ReadOnlyError):
        return _response_fault(str(error))
    return StorageUnavailableError, f"{str(error) or type(error).__name__}; check that the server runs and is reachable"


def _response_fault(text: str) -> tuple[type[StorageError], str]:
    if text.startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
        return StorageUnavailableError, "the server refuses these credentials; check user and password"
    if text.startswith(("LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "MISCONF", "NOREPLICAS", "TRYAGAIN")):
        return StorageUnavailableError, f"{text}; try again later"
    return StorageError, text
