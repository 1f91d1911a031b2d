"""Help of every command is broken by the terminal, not by the source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from agentlayers.cli.help_text import reflow
from agentlayers.cli.main import app


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Walk through a command and all beneath it."""
    yield name, command
    for below, one in getattr(command, "commands", {}).items():
        yield from commands(one, f"{name} {below}")


COMMANDS = [one for one in commands(typer.main.get_command(app), "agentlayers") if not hasattr(one[1], "commands")]


def test_there_are_commands_to_look_at() -> None:
    assert len(COMMANDS) > 20


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_a_paragraph_of_help_is_one_line(name: str, command: Any) -> None:
    help_text = command.help or ""

    assert help_text, name
    assert all("\n" not in one for one in help_text.split("\n\n") if not one.startswith(" "))


def test_examples_stay_as_they_are() -> None:
    assert reflow("One\ntwo.\n\n  a\n  b") == "One two.\n\n  a\n  b"
