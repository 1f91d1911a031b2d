"""``agentlayers check``: say everything that is wrong with graphs, before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentlayers.cli.exit_status import ExitStatus
from agentlayers.cli.layer_source import ALLOW_IMPORTS_HELP, CONTAINER_HELP, container_named, is_path, load_source
from agentlayers.errors import LayerError

if TYPE_CHECKING:
    from agentlayers.layer import LayerContainer

__all__ = ["command"]


def command(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE|PRESET]...", help="YAML files, or presets by name.")
    ] = None,
    container: Annotated[str | None, typer.Option(metavar="NAME|MODULE:CLASS", help=CONTAINER_HELP)] = None,
    allow_imports: Annotated[
        list[str] | None, typer.Option("--allow-imports", metavar="PACKAGE", help=ALLOW_IMPORTS_HELP)
    ] = None,
    any_environment: Annotated[
        bool, typer.Option("--any-environment", help="Accept variables that are not set, as on a build machine.")
    ] = False,
) -> None:
    """
    Check graphs of layers without opening anything, and list every problem of
    every file.

    Checked are: the YAML itself, names of slots, implementations and
    parameters, arguments against the annotated constructors, variables,
    missing services, cycles, and what lives long but needs what lives short.
    Constructors are not called, only what their annotations check: an address
    that is none is found here, one that nobody listens on is not.

    A problem is a line FILE:LINE:COLUMN: TEXT. The exit status is 2 if there
    is one, otherwise 0. Without a file, the container given is checked as it
    stands.

    For example:

      agentlayers check local synced server

      agentlayers check --any-environment deploy/*.yaml

      agentlayers check shop.yaml --container shop.wiring:ShopContainer
    """
    chosen = container_named(container)
    if not sources and container is None:
        raise typer.BadParameter("name a file or a preset, or a --container")
    wanted: list[str | None] = [*(sources or [])] or [None]
    counts = [_check_one(source, chosen, any_environment, allow_imports or []) for source in wanted]
    bad = sum(1 for count in counts if count)
    summary = f"checked {len(counts)} graph{'s' if len(counts) != 1 else ''}: {len(counts) - bad} good"
    if bad:
        summary += f", {bad} not ({_counted(sum(counts), 'problem')})"
    typer.echo(summary)
    if bad:
        raise typer.Exit(ExitStatus.CONFIGURATION)


def _check_one(
    source: str | None, container: type[LayerContainer], any_environment: bool, allow_imports: list[str]
) -> int:
    """Print what there is to say about one source; give the number of its problems."""
    from agentlayers.layer import App, graph_of
    from agentlayers.layer.errors import LayerValidationError

    label = container.__name__ if source is None else _named(source)
    note = ""
    try:
        if source is not None:
            loaded = load_source(source, container, fill=any_environment, allow_imports=allow_imports)
            container = loaded.container
            note = f"; not set: {', '.join(loaded.unset)}" if loaded.unset else ""
        App(container).check()
    except LayerValidationError as error:
        problems = list(error.problems)
    except LayerError as error:
        problems = [error]
    else:
        parts = len(graph_of(container).nodes)
        filled = container.__name__.partition("[")[0]
        typer.echo(f"{label}: good ({filled}, {len(container.providers)} slots, {_counted(parts, 'part')}{note})")
        return 0
    typer.echo(f"{label}: {_counted(len(problems), 'problem')}")
    for problem in problems:
        typer.echo(_described(problem, label))
    for link in sorted({link for problem in problems if (link := _docs_link(problem))}):
        typer.echo(f"  see {link}")
    return len(problems)


def _named(source: str) -> str:
    """Say which file a preset's name stands for."""
    from agentlayers.layer import find_preset
    from agentlayers.layer.errors import PresetNotFoundError

    if is_path(source):
        return source
    try:
        return f"{source} (preset {find_preset(source).name})"
    except PresetNotFoundError:
        return source


def _described(problem: Any, label: str) -> str:
    """Put the place first, as editors and build logs expect it."""
    origin, summary = getattr(problem, "origin", None), getattr(problem, "summary", None)
    if summary is None:
        return f"  {label}: {problem}"
    place = str(origin) if origin is not None else label
    first = summary if summary.startswith(f"{place}: ") else f"{place}: {summary}"
    lines = [first, *(f"  {line}" for line in problem.drawing.splitlines())]
    if problem.hint:
        lines.append(f"    hint: {problem.hint}")
    return "\n".join(f"  {line}" for line in lines)


def _docs_link(problem: Any) -> str:
    link = getattr(problem, "docs_link", None)
    return link() if link is not None else ""


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"
