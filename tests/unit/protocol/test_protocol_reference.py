"""docs/reference/protocol.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentlayers import limits
from agentlayers.protocol.decoder import _DECODERS
from agentlayers.protocol.messages import CAPABILITY_ACK_THROUGH, CAPABILITY_DIGESTS, CAPABILITY_ENTRY_NONCES

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "protocol.md").read_text()
BOUNDS = dict(re.findall(r"^\| `([A-Z_]+_MAX)` \| ([0-9,]+(?: MiB| KiB)?) \|", PAGE, re.MULTILINE))
UNITS = {"MiB": limits.MIB, "KiB": limits.KIB}


@pytest.mark.parametrize("name", list(BOUNDS))
def test_bounds_are_those_of_limits(name: str) -> None:
    number, _, unit = BOUNDS[name].partition(" ")

    assert int(number.replace(",", "")) * UNITS.get(unit, 1) == getattr(limits, name)


def test_every_message_and_capability_is_described() -> None:
    assert len(BOUNDS) >= 9
    for name in (*_DECODERS, CAPABILITY_ENTRY_NONCES, CAPABILITY_ACK_THROUGH, CAPABILITY_DIGESTS):
        assert f"`{name}`" in PAGE
