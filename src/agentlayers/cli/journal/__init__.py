"""``agentlayers journal``: look into a replica's directory, and look after it."""

from __future__ import annotations

import typer

from agentlayers.cli.journal import reactions, remotes
from agentlayers.cli.journal.compact import compact
from agentlayers.cli.journal.conflicts import conflicts
from agentlayers.cli.journal.export import export
from agentlayers.cli.journal.import_ import import_file
from agentlayers.cli.journal.list_ import list_entries
from agentlayers.cli.journal.rebuild import rebuild
from agentlayers.cli.journal.search import search
from agentlayers.cli.journal.show import show
from agentlayers.cli.journal.stats import stats
from agentlayers.cli.journal.verify import verify

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Look into the journal of a replica's directory, and look after it, beside a running replica or without one.",
)
app.command("stats")(stats)
app.command("list")(list_entries)
app.command("show")(show)
app.command("search")(search)
app.command("conflicts")(conflicts)
app.add_typer(remotes.app, name="remotes")
app.add_typer(reactions.app, name="reactions")
app.command("verify")(verify)
app.command("rebuild")(rebuild)
app.command("compact")(compact)
app.command("export")(export)
app.command("import")(import_file)
