"""Tell, without keeping a key, whether entries are opened with the same one as before."""

from __future__ import annotations

import hmac
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from agentlayers.crypto.encryption import Encryption

__all__ = ["key_check"]

_CHECK_BYTES: Final = 16


def key_check(encryption: Encryption, private_key: bytes) -> bytes:
    """
    Return what differs when another key, kind of encryption or release may open what this one cannot.

    It is kept in the journal. Nothing of the key can be told from it, but that it is the same.

    Args:
        encryption: Opens entries.
        private_key: Of the store.
    """
    kind = type(encryption)
    what = f"agentlayers quarantine {_release()} {kind.__module__}.{kind.__qualname__}"
    return hmac.digest(private_key, what.encode(), "sha256")[:_CHECK_BYTES]


def _release() -> str:
    try:
        return version("agentlayers")
    except PackageNotFoundError:
        return ""  # run from its source: what another release can open is tried when it is installed
