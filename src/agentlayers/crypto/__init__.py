"""
Sealing entries, and deriving the keys that do it.

Loading this package loads nothing heavy: cryptography comes with the first name that is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentlayers.crypto.encryption import AesGcmEncryption, Encryption, PlaintextEncryption
    from agentlayers.crypto.keys import StoreKeys, derive_store_keys

__all__ = [
    "AesGcmEncryption",
    "Encryption",
    "PlaintextEncryption",
    "StoreKeys",
    "derive_store_keys",
]

_MODULES = {
    "AesGcmEncryption": "encryption",
    "Encryption": "encryption",
    "PlaintextEncryption": "encryption",
    "StoreKeys": "keys",
    "derive_store_keys": "keys",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
