"""
Whether several heads of one key say different things.

Heads that say the same were written without knowledge of each other, but there is nothing to settle: they are no open
conflict and are not reported as one. What is shown is the policy's choice among them all the same. It depends on the
heads alone, so replicas with the same entries list the same conflicts. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from agentlayers.errors import UsageError
from agentlayers.journal.conflict_policy import Version
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.protocol.payload import encode_payload

__all__ = ["are_competing", "content_digest"]


def are_competing(schema: StoreSchema, heads: Iterable[Version]) -> bool:
    """Tell whether heads differ in what they say."""
    return len({content_digest(schema, head) for head in heads}) > 1


def content_digest(schema: StoreSchema, version: Version) -> bytes:
    """
    Return what a version says as one number: its event and its value, byte for byte once decoded.

    The order of a map's fields says nothing. What cannot be encoded again is like nothing else.
    """
    value = version.value if schema.content_of is None else schema.content_of(version)
    try:
        encoded = encode_payload(_sorted(value))
    except UsageError:
        encoded = b"\xc1" + version.id  # no payload begins with this byte
    event = version.event.encode("utf-8", "surrogatepass")
    return hashlib.sha256(len(event).to_bytes(4) + event + encoded).digest()


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value
