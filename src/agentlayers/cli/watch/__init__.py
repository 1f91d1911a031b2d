"""``agentlayers watch``: bring what other programs record into a replica as it happens."""

from __future__ import annotations

import typer

from agentlayers.cli.watch.claude_code import claude_code

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Bring what other programs record into a replica as it happens.")


@app.callback()
def group() -> None:
    """Bring what other programs record into a replica as it happens."""


app.command("claude-code")(claude_code)
