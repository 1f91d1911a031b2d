"""Payloads: the forms a stock peer writes, to the byte, and every form it reads."""

from __future__ import annotations

import datetime as dt
import enum
import math
import tracemalloc
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlayers.errors import MalformedMessageError, UsageError
from agentlayers.limits import PAYLOAD_BYTES_MAX, PAYLOAD_DEPTH_MAX
from agentlayers.protocol.payload import (
    UNDEFINED,
    decode_payload,
    decode_value,
    encode_payload,
    encode_value,
)
from vectors.effect_v3 import VECTORS, from_json, named

ENCODE = VECTORS["msgpackEncode"]
PAYLOADS = named(ENCODE["payloads"])
DECODED = named(VECTORS["msgpackDecode"]["cases"])
A_FIXMAP = "Map becomes an ordinary map"  # a JavaScript Map; Python has one kind of map
NOT_READ = {"0xc1"}  # reserved by MessagePack; msgpackr returns an object that stands for the byte


@pytest.mark.parametrize("case", ENCODE["numbers"], ids=lambda case: str(case["value"]))
def test_numbers_are_written_and_read_as_stock_peers_do(case: dict[str, Any]) -> None:
    assert encode_value(case["value"]).hex() == case["hex"]
    assert decode_value(bytes.fromhex(case["hex"])) == case["value"]


def test_special_numbers_are_written_and_read_as_stock_peers_do() -> None:
    special = {case["name"]: case["hex"] for case in ENCODE["special"]}

    assert encode_value(math.nan).hex() == special["NaN"]
    assert encode_value(math.inf).hex() == special["Infinity"]
    assert encode_value(-math.inf).hex() == special["-Infinity"]
    assert math.isnan(decode_value(bytes.fromhex(special["NaN"])))
    assert decode_value(bytes.fromhex(special["-Infinity"])) == -math.inf


@pytest.mark.parametrize("case", ENCODE["strings"], ids=lambda case: str(case["length"]))
def test_texts_take_the_shortest_header(case: dict[str, Any]) -> None:
    data = encode_value("a" * case["length"])

    assert data.hex().startswith(case["headHex"])
    assert decode_value(data) == "a" * case["length"]


@pytest.mark.parametrize("case", ENCODE["bins"], ids=lambda case: str(case["length"]))
def test_bytes_take_the_shortest_header(case: dict[str, Any]) -> None:
    data = encode_value(bytes(case["length"]))

    assert data[:2].hex() == case["headHex"][:4]
    assert decode_value(data) == bytes(case["length"])


@pytest.mark.parametrize("case", ENCODE["arrays"], ids=lambda case: str(case["length"]))
def test_lists_take_the_shortest_header(case: dict[str, Any]) -> None:
    data = encode_value([0] * case["length"])

    assert data.hex().startswith(case["headHex"])
    assert decode_value(data) == [0] * case["length"]


@pytest.mark.parametrize("name", [name for name in PAYLOADS if name != A_FIXMAP])
def test_payloads_are_written_to_the_byte(name: str) -> None:
    case = PAYLOADS[name]

    assert encode_value(from_json(case["value"])).hex() == case["hex"]


@pytest.mark.parametrize("name", list(PAYLOADS))
def test_payloads_of_stock_peers_are_read(name: str) -> None:
    case = PAYLOADS[name]
    value = from_json(case["value"])
    if name == A_FIXMAP:
        value = dict(value["$map"])
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if item is not UNDEFINED}

    assert decode_value(bytes.fromhex(case["hex"])) == value


@pytest.mark.parametrize("name", [name for name in DECODED if name not in NOT_READ])
def test_forms_that_stock_peers_never_write_are_read_as_they_read_them(name: str) -> None:
    case = DECODED[name]
    data = bytes.fromhex(case["hex"])

    if case["result"]["ok"]:
        assert decode_value(data) == from_json(case["result"]["value"])
    else:
        with pytest.raises(MalformedMessageError):
            decode_value(data)


@pytest.mark.parametrize("name", sorted(NOT_READ))
def test_a_byte_that_is_no_messagepack_is_refused(name: str) -> None:
    with pytest.raises(MalformedMessageError, match="payload"):
        decode_value(bytes.fromhex(DECODED[name]["hex"]))


@pytest.mark.parametrize("case", VECTORS["optionalFields"]["encode"], ids=lambda case: case["hex"])
def test_optional_fields_are_written_to_the_byte(case: dict[str, Any]) -> None:
    assert encode_payload(from_json(case["value"])).hex() == case["hex"]


@pytest.mark.parametrize("case", VECTORS["optionalFields"]["decode"], ids=lambda case: case["hex"])
def test_optional_fields_are_read(case: dict[str, Any]) -> None:
    """What a stock peer's schema refuses is read all the same: nil as None, a wide integer as an integer."""
    read = decode_payload(bytes.fromhex(case["hex"]))

    if case["result"]["ok"]:
        expected = {key: value for key, value in from_json(case["result"]["value"]).items() if value is not UNDEFINED}
        assert {key: value for key, value in read.items() if key != "c"} == expected
    else:
        assert read["a"] in (None, 1)


def test_an_undefined_field_is_absent_when_read() -> None:
    assert decode_payload(bytes.fromhex("82a161d40000a162a178")) == {"b": "x"}


def test_integers_beyond_javascripts_are_native_and_exact() -> None:
    value = {"native": [2**53 + 1, 2**64 - 1, -(2**63)], "wide": [2**53, -(2**53)]}

    data = encode_payload(value)

    assert decode_payload(data) == value
    assert data.count(b"\xcb") == 2
    assert encode_value(2**53 + 1)[0] == 0xCF


@pytest.mark.parametrize("number", [2**53 + 2.0, 1e300, 0.5, -0.25])
def test_floats_that_are_no_safe_integers_stay_floats(number: float) -> None:
    read = decode_value(encode_value(number))

    assert type(read) is float
    assert read == number


def test_none_is_nil_and_not_absent() -> None:
    assert decode_payload(encode_payload({"a": None, "b": [None]})) == {"a": None, "b": [None]}


def test_half_a_surrogate_pair_becomes_a_replacement_character_as_in_javascript() -> None:
    assert decode_payload(encode_payload({"t\ud83d": ["\ud83d", "\ud83d\ude00"]})) == {"t\ufffd": ["\ufffd", "😀"]}


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


def test_subclasses_of_plain_types_are_written_as_these() -> None:
    value = {
        "a": Colour.RED,
        "b": Level.HIGH,
        "c": OrderedDict(x=1),
        "d": MappingProxyType({"y": (1, 2)}),
        "e": bytearray(b"z"),
        Colour.RED: True,
    }

    assert decode_payload(encode_payload(value)) == {
        "a": "red",
        "b": 3,
        "c": {"x": 1},
        "d": {"y": [1, 2]},
        "e": b"z",
        "red": True,
    }


def test_instants_survive() -> None:
    instant = dt.datetime(2026, 11, 23, 6, 30, 1, 5000, dt.UTC)

    assert decode_value(encode_value([instant])) == [instant]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"a": {"b": [0, {1, 2}]}}, r"payload\.a\.b\[1\]: set has no MessagePack form"),
        ({"a": {1: 2}}, r"payload\.a\.1: a key must be text, got int"),
        ({"a": {b"k": 2}}, "a key must be text, got bytes"),
        ({"a": 2**64}, r"payload\.a: an integer beyond 64 bits"),
        ({"a": dt.datetime(2026, 1, 1)}, r"payload\.a: a datetime without a time zone"),  # noqa: DTZ001
        ([1], "payload: expected a map, got list"),
        ({"a": bytes(PAYLOAD_BYTES_MAX)}, "write it in pieces"),
    ],
)
def test_what_cannot_be_written_is_named_with_its_place(payload: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encode_payload(payload)


def test_depth_is_bounded_both_ways_at_the_same_place() -> None:
    def nested(depth: int) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for _ in range(depth - 1):
            value = {"a": value}
        return value

    assert decode_payload(encode_payload(nested(PAYLOAD_DEPTH_MAX))) == nested(PAYLOAD_DEPTH_MAX)
    with pytest.raises(UsageError, match="inside one another"):
        encode_payload(nested(PAYLOAD_DEPTH_MAX + 1))
    with pytest.raises(MalformedMessageError, match="inside one another"):
        decode_payload(b"\x81\xa1a" * PAYLOAD_DEPTH_MAX + b"\x80")
    with pytest.raises(MalformedMessageError):
        decode_value(b"\x91" * 100_000 + b"\xc0")


def test_a_payload_that_holds_itself_is_refused() -> None:
    value: dict[str, Any] = {}
    value["self"] = value

    with pytest.raises(UsageError, match="inside one another"):
        encode_payload(value)


def test_announced_lengths_cost_nothing_until_the_items_are_there() -> None:
    """A thousand nested headers of millions of items each would set gigabytes aside."""
    size = PAYLOAD_BYTES_MAX // 4
    hostile = (b"\xdd" + size.to_bytes(4)) * 1000 + bytes(size)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessageError):
            decode_value(hostile)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 10 * PAYLOAD_BYTES_MAX


def test_a_payload_over_the_bound_is_refused_before_it_is_read() -> None:
    with pytest.raises(MalformedMessageError, match="more than"):
        decode_value(b"\xc6" + (PAYLOAD_BYTES_MAX + 1).to_bytes(4) + bytes(PAYLOAD_BYTES_MAX + 1))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([2**31, 2**32, 2**53, -(2**31) - 1, 2**53 + 1]),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.binary(max_size=8),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=4), values, max_size=6))
def test_every_payload_is_read_back_as_it_was(payload: dict[str, Any]) -> None:
    assert decode_payload(encode_payload(payload)) == payload


@given(st.dictionaries(st.text(max_size=4), values, max_size=6))
def test_a_payload_has_no_wide_integer_that_a_stock_peer_could_hold(payload: dict[str, Any]) -> None:
    def check(value: Any) -> None:
        if type(value) is int:
            assert -(2**31) <= value < 2**32 or abs(value) > 2**53
        for item in value.values() if type(value) is dict else value if type(value) is list else ():
            check(item)

    check(msgpack.unpackb(encode_payload(payload)))
