"""Key-value stores: bytes under bytes, in memory, in files, in SQLite or in Redis, behind one port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlayers.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from agentlayers.key_value.blocking_store import BlockingKeyValueStore
    from agentlayers.key_value.capabilities import KeyValueCapabilities
    from agentlayers.key_value.expectation import Expectation
    from agentlayers.key_value.filesystem_store import FileSystemKeyValueStore
    from agentlayers.key_value.key_range import KeyRange
    from agentlayers.key_value.key_value_store import Delete, KeyValueStore, Put
    from agentlayers.key_value.memory_store import MemoryKeyValueStore
    from agentlayers.key_value.redis_store import RedisKeyValueStore
    from agentlayers.key_value.sqlite_store import SQLiteKeyValueStore

__all__ = [
    "BlockingKeyValueStore",
    "Delete",
    "Expectation",
    "FileSystemKeyValueStore",
    "KeyRange",
    "KeyValueCapabilities",
    "KeyValueStore",
    "MemoryKeyValueStore",
    "Put",
    "RedisKeyValueStore",
    "SQLiteKeyValueStore",
]

_HOMES = {
    "BlockingKeyValueStore": "blocking_store",
    "Delete": "key_value_store",
    "Expectation": "expectation",
    "FileSystemKeyValueStore": "filesystem_store",
    "KeyRange": "key_range",
    "KeyValueCapabilities": "capabilities",
    "KeyValueStore": "key_value_store",
    "MemoryKeyValueStore": "memory_store",
    "Put": "key_value_store",
    "RedisKeyValueStore": "redis_store",
    "SQLiteKeyValueStore": "sqlite_store",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(__name__, _HOMES)
