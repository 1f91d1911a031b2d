"""Where a sealed export's secret comes from: an identity, or a passphrase."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from agentlayers.errors import SettingsError

if TYPE_CHECKING:
    from agentlayers.storage.sealed_export import ExportSecret

__all__ = ["PASSPHRASE_VARIABLE", "identity_secret", "passphrase_secret"]

PASSPHRASE_VARIABLE = "AGENTLAYERS_PASSPHRASE"  # noqa: S105  # its name, not its value


def identity_secret(directory: Path, identity_file: Path | None) -> ExportSecret:
    """
    Return the secret of the replica's identity, or of the one in a file.

    Raises:
        IdentityError: There is none, or it cannot be read.
    """
    from agentlayers.eventlog.identity import Identity
    from agentlayers.storage.sealed_export import ExportSecret

    beside = directory.parent if directory.is_file() else directory
    return ExportSecret.of_identity(Identity.load(beside / "identity" if identity_file is None else identity_file))


def passphrase_secret(passphrase_file: Path | None, *, is_new: bool) -> ExportSecret:
    """
    Return a passphrase from a file, the environment, or whoever sits at the terminal.

    Raises:
        SettingsError: The file cannot be read, or there is no terminal to ask at.
    """
    from agentlayers.storage.sealed_export import ExportSecret

    given = os.environ.get(PASSPHRASE_VARIABLE) if passphrase_file is None else _read_file(passphrase_file)
    if not given:
        if not sys.stdin.isatty():
            expected = f"a passphrase: --passphrase-file or {PASSPHRASE_VARIABLE}, where there is no terminal to ask at"
            raise SettingsError(setting="--passphrase", value="none given", expected=expected)
        given = typer.prompt("passphrase", hide_input=True, confirmation_prompt=is_new, err=True)
    return ExportSecret.of_passphrase(str(given))


def _read_file(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        expected = f"a readable file with the passphrase in it ({reason})"
        raise SettingsError(setting="--passphrase-file", value=str(path), expected=expected) from error
    if not text:
        expected = "a file with a passphrase in it"
        raise SettingsError(setting="--passphrase-file", value=str(path), expected=expected)
    return text
