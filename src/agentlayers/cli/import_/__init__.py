"""``agentlayers import``: bring what other programs recorded into a replica."""

from __future__ import annotations

import typer

from agentlayers.cli.import_.claude_code import claude_code

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Bring what other programs recorded into a replica.")


@app.callback()
def group() -> None:
    """Bring what other programs recorded into a replica."""


app.command("claude-code")(claude_code)
