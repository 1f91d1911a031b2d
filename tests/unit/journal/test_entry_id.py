"""Entry ids as a hybrid logical clock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentlayers.journal.entry_id import (
    entry_id_ceiling,
    entry_id_floor,
    entry_id_millis,
    entry_id_tick,
    next_entry_id,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "effect-v3.json").read_text("utf-8"))["uuid7"]
MILLIS = st.integers(0, 3)
ENTROPY = st.sampled_from([0, 1, (1 << 48) - 1])


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: str(case["msecs"]))
def test_the_milliseconds_of_stock_ids_are_read(case: dict[str, object]) -> None:
    assert case["entryIdMillis"] == entry_id_millis(bytes.fromhex(str(case["idHex"])))


# No id can follow the last millisecond there is.
@pytest.mark.parametrize(
    "case",
    [case for case in VECTORS["cases"] + VECTORS["withSeq"] if not case["idHex"].startswith("ffffffffffff")],
    ids=lambda case: str(case["idHex"]),
)
def test_a_stock_id_is_followed_by_a_valid_uuid7(case: dict[str, object]) -> None:
    stock = bytes.fromhex(str(case["idHex"]))
    made = next_entry_id(0, stock, 0)

    assert stock < made
    assert (made[6] >> 4, made[8] >> 6) == (0x7, 0b10)
    assert entry_id_tick(made) == entry_id_tick(stock) + 1


def test_the_counter_uses_the_bits_of_the_layout() -> None:
    ids = [next_entry_id(1, b"", 0)]
    for _ in range(3):
        ids.append(next_entry_id(1, ids[-1], 0))

    assert [entry_id.hex() for entry_id in ids] == [
        f"000000000001700080{counter:02x}000000000000" for counter in range(4)
    ]


def test_a_full_counter_carries_into_the_milliseconds() -> None:
    last = bytes.fromhex("0000000000017fffbfffffffffffffff")

    assert next_entry_id(1, last, 0).hex() == "00000000000270008000000000000000"


@given(st.lists(st.tuples(MILLIS, ENTROPY), min_size=2, max_size=8))
def test_ids_ascend_whatever_the_clock_does(steps: list[tuple[int, int]]) -> None:
    ids = [b""]
    for now_ms, entropy in steps:
        ids.append(next_entry_id(now_ms, ids[-1], entropy))

    assert sorted(set(ids)) == ids
    assert all(entry_id_millis(made) >= now_ms for made, (now_ms, _) in zip(ids[1:], steps, strict=True))


@given(MILLIS, st.binary(min_size=16, max_size=16), ENTROPY)
@example(0, bytes.fromhex("0000000000ff1fffffffffffffffffff"), 0)
@example(0, bytes.fromhex("0000000000fff000f000000000000000"), 0)
def test_an_id_follows_any_sixteen_bytes(now_ms: int, held: bytes, entropy: int) -> None:
    if entry_id_millis(held) >= (1 << 48) - 1:
        return

    assert held < next_entry_id(now_ms, held, entropy)


def test_the_ceiling_is_an_hour_ahead() -> None:
    now_ms = 1_800_000_000_000
    inside, outside = entry_id_floor(now_ms + 3_600_000), entry_id_floor(now_ms + 3_600_001)

    assert inside < entry_id_ceiling(now_ms) <= outside


def test_the_bounds_of_time_are_clamped() -> None:
    assert entry_id_floor(-1) == bytes(16)
    assert entry_id_floor(1 << 60)[:6] == b"\xff" * 6
