"""Which values must not be shown: those whose parameter's name speaks of a secret."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["MASK", "is_secret", "mask_text"]

MASK: Final = "***"

_SECRET: Final = re.compile(r"token|password|passphrase|secret|credential|private|(^|_)key($|_)", re.IGNORECASE)
_HARMLESS: Final = re.compile(r"public_key|primary_key|foreign_key|^key_value", re.IGNORECASE)


_IN_ADDRESS: Final = re.compile(r"(://[^/@:\s]*:)(?:[^/?#\s]+|[^/@\s]+)(@)")
_IN_SETTING: Final = re.compile(
    r"((?:^|[?&;#\s])[^=?&;#\s]*(?:token|secret|passw|signature|credential|key)[^=?&;#\s]*=)(?:'[^']*'|[^&;#\s]+)",
    re.IGNORECASE,
)


def is_secret(label: str) -> bool:
    """
    Tell whether a parameter's name says that its value must not be shown.

    >>> is_secret("token"), is_secret("api_key"), is_secret("public_key"), is_secret("keyboard")
    (True, True, False, False)

    """
    return _SECRET.search(label) is not None and _HARMLESS.search(label) is None


def mask_text(text: str) -> str:
    """
    Hide passwords and tokens inside addresses and connection settings.

    >>> mask_text("postgres://me:pw@host/db"), mask_text("ws://host/log?token=abc&x=1")
    ('postgres://me:***@host/db', 'ws://host/log?token=***&x=1')
    >>> mask_text("host=db password='my pw' port=1")
    'host=db password=*** port=1'

    """
    if "://" not in text and "=" not in text:
        return text
    return _IN_SETTING.sub(rf"\1{MASK}", _IN_ADDRESS.sub(rf"\1{MASK}\2", text))
