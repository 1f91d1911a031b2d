"""
The keys of a replica's stores, derived from one root secret.

A user keeps one secret. Each store gets a public key (the name of its journal on a server), an
encryption key and a signing seed of its own, so that sharing one store's keys gives nothing of the
others away. Labels are versioned: another derivation would be another version, never a change of
this one.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final, NamedTuple

from agentlayers.errors import UsageError

__all__ = ["ROOT_BYTES_MIN", "StoreKeys", "derive_store_keys"]

_KEY_BYTES: Final = 32
ROOT_BYTES_MIN: Final = 16
"""Shortest secret that keys are derived from."""


class StoreKeys(NamedTuple):
    """
    What one store needs to replicate.

    Attributes:
        public_key: Hash of the verify key that belongs to ``signing_seed``, in base64url without
            padding.
        private_key: Seals entries, 32 bytes.
        signing_seed: Ed25519 private key, 32 bytes: with it a replica can prove that the public key
            is its own.
    """

    public_key: str
    private_key: bytes
    signing_seed: bytes

    def __repr__(self) -> str:
        return f"StoreKeys(public_key={self.public_key!r})"


def derive_store_keys(root_secret: bytes, store: str) -> StoreKeys:
    """
    Derive the keys of one store; the same everywhere for the same secret and name.

    Args:
        root_secret: The identity's private key.
        store: Name of the store, such as ``chat_history``.

    Raises:
        UsageError: The secret is too short to be one, or the name is empty or holds a slash.
    """
    if len(root_secret) < ROOT_BYTES_MIN:
        raise UsageError(f"a root secret has at least {ROOT_BYTES_MIN} bytes, not {len(root_secret)}")
    if not store or "/" in store:
        raise UsageError(f"store {store!r}: a name to derive keys for is not empty and has no slash")
    signing_seed = _derive(root_secret, store, "signing-seed")
    return StoreKeys(
        public_key=_hashed_verify_key(signing_seed),
        private_key=_derive(root_secret, store, "encryption-key"),
        signing_seed=signing_seed,
    )


def _derive(root_secret: bytes, store: str, purpose: str) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    label = f"agentlayers/v1/store/{store}/{purpose}".encode()
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=label).derive(root_secret)


def _hashed_verify_key(signing_seed: bytes) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    verify_key = Ed25519PrivateKey.from_private_bytes(signing_seed).public_key().public_bytes_raw()
    return base64.urlsafe_b64encode(hashlib.sha256(verify_key).digest()).rstrip(b"=").decode()
