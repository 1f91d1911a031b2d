"""``agentlayers journal export``: a replica's entries as JSON lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from agentlayers.cli.journal.arguments import Directory, Stores, readable_stores
from agentlayers.cli.journal.secret import PASSPHRASE_VARIABLE, identity_secret, passphrase_secret
from agentlayers.cli.journal.verify import count_entries
from agentlayers.cli.output_file import write_lines
from agentlayers.cli.progress import progress_bar
from agentlayers.errors import SettingsError

__all__ = ["export"]


def export(
    directory: Directory,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write to this file instead of standard output.", show_default=False),
    ] = None,
    store: Stores = None,
    encrypted: Annotated[
        bool, typer.Option("--encrypted", help="Seal it (AES-256-GCM) with the replica's identity.")
    ] = False,
    passphrase: Annotated[
        bool,
        typer.Option("--passphrase", help=f"Seal it with a passphrase, from {PASSPHRASE_VARIABLE} or asked for."),
    ] = False,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Seal it with the passphrase in this file.", show_default=False)
    ] = None,
    identity: Annotated[
        Path | None, typer.Option(help="Seal it with the identity in this file.", show_default=False)
    ] = None,
) -> None:
    """
    Write every entry of a replica as JSON lines: a header line, then one line for each entry.

    Reads the files as they are, beside a running replica or without one; changes nothing. A file is only there when it
    is whole, readable by its owner alone. 'journal import' reads it back. The format is in
    docs/reference/export-format.md.

    A sealed export can be read with the same identity (--encrypted) or passphrase, and tells when it was changed or
    cut off.

    For instance:

      agentlayers journal export ./replica | jq -r 'select(.event == "tool_use") | .payload.toolName'

      agentlayers journal export ./replica --encrypted --output backup.jsonl
    """
    from agentlayers.storage.export import export_lines
    from agentlayers.storage.sealed_export import seal_lines

    with_passphrase = passphrase or passphrase_file is not None
    if with_passphrase and (encrypted or identity is not None):
        expected = "one secret: --encrypted or --identity, or else --passphrase or --passphrase-file"
        raise SettingsError(setting="--passphrase", value="and an identity", expected=expected)
    lines = export_lines(directory, stores=readable_stores(directory, store))
    with progress_bar("exporting", count_entries(directory) if output else None) as advance:
        lines = _counted(lines, advance)
        if with_passphrase:
            lines = seal_lines(lines, passphrase_secret(passphrase_file, is_new=True))
        elif encrypted or identity is not None:
            lines = seal_lines(lines, identity_secret(directory, identity))
        if output is None:
            for line in lines:
                sys.stdout.write(line + "\n")
        else:
            write_lines(output, lines)


def _counted(lines: Iterable[str], advance: Callable[[int], None]) -> Iterator[str]:
    for line in lines:
        yield line
        advance(1)
