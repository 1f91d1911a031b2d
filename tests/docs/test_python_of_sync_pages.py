"""Python on the pages about protocol and server prints what the pages show; public names are explained there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PROTOCOL = (DOCS / "reference" / "protocol.md").read_text(encoding="utf-8")
SERVER = (DOCS / "howto" / "run-a-server.md").read_text(encoding="utf-8")
SYNC = (DOCS / "howto" / "sync-in-a-program.md").read_text(encoding="utf-8")


def example(page: str, heading: str) -> tuple[str, str]:
    """Return code and output of a section."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0], re.findall(
        r"```text\n(.*?)```", section, re.DOTALL
    )[0]


async def run(code: str) -> None:
    """Run a block, and its main function if it has one."""
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, "page", "exec", dont_inherit=True), names)
    if "main" in names:
        await names["main"]()


@pytest.mark.parametrize(
    ("page", "heading"), [(PROTOCOL, "Sessions"), (SERVER, "In a program")], ids=["protocol", "server"]
)
async def test_an_example_prints_what_the_page_shows(
    page: str, heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, shown = example(page, heading)
    await run(code)

    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("room", "pages", "not_told"),
    [
        ("protocol", PROTOCOL, {"UNDEFINED", "ValueReader", "decode_value", "encode_value"}),
        ("server", SERVER, set()),
        ("sync", SYNC, set()),
        ("transport", SYNC, {"MemoryConnection"}),
    ],
)
def test_the_public_names_of_a_room_are_explained_on_its_page(room: str, pages: str, not_told: set[str]) -> None:
    names = set(importlib.import_module(f"agentlayers.{room}").__all__)

    assert {name for name in names if not re.search(rf"\b{name}\b", pages)} == not_told
