"""``agentlayers chat``: read the conversations of a replica."""

from __future__ import annotations

import signal

import typer

from agentlayers.cli.chat.export import export
from agentlayers.cli.chat.list_ import list_sessions
from agentlayers.cli.chat.search import search
from agentlayers.cli.chat.show import show

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Read the conversations of a replica: list, show, search and export them. Nothing is changed, be it beside a "
    "running replica or without one.",
)


@app.callback()
def group() -> None:
    """Read the conversations of a replica."""
    if hasattr(signal, "SIGPIPE"):
        # These commands only write to standard output, as to a pager; whoever reads it may have seen enough.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


app.command("list")(list_sessions)
app.command("show")(show)
app.command("search")(search)
app.command("export")(export)
