"""Identities: Effect's text form, and the file that holds it."""

from __future__ import annotations

import base64
import copy
import json
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentlayers.errors import IdentityError, UsageError
from agentlayers.eventlog.identity import Identity
from agentlayers.limits import IDENTITY_FILE_BYTES_MAX
from vectors.effect_v3 import VECTORS

RECORDED = VECTORS["identity"]
IDENTITY = Identity(RECORDED["publicKey"], bytes.fromhex(RECORDED["privateKeyHex"]))
SECRET = base64.b64encode(IDENTITY.private_key).decode()


def encoded(fields: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_text_form_is_effects_to_the_byte() -> None:
    assert IDENTITY.encode_string() == RECORDED["encodeString"]


@pytest.mark.parametrize("case", RECORDED["decodeVariants"], ids=lambda case: case["name"])
def test_every_variant_that_effect_reads_is_read(case: dict[str, Any]) -> None:
    result = case["result"]

    if result["ok"]:
        identity = Identity.decode_string(case["string"])
        assert identity.public_key == result["publicKey"]
        assert identity.private_key.hex() == result["privateKeyHex"]
    else:
        with pytest.raises(IdentityError, match="privateKey"):
            Identity.decode_string(case["string"])


def test_generated_identities_differ_and_have_the_form_of_effects() -> None:
    first, second = Identity.generate(), Identity.generate()

    assert first != second
    assert len(first.private_key) == 32
    assert (first.public_key[14], len(first.public_key)) == ("4", 36)
    assert Identity.decode_string(first.encode_string()) == first


def test_randomness_enters_through_a_parameter() -> None:
    def fixed(size: int) -> bytes:
        return bytes(range(size))

    assert Identity.generate(fixed) == Identity.generate(fixed)


def test_stores_get_keys_of_their_own_unless_one_is_given() -> None:
    shared = Identity("typescript", bytes(32))
    identity = Identity(IDENTITY.public_key, IDENTITY.private_key, {"audit_log": shared})

    assert identity.for_store("audit_log") is shared
    assert identity.for_store("chat_history") == IDENTITY.for_store("chat_history")
    assert identity.for_store("chat_history") != identity.for_store("artifacts")
    with pytest.raises(UsageError, match="root secret"):
        Identity("k", b"short").for_store("chat_history")


def test_identities_of_stores_travel_in_the_text_form() -> None:
    identity = Identity("k", bytes(32), {"audit_log": Identity("é", bytes(16))})

    text = identity.encode_string()

    assert Identity.decode_string(text) == identity
    fields = json.loads(base64.urlsafe_b64decode(text + "=="))
    assert list(fields) == ["publicKey", "privateKey", "stores"]


def test_identities_are_values() -> None:
    identity = Identity("k", bytes(32), {"s": IDENTITY})

    assert copy.deepcopy(identity) == identity == pickle.loads(pickle.dumps(identity))
    assert len({identity, copy.copy(identity)}) == 1
    with pytest.raises(TypeError):
        identity.stores["x"] = IDENTITY  # type: ignore[index]


def test_the_private_key_does_not_show() -> None:
    identity = Identity("k", IDENTITY.private_key, {"s": IDENTITY})

    for shown in (repr(identity), str(identity), f"{identity}", repr({"x": [identity]})):
        assert "\\x01" not in shown
        assert SECRET not in shown
    assert repr(identity) == "Identity(public_key='k', stores=['s'])"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not an identity"),
        ("hello world!", "not an identity"),
        ("é", "not an identity"),
        (base64.b64encode(b"\xff\xfe").decode(), "not an identity"),
        (base64.b64encode(b"{").decode(), "does not hold JSON"),
        (base64.b64encode(b"[" * 10_000).decode(), "does not hold JSON"),
        (encoded([1]), "expected a JSON object"),
        (encoded({"privateKey": SECRET}), "publicKey: expected text"),
        (encoded({"publicKey": 7, "privateKey": SECRET}), "publicKey: expected text"),
        (encoded({"publicKey": "k" * 257, "privateKey": SECRET}), "publicKey: .* at most 256"),
        (encoded({"publicKey": "k"}), "privateKey: expected text"),
        (encoded({"publicKey": "k", "privateKey": "!!!!"}), "privateKey: expected base64"),
        (
            encoded({"publicKey": "k", "privateKey": SECRET, "stores": {"chat": 7}}),
            r"stores\.chat: expected an identity string",
        ),
    ],
)
def test_what_is_no_identity_is_named_without_showing_the_key(text: str, message: str) -> None:
    with pytest.raises(IdentityError, match=message) as caught:
        Identity.decode_string(text)

    error = caught.value
    assert SECRET not in str(error)
    assert text not in str(error) or not text
    # A JSON error carries the whole text with it: it must not be shown as the cause or context either.
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__


def test_a_strangers_field_named_stores_does_no_harm() -> None:
    assert Identity.decode_string(encoded({"publicKey": "k", "privateKey": SECRET, "stores": [1]})) == Identity(
        "k", IDENTITY.private_key
    )


# -- files --------------------------------------------------------------------------------------------


def test_a_saved_identity_is_loaded_and_open_to_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "identity"
    IDENTITY.save(path)

    assert Identity.load(path) == IDENTITY
    assert (mode(path), mode(path.parent), mode(tmp_path / "a")) == (0o600, 0o700, 0o700)
    assert path.read_text() == RECORDED["encodeString"] + "\n"
    assert [file.name for file in path.parent.iterdir()] == ["identity"]


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        IDENTITY.save(tmp_path / "new" / "identity")
    finally:
        os.umask(before)

    assert (mode(tmp_path / "new" / "identity"), mode(tmp_path / "new")) == (0o600, 0o700)


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    path.write_text("precious")

    with pytest.raises(IdentityError, match="exists already"):
        IDENTITY.save(path)

    assert path.read_text() == "precious"
    assert [file.name for file in tmp_path.iterdir()] == ["identity"]


def test_json_as_effect_keeps_it_in_a_key_value_store_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    path.write_text(RECORDED["kvsForSchemaValue"])
    path.chmod(0o600)

    assert Identity.load(path) == IDENTITY


def test_load_or_create_makes_one_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "identity"

    first = Identity.load_or_create(path)

    assert Identity.load_or_create(path) == first == Identity.load(path)


CREATE = """
import sys
from agentlayers.eventlog.identity import Identity
print("ready", flush=True)
sys.stdin.readline()
print(Identity.load_or_create(sys.argv[1]).public_key)
"""


def test_of_several_processes_one_makes_it_and_all_use_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "identity"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    found = {worker.communicate(timeout=30)[0].strip() for worker in workers}

    assert found == {Identity.load(path).public_key}
    assert [file.name for file in path.parent.iterdir()] == ["identity"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an identity"),
        (b"garbage \xff", "not text"),
        (b"{}", "publicKey"),
        (b"x" * (IDENTITY_FILE_BYTES_MAX + 1), f"longer than {IDENTITY_FILE_BYTES_MAX} bytes"),
        (RECORDED["encodeString"][:50].encode(), "not an identity"),
    ],
)
def test_a_garbled_file_is_named_and_kept(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "identity"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(IdentityError, match=f"identity file {path}: .*{message}"):
        Identity.load_or_create(path)

    assert path.read_bytes() == content


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="there is none"):
        Identity.load(tmp_path / "none")
    with pytest.raises(IdentityError, match="cannot be read: Is a directory"):
        Identity.load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(IdentityError, match="cannot be written: Not a directory"):
        IDENTITY.save(tmp_path / "file" / "identity")
    with pytest.raises(IdentityError, match="cannot be"):
        Identity.load_or_create(tmp_path / "file" / "identity")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    with pytest.raises(IdentityError, match="there is none"):
        Identity.load_or_create(tmp_path / "dangling")


def test_where_there_are_no_links_the_file_is_made_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: object, target: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    IDENTITY.save(tmp_path / "identity")

    assert Identity.load(tmp_path / "identity") == IDENTITY
    with pytest.raises(IdentityError, match="exists already"):
        IDENTITY.save(tmp_path / "identity")


def test_a_file_open_to_others_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "identity"
    IDENTITY.save(path)
    path.chmod(0o644)

    Identity.load(path)

    events = [vars(record)["agentlayers"] for record in caplog.records]
    assert [(event["event"], event["mode"]) for event in events] == [("identity_file_open_to_others", "0644")]
    assert SECRET not in str(events)


async def test_layers_give_the_identity(tmp_path: Path) -> None:
    async with Identity.layer_file(tmp_path / "identity").build(Identity) as made:
        assert made == Identity.load(tmp_path / "identity")
    async with Identity.layer_of(IDENTITY).build(Identity) as given:
        assert given is IDENTITY
