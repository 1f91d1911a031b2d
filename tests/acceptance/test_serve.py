"""``agentlayers serve`` as an operator meets it, good and bad days alike."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVE = [sys.executable, "-m", "agentlayers", "serve"]


def refused(*arguments: str, env: dict[str, str] | None = None) -> str:
    outcome = subprocess.run(
        [*SERVE, *arguments], capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **(env or {})}
    )
    assert outcome.returncode not in {0, 1}, outcome.stdout + outcome.stderr
    assert "Traceback" not in outcome.stderr
    lines = outcome.stderr.strip().splitlines()
    assert len([line for line in lines if line.startswith("error: ")]) == 1, outcome.stderr
    return outcome.stderr


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*SERVE, "--data", str(tmp_path / "data"), "--port", "0", "--tcp-port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_it_says_where_it_listens_and_stops_cleanly_on_sigterm(server: subprocess.Popen[str]) -> None:
    assert server.stdout is not None
    lines = [server.stdout.readline(), server.stdout.readline()]

    assert lines[0].startswith("listening on ws://127.0.0.1:")
    assert lines[0].endswith("/event-log\n")
    assert lines[1].startswith("listening on tcp://127.0.0.1:")
    port = int(lines[0].rsplit(":", 1)[1].split("/")[0])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
        assert answer.status == 200
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=20) == 0


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = refused("--data", str(tmp_path / "data"), "--port", str(port))

    assert str(port) in text
    assert "in use" in text
    assert not (tmp_path / "data").exists()


def test_a_tcp_port_in_use_is_named_and_nothing_left_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        text = refused("--data", str(tmp_path / "data"), "--port", "0", "--tcp-port", port)

    assert port in text
    assert "--tcp-port" in text
    assert not (tmp_path / "data").exists()


def test_beyond_loopback_a_token_is_required(tmp_path: Path) -> None:
    text = refused("--data", str(tmp_path / "data"), "--host", "0.0.0.0", "--port", "0")

    assert "token" in text
    assert "--open" in text
    assert not (tmp_path / "data").exists()


def test_a_data_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, not a directory")

    assert str(blocked) in refused("--data", str(blocked), "--port", "0")
    assert blocked.read_text() == "a file, not a directory"


def test_a_corrupt_data_file_is_named_and_left_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "server.sqlite").write_bytes(b"this was never a database, " * 200)
    before = (data / "server.sqlite").read_bytes()

    assert "server.sqlite" in refused("--data", str(data), "--port", "0")
    assert (data / "server.sqlite").read_bytes() == before


def test_a_truncated_data_file_is_named_and_left_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with sqlite3.connect(data / "server.sqlite") as database:
        database.execute("CREATE TABLE other (x)")
        database.executemany("INSERT INTO other VALUES (?)", [(b"x" * 4000,)] * 50)
    database.close()
    whole = (data / "server.sqlite").read_bytes()
    (data / "server.sqlite").write_bytes(whole[: len(whole) // 2])

    assert "server.sqlite" in refused("--data", str(data), "--port", "0")


def test_an_unknown_preset_is_refused_with_the_ones_there_are(tmp_path: Path) -> None:
    text = refused("servr", "--data", str(tmp_path / "data"), "--port", "0")

    assert "servr" in text
    assert "server" in text


def test_a_file_with_a_misspelt_slot_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: server\nstorag: memory\n")
    text = refused(str(file), "--data", str(tmp_path / "data"), "--port", "0")

    assert "mine.yaml:2" in text
    assert "storag" in text
    assert "storage" in text


def test_a_missing_token_file_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "no-token"

    assert str(missing) in refused("--data", str(tmp_path / "data"), "--port", "0", "--token-file", str(missing))


def test_two_tokens_are_refused_without_showing_either(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("secret-in-file")
    text = refused(
        "--data", str(tmp_path / "data"), "--port", "0", "--token", "secret-given", "--token-file", str(token_file)
    )

    assert "secret" not in text
