"""Where a command finds its token: the option, a file, or the environment."""

from __future__ import annotations

import os
from pathlib import Path

from agentlayers.errors import SettingsError

__all__ = ["read_token"]


def read_token(token: str | None, token_file: Path | None, *, variable: str) -> str | None:
    """
    Return the token, or None if none is given anywhere.

    Args:
        token: Of ``--token``.
        token_file: Of ``--token-file``.
        variable: Environment variable that is asked last; an empty one counts as absent.

    Raises:
        SettingsError: Both options, or a file that cannot be read or holds nothing. The text never shows a token.
    """
    if token is not None and token_file is not None:
        raise SettingsError(setting="--token", expected="one of --token and --token-file, not both", secret=True)
    if token_file is None:
        return token if token is not None else os.environ.get(variable) or None
    try:
        text = token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        expected = f"a readable file with the token in it ({reason})"
        raise SettingsError(setting="--token-file", value=str(token_file), expected=expected) from error
    if not text:
        raise SettingsError(setting="--token-file", value=str(token_file), expected="a file with a token in it")
    return text
