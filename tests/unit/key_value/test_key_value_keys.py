"""Keys of read models sort as their parts do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlayers.errors import UsageError
from agentlayers.key_value.keys import pack_key, prefix_end

TEXT = st.text(alphabet="\x00\x01\x02aé", max_size=3)
PARTS = st.tuples(TEXT, st.integers(0, 300), st.binary(max_size=2))


@given(PARTS, PARTS)
def test_keys_sort_as_their_parts(left: tuple[str, int, bytes], right: tuple[str, int, bytes]) -> None:
    def order(parts: tuple[str, int, bytes]) -> tuple[bytes, int, bytes]:
        return parts[0].encode(), parts[1], parts[2]

    assert (order(left) < order(right)) == (pack_key(*left) < pack_key(*right))
    assert (left == right) == (pack_key(*left) == pack_key(*right))


@given(TEXT, TEXT, st.integers(0, 3))
def test_a_prefix_holds_its_keys_and_no_others(name: str, other: str, number: int) -> None:
    start, key = pack_key(name), pack_key(other, number)

    assert (name == other) == (start <= key < prefix_end(start))


@pytest.mark.parametrize("part", [-1, 1 << 64, 1.5, None, "\ud800"])
def test_a_part_that_cannot_be_packed_is_refused(part: object) -> None:
    with pytest.raises(UsageError, match="cannot be in a key"):
        pack_key("a", part)  # type: ignore[arg-type]


def test_a_prefix_of_ones_has_an_end_too() -> None:
    assert b"\xff\xff" < prefix_end(b"\xff")
