"""``agentlayers identity``: the secret that replicas of one user share."""

from __future__ import annotations

import typer

from agentlayers.cli.identity.export import export
from agentlayers.cli.identity.import_ import import_identity
from agentlayers.cli.identity.new import new
from agentlayers.cli.identity.show import show

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Make, show and carry over the identity of a replica: the secret that its stores' keys are derived from.",
)
app.command("new")(new)
app.command("show")(show)
app.command("import")(import_identity)
app.command("export")(export)
