"""``agentlayers schema``: the JSON Schema of the YAML a container takes, for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from agentlayers.cli.layer_source import CONTAINER_HELP, container_named

__all__ = ["command"]


def command(
    container: Annotated[str | None, typer.Option(metavar="NAME|MODULE:CLASS", help=CONTAINER_HELP)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file instead of standard output.")
    ] = None,
) -> None:
    """
    Write the JSON Schema of the YAML files of a container, so that an editor
    completes and checks them.

    For the YAML language server, begin a file with this line:

      # yaml-language-server: $schema=agent_runtime.json

    A schema knows slots, implementations and arguments. It does not know
    references between parts or variables; agentlayers check does.

    For example:

      agentlayers schema --output agent_runtime.json

      agentlayers schema --container shop.wiring:ShopContainer --output shop.json
    """
    from agentlayers.layer.yaml_schema import schema_of

    text = json.dumps(schema_of(container_named(container)), indent=2, ensure_ascii=False)
    if output is None:
        typer.echo(text)
    else:
        output.write_text(text + "\n", encoding="utf-8")
