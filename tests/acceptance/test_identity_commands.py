"""``agentlayers identity``: made once, never shown by accident, carried over."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from agentlayers.eventlog.identity import Identity

STORES = ("chat_history", "artifacts", "audit_log")


def run(*arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    outcome = subprocess.run(
        [sys.executable, "-m", "agentlayers", "identity", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False, input=given,
    )  # fmt: skip
    assert "Traceback" not in outcome.stderr
    return outcome


def succeeds(*arguments: str | Path, given: str = "") -> str:
    outcome = run(*arguments, given=given)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def fails(*arguments: str | Path, given: str = "") -> str:
    outcome = run(*arguments, given=given)
    assert outcome.returncode == 2, outcome.stdout + outcome.stderr
    assert outcome.stderr.startswith("error: ")
    assert len(outcome.stderr.splitlines()) == 1
    return outcome.stderr


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    made = Identity.generate()
    made.save(tmp_path / "replica" / "identity")
    return made


def is_secret_in(identity: Identity, text: str) -> bool:
    return identity.encode_string()[-40:] in text or identity.private_key.hex() in text


def test_a_new_one_is_in_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    text = succeeds("new", tmp_path)
    file = tmp_path / "identity"
    made = Identity.load(file)

    assert file.stat().st_mode & 0o777 == 0o600
    assert made.public_key in text
    assert made.for_store("chat_history").public_key in text
    assert not is_secret_in(made, text)


def test_one_that_exists_is_never_overwritten(tmp_path: Path, identity: Identity) -> None:
    file = tmp_path / "replica" / "identity"
    before = file.read_bytes()
    Identity.generate().save(tmp_path / "source")

    assert "exists already" in fails("new", tmp_path / "replica")
    assert "exists already" in fails("import", file, tmp_path / "source")
    assert "exists already" in fails("export", file, "-o", tmp_path / "source")
    assert file.read_bytes() == before
    assert identity == Identity.load(file)


def test_show_tells_public_keys_and_the_secret_only_when_asked(tmp_path: Path, identity: Identity) -> None:
    text = succeeds("show", tmp_path / "replica")
    shown = json.loads(succeeds("show", tmp_path / "replica" / "identity", "--json"))

    assert not is_secret_in(identity, text + json.dumps(shown))
    assert shown["stores"] == {store: identity.for_store(store).public_key for store in STORES}
    assert all(key in text for key in shown["stores"].values())
    assert identity.encode_string() in succeeds("show", tmp_path / "replica", "--secret")
    assert (
        json.loads(succeeds("show", tmp_path / "replica", "--secret", "--json"))["secret"] == identity.encode_string()
    )


def test_one_is_carried_over_by_file_or_by_pipe(tmp_path: Path, identity: Identity) -> None:
    succeeds("export", tmp_path / "replica", "--output", tmp_path / "carried")
    succeeds("import", tmp_path / "by-file", tmp_path / "carried")
    text = succeeds("import", tmp_path / "by-pipe", given=succeeds("export", tmp_path / "replica", "--print"))

    assert (tmp_path / "carried").stat().st_mode & 0o777 == 0o600
    assert Identity.load(tmp_path / "by-file") == Identity.load(tmp_path / "by-pipe") == identity
    assert (tmp_path / "by-pipe").stat().st_mode & 0o777 == 0o600
    assert not is_secret_in(identity, text)


def test_an_export_says_where_to(tmp_path: Path, identity: Identity) -> None:
    for options in ([], ["--print", "-o", str(tmp_path / "file")]):
        text = fails("export", tmp_path / "replica", *options)
        assert "--print" in text
        assert not is_secret_in(identity, text)
    assert not (tmp_path / "file").exists()


def test_the_string_of_an_effect_identity_is_taken_for_one_store(tmp_path: Path, identity: Identity) -> None:
    shared = Identity.generate()
    shared.save(tmp_path / "effect")
    source = tmp_path / "replica" / "identity"
    succeeds("import", tmp_path / "new", source, "--for", f"chat_history={tmp_path / 'effect'}")
    loaded = Identity.load(tmp_path / "new")

    assert loaded.for_store("chat_history").public_key == shared.public_key
    assert loaded.for_store("artifacts") == identity.for_store("artifacts")
    assert "STORE=FILE" in fails("import", tmp_path / "other", source, "--for", "chat=x")


def test_one_store_is_shared_without_the_others(tmp_path: Path, identity: Identity) -> None:
    text = succeeds("export", tmp_path / "replica", "--store", "audit_log", "--print")

    assert Identity.decode_string(text) == identity.for_store("audit_log")
    assert "audit_log" in fails("export", tmp_path / "replica", "--store", "audit", "--print")


@pytest.mark.parametrize("text", ["", "hello", "eyJ9", "{}", "x" * 100_000])
def test_what_is_no_identity_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "source").write_text(text)
    (tmp_path / "source").chmod(0o600)
    first = fails("import", tmp_path / "new", tmp_path / "source")
    second = fails("import", tmp_path / "new", given=text)

    assert not (tmp_path / "new").exists()
    assert not text or text not in first + second


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "identity: there is none" in fails("show", tmp_path)
    assert "missing" in fails("import", tmp_path / "new", tmp_path / "missing")


def test_at_a_terminal_it_is_asked_for_and_not_echoed(tmp_path: Path, identity: Identity) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "agentlayers", "identity", "import", str(tmp_path / "new")]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        seen = b""
        # The space comes once echoing is off; what is typed before that is thrown away.
        while b"identity: " not in seen:
            seen += os.read(ours, 1000)
        os.write(ours, identity.encode_string().encode() + b"\n")
        try:
            while block := os.read(ours, 1000):
                seen += block
        except OSError:
            pass  # the terminal is gone when the command has ended
        assert process.wait(30) == 0
    os.close(ours)

    assert Identity.load(tmp_path / "new") == identity
    assert not is_secret_in(identity, seen.decode())
