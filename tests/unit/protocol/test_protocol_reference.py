"""docs/reference/protocol.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentlayers import limits
from agentlayers.protocol.decoder import _DECODERS
from agentlayers.server.greeting import CAPABILITIES
from agentlayers.server.writes_in_flight import ACKS_OWED_MAX

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "protocol.md").read_text()
BOUNDS = dict(re.findall(r"^\| `([A-Z_]+_MAX)` \| ([0-9,]+(?: MiB| KiB)?) \|", PAGE, re.MULTILINE))
UNITS = {"MiB": limits.MIB, "KiB": limits.KIB}


@pytest.mark.parametrize("name", list(BOUNDS))
def test_bounds_are_those_of_limits(name: str) -> None:
    number, _, unit = BOUNDS[name].partition(" ")

    assert int(number.replace(",", "")) * UNITS.get(unit, 1) == getattr(limits, name)


def test_the_cost_of_an_entry_and_the_window_are_as_described() -> None:
    assert f"`encryptedEntry` and {limits.CREDIT_ENTRY_BYTES} more" in PAGE
    assert f"ours gives {limits.PULL_CREDIT_BYTES // limits.MIB} MiB to each store" in PAGE
    assert f"{ACKS_OWED_MAX:,} Acks that are owed" in PAGE


def test_every_message_and_capability_is_described() -> None:
    assert len(BOUNDS) >= 9
    for name in (*_DECODERS, *CAPABILITIES):
        assert f"`{name}`" in PAGE
