"""Every ``agentlayers`` command line in the README and the docs is one the command line accepts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from agentlayers.cli.main import app
from agentlayers.layer import load_layers
from agentlayers.server import ServerContainer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def command_lines() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.splitlines():
                for part in line.split("&&"):
                    words = part.strip()
                    while re.match(r"[A-Z_]+=\S* ", words):
                        words = words.split(" ", 1)[1]
                    if words.startswith("agentlayers "):
                        yield str(page.relative_to(ROOT)), words


LINES = list(command_lines())


def parse(words: list[str]) -> None:
    """Parse a command line down to the command that would run, without running it."""
    command = typer.main.get_command(app)
    context = None
    name = "agentlayers"
    while True:
        context = command.make_context(name, words, parent=context)
        if not hasattr(command, "resolve_command"):
            return
        words = [*context._protected_args, *context.args]
        name, command, words = command.resolve_command(context, words)


def test_there_are_command_lines_to_check() -> None:
    assert len(LINES) >= 5


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_command_line_in_the_docs_is_accepted(page: str, line: str) -> None:
    parse(shlex.split(line)[1:])


def test_a_misspelt_option_would_be_noticed() -> None:
    with pytest.raises(Exception, match="--dta"):
        parse(["serve", "--dta", "x"])


def test_the_yaml_of_the_server_page_makes_a_graph() -> None:
    page = (ROOT / "docs" / "howto" / "run-a-server.md").read_text(encoding="utf-8")
    (text,) = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "extends: server" in block]
    environment = {"TEAM_A_TOKEN": "a" * 32, "TEAM_B_TOKEN": "b" * 32}
    container = load_layers(
        text, container=ServerContainer, containers={"server": ServerContainer}, environment=environment
    )

    assert issubclass(container, ServerContainer)
