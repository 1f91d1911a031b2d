"""``agentlayers journal export``: a replica's entries as JSON lines."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Annotated

import typer

from agentlayers.cli.journal.arguments import Directory, Stores, readable_stores
from agentlayers.cli.journal.secret import PASSPHRASE_VARIABLE, identity_secret, passphrase_secret
from agentlayers.cli.journal.verify import count_entries
from agentlayers.cli.progress import progress_bar
from agentlayers.errors import SettingsError, StorageUnavailableError

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
            _write_file(output, lines)


def _counted(lines: Iterable[str], advance: Callable[[int], None]) -> Iterator[str]:
    for line in lines:
        yield line
        advance(1)


def _write_file(path: Path, lines: Iterable[str]) -> None:
    """Put a file in place whole or not at all; a device or pipe is written to as it is."""
    path = path.resolve()
    if path.exists() and not path.is_file():
        with _translated(path), path.open("w", encoding="utf-8") as file:
            _write(path, file, lines)
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with _translated(path):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with _translated(path), os.fdopen(descriptor, "w", encoding="utf-8") as file:
            _write(path, file, lines)
            file.flush()
            os.fsync(file.fileno())
        with _translated(path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, file: IO[str], lines: Iterable[str]) -> None:
    for line in lines:
        with _translated(path):
            file.write(line + "\n")


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}; give a file in a directory this user may write to, with room for it"
        raise StorageUnavailableError(backend="export", operation="write", path=path, reason=reason) from error
