"""The TLS part of 'Run a sync server' is run as it stands there, on free ports and with certificates made now."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentlayers.crypto.encryption import Encryption
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.layer.errors import LayerStartError
from agentlayers.runtime.containers import AgentRuntimeContainer
from agentlayers.runtime.presets import load_preset
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.sync.service import SyncService
from agentlayers.transport.transport import Transport
from agentlayers.transport.websocket import WebSocketTransport
from helpers.certificates import Authority

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "run-a-server.md").read_text(encoding="utf-8")
TLS = PAGE.split("## With TLS")[1].split("\n## ")[0]
TOKEN_BLOCK, CERTIFICATE_BLOCK = re.findall(r"```sh\n(.*?)```", TLS, re.DOTALL)
(PYTHON,) = re.findall(r"```python\n(.*?)```", TLS, re.DOTALL)
(YAML,) = re.findall(r"```yaml\n(.*?)```", TLS, re.DOTALL)
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("SYNC_", "AGENTLAYERS_"))}


@pytest.fixture
async def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the page: certificates, a token, and a replica with one message."""
    authority = Authority(tmp_path)
    authority.issue("server")
    authority.issue("replica")
    (tmp_path / "token").write_text("a-token-of-the-page")
    storage = tmp_path / "storage"
    identity = Identity.load_or_create(storage / "identity")
    async with SQLiteJournal(storage) as journal, ChatHistoryStore(journal, identity) as chat:
        await chat.append("session", {"type": "user", "text": "hello"})
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def serving(line: str, directory: Path) -> Iterator[dict[str, str]]:
    """Run a line of the page that serves; yields the real address for each scheme."""
    words = [word for word in shlex.split(line)[1:] if word != "8788"]
    words = [*words, "0"] if words[-1] == "--tcp-port" else words
    words = [word for word in words if word != "--tcp-port"] + ["--port", "0", "--tcp-port", "0"]
    with subprocess.Popen(
        [sys.executable, "-m", "agentlayers", *words], stdout=subprocess.PIPE, text=True, cwd=directory, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        urls = [process.stdout.readline().split()[-1] for _ in range(2)]
        yield {url.partition("://")[0]: url for url in urls}
        process.kill()


@pytest.mark.parametrize("block", [TOKEN_BLOCK, CERTIFICATE_BLOCK], ids=["token", "client certificate"])
def test_the_replica_of_the_page_reaches_the_server_of_the_page(directory: Path, block: str) -> None:
    server, *clients = block.strip().splitlines()
    assert len(clients) == (1 if block == TOKEN_BLOCK else 2)

    with serving(server, directory) as urls:
        for client in clients:
            line = re.sub(r"(wss|tls)://[\d.:]+", lambda found: urls[found[1]], client)
            outcome = subprocess.run(
                [sys.executable, "-m", "agentlayers", *shlex.split(line)[1:]],
                capture_output=True, text=True, timeout=60, check=False, cwd=directory, env=ENVIRONMENT,
            )  # fmt: skip
            assert outcome.returncode == 0, outcome.stderr
            assert re.search(r"chat_history +sent +[01] ", outcome.stdout), outcome.stdout

            without = [
                word
                for word in shlex.split(line)[1:]
                if not word.startswith(("--client", "--token", "./token", "./replica"))
            ]
            refused = subprocess.run(
                [sys.executable, "-m", "agentlayers", *without],
                capture_output=True, text=True, timeout=60, check=False, cwd=directory, env=ENVIRONMENT,
            )  # fmt: skip
            assert (refused.returncode, refused.stderr.count("error: ")) == (3, 1), refused.stderr


def test_a_file_that_cannot_be_used_is_one_line_and_a_status(directory: Path) -> None:
    for words in (
        ["serve", "--tls-cert", "server.pem", "--tls-key", "replica.key"],
        ["sync", "storage", "--to", "wss://127.0.0.1:1", "--ca", "missing.pem"],
        ["sync", "storage", "--to", "ws://127.0.0.1:1", "--ca", "ca.pem"],
    ):
        outcome = subprocess.run(
            [sys.executable, "-m", "agentlayers", *words],
            capture_output=True, text=True, timeout=60, check=False, cwd=directory, env=ENVIRONMENT,
        )  # fmt: skip
        assert outcome.returncode == 2, outcome.stderr
        assert outcome.stderr.startswith("error: ")
        assert len(outcome.stderr.splitlines()) == 1


async def test_the_yaml_of_the_page_gives_the_transport_its_files(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNC_URL", "ws://127.0.0.1:9")
    expected = WebSocketTransport(
        "wss://sync.example.org", ca="./ca.pem", client_cert="./replica.pem", client_key="./replica.key"
    )
    container: type[AgentRuntimeContainer] = load_preset(YAML)
    async with container.build(Transport) as transport:
        assert transport == expected


async def test_the_python_of_the_page_gives_the_transport_its_files(directory: Path) -> None:
    names: dict[str, Any] = {}
    exec(PYTHON.replace("sync.example.org", "127.0.0.1:9"), names)
    layer = names["sync"].provide(Encryption.layer_aes_gcm())
    async with layer.build(SyncService) as service:
        assert service.url == "wss://127.0.0.1:9/event-log"
    (directory / "replica.key").unlink()
    with pytest.raises(LayerStartError, match=r"client_key: 'replica\.key' cannot be used"):
        async with layer.build(SyncService):
            pass


async def test_the_presets_read_the_files_from_the_environment(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNC_URL", "wss://sync.example.org")
    monkeypatch.setenv("SYNC_CA", "ca.pem")
    async with load_preset("synced").build(Transport) as transport:
        assert transport == WebSocketTransport("wss://sync.example.org", ca="ca.pem")
