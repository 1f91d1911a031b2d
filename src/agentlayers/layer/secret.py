"""Which values must not be shown: those whose parameter's name speaks of a secret."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["MASK", "is_secret"]

MASK: Final = "***"

_SECRET: Final = re.compile(r"token|password|passphrase|secret|credential|private|(^|_)key($|_)", re.IGNORECASE)
_HARMLESS: Final = re.compile(r"public_key|primary_key|foreign_key|^key_value", re.IGNORECASE)


def is_secret(label: str) -> bool:
    """
    Tell whether a parameter's name says that its value must not be shown.

    >>> is_secret("token"), is_secret("api_key"), is_secret("public_key"), is_secret("keyboard")
    (True, True, False, False)

    """
    return _SECRET.search(label) is not None and _HARMLESS.search(label) is None
