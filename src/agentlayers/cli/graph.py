"""``agentlayers graph``: show what an app is made of, without opening anything."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentlayers.cli.layer_source import ALLOW_IMPORTS_HELP, CONTAINER_HELP, container_named, load_source

if TYPE_CHECKING:
    from agentlayers.layer import Graph

__all__ = ["GraphFormat", "command"]


class GraphFormat(StrEnum):
    """How the graph is written."""

    TEXT = "text"
    MERMAID = "mermaid"
    JSON = "json"
    SVG = "svg"


def command(
    source: Annotated[
        str | None, typer.Argument(metavar="[FILE|PRESET]", help="A YAML file, or a preset by name.")
    ] = None,
    format_: Annotated[GraphFormat, typer.Option("--format", "-f", help="How to write it.")] = GraphFormat.TEXT,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file instead of standard output.")
    ] = None,
    container: Annotated[str | None, typer.Option(metavar="NAME|MODULE:CLASS", help=CONTAINER_HELP)] = None,
    allow_imports: Annotated[
        list[str] | None, typer.Option("--allow-imports", metavar="PACKAGE", help=ALLOW_IMPORTS_HELP)
    ] = None,
) -> None:
    """
    Draw the graph of a preset, a YAML file or a container: parts, how long
    they live, and what needs what.

    Nothing is built or opened. Values that come from variables are shown as
    ${NAME}, whether they are set or not; tokens, keys and passwords as ***.

    text lists each part with its arguments; mermaid is a flowchart for
    Markdown; json is for programs; svg is a picture that needs no other
    program. Without a file, the container given is drawn as it stands.

    For example:

      agentlayers graph local

      agentlayers graph synced --format svg --output synced.svg

      agentlayers graph shop.yaml --container shop.wiring:ShopContainer --format mermaid
    """
    if source is None and container is None:
        raise typer.BadParameter("name a file or a preset, or a --container")
    text = _written(_read(source, container, allow_imports or []), format_)
    if output is None:
        typer.echo(text)
    else:
        output.write_text(text + "\n", encoding="utf-8")


def _read(source: str | None, container: str | None, allow_imports: list[str]) -> Graph:
    from agentlayers.layer import graph_of

    chosen = container_named(container)
    if source is None:
        return graph_of(chosen)
    loaded = load_source(source, chosen, fill=True, allow_imports=allow_imports)
    return graph_of(loaded.container).masked(loaded.variables.used)


def _written(graph: Graph, format_: GraphFormat) -> str:
    if format_ is GraphFormat.SVG:
        from agentlayers.cli.graph_svg import to_svg

        return to_svg(graph)
    writers = {
        GraphFormat.TEXT: graph.to_text,
        GraphFormat.MERMAID: graph.to_mermaid,
        GraphFormat.JSON: graph.to_json,
    }
    return writers[format_]()
