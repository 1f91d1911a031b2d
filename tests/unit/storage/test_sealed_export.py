"""A sealed export opens with its secret alone, whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlayers.errors import DecryptionError, UsageError
from agentlayers.eventlog.identity import Identity
from agentlayers.limits import SEALED_CHUNK_BYTES
from agentlayers.storage.sealed_export import ExportSecret, open_lines, seal_lines

IDENTITY = Identity("me", bytes(range(32)))
SECRET = ExportSecret.of_identity(IDENTITY)


def fixed(size: int) -> bytes:
    return bytes(size)


def opened(lines: list[str], secret: ExportSecret = SECRET) -> list[str]:
    return list(open_lines(lines[0], lines[1:], secret))


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=5), max_size=6))
def test_what_was_sealed_is_opened(lines: list[str]) -> None:
    assert opened(list(seal_lines(lines, SECRET))) == lines


def test_many_lines_are_sealed_in_chunks_that_stay_small() -> None:
    lines = [f"{number:01000}" for number in range(300)]
    sealed = list(seal_lines(lines, SECRET))

    assert opened(sealed) == lines
    assert len(sealed) > 4
    assert max(map(len, sealed)) < 2 * SEALED_CHUNK_BYTES


def test_the_format_is_the_one_that_is_written_down() -> None:
    """What is checked here with other means is what docs/reference/export-format.md says."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    header, only = seal_lines(["a", "b"], SECRET, random=fixed)
    info = b"agentlayers/v1/export/encryption-key"
    key = HKDF(algorithm=SHA256(), length=32, salt=bytes(16), info=info).derive(IDENTITY.private_key)
    sealed = base64.b64decode(json.loads(only)["sealed"])
    plain = AESGCM(key).decrypt(bytes(11) + b"\x01", sealed, hashlib.sha256(header.encode()).digest())

    assert plain == b"a\nb\n"
    assert json.loads(only)["last"] is True
    assert json.loads(header) == {
        "format": "agentlayers-journal-sealed", "version": 1, "cipher": "AES-256-GCM",
        "salt": "AAAAAAAAAAAAAAAAAAAAAA==", "key": "identity", "public_key": "me",
    }  # fmt: skip


def test_a_passphrase_opens_what_it_sealed_and_another_one_does_not() -> None:
    sealed = list(seal_lines(["a"], ExportSecret.of_passphrase("correct horse")))

    assert opened(sealed, ExportSecret.of_passphrase("correct horse")) == ["a"]
    with pytest.raises(DecryptionError, match="another passphrase"):
        opened(sealed, ExportSecret.of_passphrase("wrong"))


def test_another_identity_or_kind_of_secret_is_named() -> None:
    sealed = list(seal_lines(["a"], SECRET))

    with pytest.raises(DecryptionError, match="identity 'me', not with 'you'"):
        opened(sealed, ExportSecret.of_identity(Identity("you", bytes(32))))
    with pytest.raises(DecryptionError, match="sealed with an identity, not with a passphrase"):
        opened(sealed, ExportSecret.of_passphrase("x"))


CHANGES: dict[str, Callable[[list[str]], list[str]]] = {
    "cut off": lambda lines: lines[:-1],
    "left out": lambda lines: [lines[0], *lines[2:]],
    "moved": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "twice": lambda lines: [*lines[:2], *lines[1:]],
    "header changed": lambda lines: [lines[0].replace('"version":1', '"version": 1'), *lines[1:]],
    "goes on": lambda lines: [*lines, lines[-1]],
    "ends early": lambda lines: [*lines[:-2], lines[-2].replace("}", ',"last":true}')],
    "no JSON": lambda lines: [*lines[:-1], "x"],
    "bits flipped": lambda lines: [*lines[:-1], lines[-1].replace('"sealed":"', '"sealed":"AAAA')],
    "only a header": lambda lines: lines[:1],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_file_does_not_open(change: Callable[[list[str]], list[str]]) -> None:
    sealed = list(seal_lines(["x" * 40_000] * 6, SECRET))
    assert len(sealed) == 7

    with pytest.raises(DecryptionError):
        opened(change(sealed))


@pytest.mark.parametrize("kdf", [{"log2_n": 30}, {"log2_n": "17"}, {}, None, {"log2_n": -1}, {"log2_n": True}])
def test_a_header_cannot_ask_for_any_amount_of_work(kdf: object) -> None:
    header = json.dumps({"cipher": "AES-256-GCM", "salt": base64.b64encode(bytes(16)).decode(), "key": "passphrase"}
                        | {"kdf": kdf})  # fmt: skip
    with pytest.raises(DecryptionError, match="log2_n"):
        list(open_lines(header, [], ExportSecret.of_passphrase("x")))


def test_the_secret_never_shows() -> None:
    secret = ExportSecret.of_passphrase("hunter2")

    assert "hunter2" not in repr(secret)
    assert IDENTITY.private_key.hex() not in repr(SECRET)


def test_an_empty_passphrase_or_a_short_key_is_refused() -> None:
    with pytest.raises(UsageError, match="not empty"):
        ExportSecret.of_passphrase("")
    with pytest.raises(UsageError, match="at least 16"):
        ExportSecret.of_identity(Identity("me", b"short"))
