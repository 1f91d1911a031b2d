"""Keys of stores, derived from one root secret."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentlayers.crypto.keys import derive_store_keys
from agentlayers.errors import UsageError

ROOT = bytes(range(32))
PRIVATE_KEY = "82f22e17073513bbff2b22c24cd22ff609ce1d2e604c59ebf5567d3806693f83"
SIGNING_SEED = "bafa495c24825c534d0e75a1737e02bc53ac598d57b6fe16a0f2fa43941a7bb1"


def test_derived_keys_never_change() -> None:
    """Replicas of any release have to find each other's journals: these bytes are for ever."""
    keys = derive_store_keys(ROOT, "chat_history")

    assert keys.public_key == "CrXOz6yxcYrjdTsnKiOGKAELF0gsE1qjJxhG5OS2cIc"
    assert keys.private_key.hex() == PRIVATE_KEY
    assert keys.signing_seed.hex() == SIGNING_SEED


def test_the_public_key_is_the_hash_of_the_verify_key() -> None:
    keys = derive_store_keys(ROOT, "artifacts")
    verify_key = Ed25519PrivateKey.from_private_bytes(keys.signing_seed).public_key()
    digest = hashlib.sha256(verify_key.public_bytes_raw()).digest()

    assert base64.urlsafe_b64decode(keys.public_key + "=") == digest
    assert len(keys.public_key) == 43


def test_no_two_keys_are_the_same() -> None:
    found = [
        value
        for root in (ROOT, bytes(32))
        for store in ("chat_history", "artifacts", "audit_log")
        for value in derive_store_keys(root, store)
    ]

    assert len(set(found)) == len(found) == 18


def test_secrets_do_not_show() -> None:
    keys = derive_store_keys(ROOT, "chat_history")

    assert repr(keys) == f"StoreKeys(public_key={keys.public_key!r})"
    assert f"{keys}" == repr(keys)


@pytest.mark.parametrize("store", ["", "a/b"])
def test_a_name_that_could_mean_another_label_is_refused(store: str) -> None:
    with pytest.raises(UsageError, match="no slash"):
        derive_store_keys(ROOT, store)


def test_a_short_root_secret_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 16 bytes, not 15"):
        derive_store_keys(bytes(15), "chat_history")
