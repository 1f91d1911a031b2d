"""The ``agentlayers`` command: collects the commands and turns known faults into one line and a status."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from agentlayers.cli import chat, check, demo, graph, identity, journal, run, schema, serve, status, sync, watch
from agentlayers.cli import import_ as import_group
from agentlayers.cli.exit_status import ExitStatus, exit_status_of, root_fault
from agentlayers.cli.help_text import reflow_help
from agentlayers.cli.logs import LogFormat, configure_logs
from agentlayers.cli.table import printable
from agentlayers.errors import AgentLayersError

__all__ = ["app", "main"]

app = typer.Typer(
    name="agentlayers",
    help="Record, encrypt and replicate what agents do; wire it all with layers.\n\n"
    "Start with [bold]agentlayers demo[/]: a server and two replicas on this machine, killed and restarted.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"agentlayers {version('agentlayers')}")
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Log what happens (-v) or everything (-vv).")
    ] = 0,
    log_format: Annotated[
        LogFormat, typer.Option(help="Logs on standard error: text, or json with one object per line.")
    ] = "text",
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Set what holds for every command."""
    configure_logs(verbosity=verbose, log_format=log_format)


app.command("demo")(demo.command)
app.command("run")(run.command)
app.command("serve")(serve.command)
app.command("check")(check.command)
app.command("graph")(graph.command)
app.command("schema")(schema.command)
app.command("sync")(sync.command)
app.command("status")(status.command)
app.add_typer(import_group.app, name="import")
app.add_typer(chat.app, name="chat")
app.add_typer(watch.app, name="watch")
app.add_typer(journal.app, name="journal")
app.add_typer(identity.app, name="identity")
reflow_help(app)


def main() -> None:
    """
    Run the command line and exit.

    A known fault prints ``error: ...`` on standard error; its status is in
    :class:`~agentlayers.cli.exit_status.ExitStatus`.
    """
    try:
        app(standalone_mode=True)
    except AgentLayersError as error:
        _fail(error)
    except BaseExceptionGroup as group:
        known, unknown = group.split(AgentLayersError)
        if unknown is not None or known is None:
            raise
        _fail(_first_leaf(known))
    except KeyboardInterrupt:
        sys.exit(ExitStatus.INTERRUPTED)


def _first_leaf(group: BaseExceptionGroup[AgentLayersError]) -> AgentLayersError:
    inner = group.exceptions[0]
    return _first_leaf(inner) if isinstance(inner, BaseExceptionGroup) else inner


def _fail(error: AgentLayersError) -> None:
    fault = root_fault(error)
    # What a peer said of itself may be in it.
    typer.echo(f"error: {printable(str(fault))}", err=True)
    sys.exit(exit_status_of(fault))
