"""Sealing entries and opening them."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from agentlayers.crypto.encryption import AesGcmEncryption, Encryption, PlaintextEncryption
from agentlayers.errors import DecryptionError, UsageError
from agentlayers.protocol.entry_codec import decode_entry
from vectors.effect_v3 import VECTORS

RECORDED = VECTORS["aesGcm"]
KEY, IV = bytes.fromhex(RECORDED["keyHex"]), bytes.fromhex(RECORDED["ivHex"])


@pytest.mark.fixed_nonce
@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: case["plaintextHex"][-4:])
def test_what_a_stock_peer_sealed_is_opened_and_sealed_the_same(case: dict[str, Any]) -> None:
    encryption = AesGcmEncryption(random=lambda size: IV[:size])
    plaintext = bytes.fromhex(case["plaintextHex"])
    ciphertext = bytes.fromhex(case["ciphertextAndTagHex"])

    assert encryption.open_sealed(KEY, IV, ciphertext) == plaintext
    assert encryption.seal(KEY, plaintext) == (IV, ciphertext)


def test_opened_entries_are_those_that_a_stock_peer_found() -> None:
    ids = [case["id"].replace("-", "") for case in RECORDED["v3DecryptsToIds"]]
    sealed = [bytes.fromhex(case["ciphertextAndTagHex"]) for case in RECORDED["cases"]]

    opened = [AesGcmEncryption().open_sealed(KEY, IV, data) for data in sealed]

    assert [decode_entry(data)[0].hex() for data in opened] == ids


def test_W1_every_entry_has_a_nonce_of_its_own() -> None:  # noqa: N802
    encryption = AesGcmEncryption()

    sealed = [encryption.seal(KEY, b"the same text") for _ in range(2_000)]

    assert len({iv for iv, _ in sealed}) == len({data for _, data in sealed}) == len(sealed)


@pytest.mark.parametrize("size", [16, 24, 32])
@pytest.mark.parametrize("plaintext", [b"", b"x", bytes(100_000)])
def test_what_was_sealed_is_opened(size: int, plaintext: bytes) -> None:
    key = os.urandom(size)
    iv, ciphertext = AesGcmEncryption().seal(key, plaintext)

    assert len(iv) == 12
    assert len(ciphertext) == len(plaintext) + 16
    assert AesGcmEncryption().open_sealed(key, iv, ciphertext) == plaintext


def test_W19_hostile_ciphertext_is_an_error_and_never_a_crash() -> None:  # noqa: N802
    encryption, dice = AesGcmEncryption(), random.Random(1)
    iv, good = encryption.seal(KEY, b"content")
    for _ in range(2_000):
        bad_iv, bad = bytearray(iv), bytearray(good)
        target = dice.choice((bad_iv, bad))
        match dice.randrange(3):
            case 0:
                target[dice.randrange(len(target))] ^= dice.randrange(1, 256)
            case 1:
                del target[dice.randrange(len(target)) :]
            case 2:
                target += dice.randbytes(dice.randint(1, 5))
        with pytest.raises(DecryptionError):
            encryption.open_sealed(KEY, bytes(bad_iv), bytes(bad))


@pytest.mark.parametrize("size", [0, 1, 15, 31, 33])
def test_a_key_of_a_wrong_length_is_refused(size: int) -> None:
    encryption = AesGcmEncryption()
    iv, ciphertext = encryption.seal(KEY, b"content")

    with pytest.raises(UsageError, match=f"32 bytes, not {size}"):
        encryption.seal(bytes(size), b"content")
    with pytest.raises(DecryptionError, match=f"32 bytes, not {size}"):
        encryption.open_sealed(bytes(size), iv, ciphertext)


def test_another_key_does_not_open_and_the_error_shows_nothing() -> None:
    encryption = AesGcmEncryption()
    iv, ciphertext = encryption.seal(KEY, b"canary")

    with pytest.raises(DecryptionError) as caught:
        encryption.open_sealed(bytes(32), iv, ciphertext)

    assert str(caught.value) == "cannot decrypt: sealed with another key, or changed on the way"
    assert KEY.hex() not in repr(encryption) + repr(caught.value)


def test_many_keys_do_not_fill_memory() -> None:
    encryption = AesGcmEncryption()
    sealed = [(key, *encryption.seal(key, b"x")) for key in (os.urandom(32) for _ in range(200))]

    assert all(encryption.open_sealed(*each) == b"x" for each in sealed)
    assert len(encryption._ciphers) <= 64


def test_plaintext_passes_unchanged_under_a_nonce_of_zeros() -> None:
    encryption = PlaintextEncryption()

    assert encryption.seal(b"", b"content") == (bytes(12), b"content")
    assert encryption.open_sealed(b"", bytes(12), b"content") == b"content"


def test_plaintext_does_not_take_an_encrypted_entry_for_its_content() -> None:
    iv, ciphertext = AesGcmEncryption().seal(KEY, b"content")

    with pytest.raises(DecryptionError, match="without encryption"):
        PlaintextEncryption().open_sealed(KEY, iv, ciphertext)


def test_encryption_does_not_take_plaintext_for_a_sealed_entry() -> None:
    iv, plaintext = PlaintextEncryption().seal(KEY, b"content that is long enough")

    with pytest.raises(DecryptionError):
        AesGcmEncryption().open_sealed(KEY, iv, plaintext)


@pytest.mark.parametrize(("name", "kind"), [("aes_gcm", AesGcmEncryption), ("plaintext", PlaintextEncryption)])
async def test_layers_give_the_encryption(name: str, kind: type[Encryption]) -> None:
    layer = getattr(Encryption, f"layer_{name}")()

    async with layer.build(Encryption) as encryption:
        assert isinstance(encryption, kind)
