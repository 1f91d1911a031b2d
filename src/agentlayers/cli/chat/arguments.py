"""Arguments that several ``agentlayers chat`` commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AsJson", "Directory", "Last", "Session"]

Directory = Annotated[
    Path,
    typer.Argument(
        help="Directory of the replica, the one that holds journal.sqlite; or one journal file.", show_default=False
    ),
]
Session = Annotated[
    str | None,
    typer.Argument(
        metavar="SESSION", help="Id of the session, or its first characters if no other begins so.", show_default=False
    ),
]
Last = Annotated[bool, typer.Option("--last", help="The session in which something happened last.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
