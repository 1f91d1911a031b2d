"""
Sealing entries, and deriving the keys that do it.

Loading this package loads nothing heavy: cryptography comes with the first name that is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlayers.lazy_exports import lazy_exports

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

_HOMES = {
    "AesGcmEncryption": "encryption",
    "Encryption": "encryption",
    "PlaintextEncryption": "encryption",
    "StoreKeys": "keys",
    "derive_store_keys": "keys",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(__name__, _HOMES)
