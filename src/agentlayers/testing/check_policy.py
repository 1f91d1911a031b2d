"""Prove the laws of a conflict policy of your own, by example."""

from __future__ import annotations

import asyncio
import copy
import random as random_module
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentlayers.journal.causality import causal_payload
from agentlayers.journal.conflict_policy import ConflictPolicy, Resolution, Version
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.entry_id import next_entry_id
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.memory import MemoryJournal
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.protocol.payload import encode_payload

__all__ = ["PolicyLawError", "check_policy"]

_HEADS_MAX: Final = 4
_VALUES: Final[tuple[Mapping[str, Any], ...]] = ({"v": 1}, {"v": 2}, {"v": 1, "w": [1, "a"]}, {})
_KEY: Final = b"checked\x00value"
_REMOTE: Final = b"r" * 16


class PolicyLawError(AssertionError):
    """
    A policy breaks a law, so replicas with the same entries could show different values.

    Attributes:
        law: Which one, as a sentence.
        heads: Heads that show it.
    """

    def __init__(self, law: str, heads: Sequence[Version], detail: str) -> None:
        self.law, self.heads = law, tuple(heads)
        shown = "\n".join(f"  {head}" for head in heads)
        super().__init__(f"{law}: {detail}\nwith the heads\n{shown}")


def check_policy(
    policy: ConflictPolicy,
    *,
    values: Sequence[Mapping[str, Any]] = _VALUES,
    examples: int = 200,
    seed: int = 0,
) -> None:
    """
    Check that ``policy`` gives the same result everywhere; raise with a counterexample if it does not.

    The laws: the result depends on nothing but the heads (not on earlier calls, time, chance); the heads are
    not changed; one head alone is shown as it is; the winner is one of the heads and its value is what is shown;
    the value can be kept as a payload; and journals that get the same versions in different orders and
    batches show the same.

    Args:
        policy: The policy.
        values: Values as your store has them; few and similar ones find more.
        examples: How many sets of heads to try.
        seed: Same seed, same examples.

    Raises:
        PolicyLawError: A law is broken.
    """
    chance = random_module.Random(seed)
    fresh = copy.deepcopy(policy)
    for _ in range(examples):
        heads = _heads(chance, values)
        resolution = _check_pure(policy, heads)
        _check_result(heads, resolution)
    for _ in range(max(1, examples // 10)):
        heads = _heads(chance, values)
        asyncio.run(_check_orders(fresh, heads, chance))


def _heads(chance: random_module.Random, values: Sequence[Mapping[str, Any]]) -> list[Version]:
    count = chance.randint(1, _HEADS_MAX)
    # Few milliseconds, so that some heads share one.
    ids = sorted({next_entry_id(chance.randint(1, 3), b"", chance.getrandbits(48)) for _ in range(count)})
    return [
        Version(entry_id, "delete" if gone else "put", {} if gone else dict(chance.choice(values)), f"r{at}", {}, gone)
        for at, entry_id in enumerate(ids)
        for gone in [chance.random() < 0.25]
    ]


def _check_pure(policy: ConflictPolicy, heads: list[Version]) -> Resolution:
    before = copy.deepcopy(heads)
    first = copy.deepcopy(policy.resolve(heads))
    if heads != before:
        raise PolicyLawError("the heads are not changed", before, f"they became {heads}")
    again = policy.resolve(copy.deepcopy(heads))
    if first != again:
        raise PolicyLawError("the same heads give the same result", heads, f"first {first}, then {again}")
    return first


def _check_result(heads: Sequence[Version], resolution: Resolution) -> None:
    by_id = {head.id: head for head in heads}
    if resolution.winner is not None:
        winner = by_id.get(resolution.winner)
        if winner is None:
            raise PolicyLawError("the winner is one of the heads", heads, f"got {resolution.winner.hex()}")
        expected = None if winner.is_deletion else winner.value
        if resolution.value != expected:
            raise PolicyLawError("the winner's value is what is shown", heads, f"got {resolution.value}")
    if len(heads) == 1:
        expected = None if heads[0].is_deletion else heads[0].value
        if resolution.value != expected or resolution.outcome != "accept":
            raise PolicyLawError("one head alone is shown as it is", heads, f"got {resolution}")
    if resolution.value is not None:
        try:
            encode_payload(resolution.value)
        except Exception as error:
            raise PolicyLawError("the value can be kept as a payload", heads, str(error)) from error


async def _check_orders(policy: ConflictPolicy, heads: Sequence[Version], chance: random_module.Random) -> None:
    entries = [
        Entry(head.id, head.event, "k", encode_payload(causal_payload(head.value, head.replica, head.seen)))
        for head in heads
    ]
    shown = []
    for _ in range(3):
        chance.shuffle(entries)
        # A fresh policy for each, as on another replica: what one remembers the others cannot know.
        shown.append(await _show(copy.deepcopy(policy), entries, chance))
    if any(other != shown[0] for other in shown):
        raise PolicyLawError("arrival does not matter", heads, f"three orders showed {shown}")


async def _show(policy: ConflictPolicy, entries: Sequence[Entry], chance: random_module.Random) -> bytes | None:
    async with MemoryJournal(clock=lambda: 10.0) as journal:
        await journal.register(_schema(policy))
        rest = [RemoteEntry(at, entry) for at, entry in enumerate(entries)]
        while rest:
            size = chance.randint(1, len(rest))
            await journal.write_from_remote("checked", _REMOTE, rest[:size])
            rest = rest[size:]
        return await journal.read(lambda tx: tx.get(_KEY))


def _schema(policy: ConflictPolicy) -> StoreSchema:
    def project(tx: JournalTransaction, _entry: Entry, heads: Sequence[Version]) -> None:
        value = policy.resolve(heads).value
        if value is None:
            tx.delete(_KEY)
        else:
            tx.put(_KEY, encode_payload(value))

    return StoreSchema(
        name="checked",
        keyed_events=frozenset({"put", "delete"}),
        deletions=frozenset({"delete"}),
        project=project,
        policy=policy,
    )
