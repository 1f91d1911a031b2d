"""``agentlayers journal``: look into a replica's directory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app", "export"]

app = typer.Typer(no_args_is_help=True, help="Look into the journal of a replica's directory.")


@app.callback()
def _journal() -> None:
    """Keep ``export`` a subcommand while it is the only one."""


@app.command("export")
def export(
    directory: Annotated[Path, typer.Argument(help="Directory of the replica, the one that holds journal.sqlite.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file instead of standard output.")
    ] = None,
    store: Annotated[
        list[str] | None, typer.Option("--store", help="Only this store, such as chat_history; may be repeated.")
    ] = None,
) -> None:
    """
    Write every entry of a replica as JSON lines: a header line, then one line for each entry.

    Reads the files as they are, beside a running replica or without one; changes nothing.
    """
    from agentlayers.storage.export import export_lines

    lines = export_lines(directory, stores=store or None)
    if output is None:
        for line in lines:
            sys.stdout.write(line + "\n")
        return
    with output.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
