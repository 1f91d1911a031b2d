"""``agentlayers watch claude-code``: the transcripts of Claude Code, as they are written."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from agentlayers.cli.import_.claude_code import TranscriptPath, TranscriptTarget, many, target_directory, warn
from agentlayers.cli.interpreter import tune_interpreter
from agentlayers.cli.tls_files import tls_files
from agentlayers.cli.token import read_token
from agentlayers.errors import SettingsError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from agentlayers.runtime.claude_transcript_import import FileImport
    from agentlayers.runtime.claude_transcript_watch import TranscriptWatcher
    from agentlayers.sync.service import SyncService
    from agentlayers.transport.transport import Transport

__all__ = ["claude_code"]


def claude_code(
    path: TranscriptPath = None,
    to: TranscriptTarget = None,
    sync: Annotated[
        str | None,
        typer.Option(
            help="Send it on to this server as it comes: ws://, wss://, tcp:// or tls:// address.", show_default=False
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File that holds the server's token.", show_default=False)
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Tenant of the server. (default: the URL's, or 'default')", show_default=False)
    ] = None,
    interval: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks at the files.")] = 0.5,
) -> None:
    """
    Follow transcripts of Claude Code, and import what is added to them, until stopped with Ctrl-C.

    Begins with all that is there and was not imported yet, so it may be stopped and started at will. New sessions are
    found, files that are cut off or replaced are read again, and nothing is added twice. With --sync the messages,
    artifacts and transcripts are sent to a server too, sealed with the key in the replica's file "identity", and what
    other replicas sent is fetched. The token may also come from SYNC_TOKEN, and certificates for TLS from SYNC_CA,
    SYNC_CLIENT_CERT and SYNC_CLIENT_KEY.

    Safe beside a running replica on the same directory, and beside Claude Code.

    For instance:

      agentlayers watch claude-code --to ./replica

      agentlayers watch claude-code --to ./replica --sync wss://sync.example.org
    """
    from agentlayers.runtime.claude_transcript_files import default_projects

    source, directory = (path or default_projects(os.environ)).expanduser(), target_directory(to)
    if not source.exists():
        raise SettingsError(setting="PATH", value=str(source), expected="a directory or file that exists")
    transport = _transport(sync, token_file, tenant)
    tune_interpreter()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_watch(source, directory, transport, interval))


def _transport(sync: str | None, token_file: Path | None, tenant: str | None) -> Transport | None:
    from agentlayers.transport.transport import Transport

    if sync is None:
        if token_file is not None or tenant is not None:
            raise SettingsError(
                setting="--sync", value=None, expected="the server that --token-file and --tenant are for"
            )
        return None
    (files,) = tls_files(sync)
    return Transport.from_url(sync, read_token(None, token_file, variable="SYNC_TOKEN"), tenant, **files)


async def _watch(source: Path, directory: Path, transport: Transport | None, interval: float) -> None:
    from agentlayers.runtime.claude_transcript_import import TranscriptImporter
    from agentlayers.runtime.claude_transcript_stores import open_transcript_stores
    from agentlayers.runtime.claude_transcript_watch import TranscriptWatcher

    async with _service(transport) as sync, open_transcript_stores(directory, sync=sync) as stores:
        watcher = TranscriptWatcher(source, TranscriptImporter(stores))
        stop = _cancelling_once()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        # Whatever is interrupted was written whole or not at all, and is read again at the next start.
        with _StatusLine(source, directory) as line, contextlib.suppress(asyncio.CancelledError):
            while True:
                await watcher.look(told=line.add)
                line.show(watcher, sync)
                await asyncio.sleep(interval)


def _cancelling_once() -> Callable[[], None]:
    """Return what ends the present task; a second signal does not disturb its closing."""
    watching = asyncio.current_task()
    assert watching is not None

    def stop() -> None:
        if not watching.cancelling():
            watching.cancel()

    return stop


@contextlib.asynccontextmanager
async def _service(transport: Transport | None) -> AsyncIterator[SyncService | None]:
    if transport is None:
        yield None
        return
    from agentlayers.crypto.encryption import AesGcmEncryption
    from agentlayers.runtime.claude_transcript_stores import STORES
    from agentlayers.storage.replica_store import with_parts
    from agentlayers.sync.service import SyncService

    synced = [name for store in STORES for name in with_parts(store)]
    async with SyncService(transport, AesGcmEncryption(), stores=dict.fromkeys(synced, True)) as service:
        yield service


class _StatusLine:
    """One line on a terminal that is kept up to date; elsewhere a line for each change."""

    def __init__(self, source: Path, directory: Path) -> None:
        self._head = f"{source} -> {directory}"
        self._lines = self._messages = self._artifacts = 0
        self._last = "nothing new yet"
        self._shown = ""
        self._console: Console | None = None
        self._status: Status | None = None

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            from rich.console import Console

            self._console = Console()
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._status is not None:
            self._status.stop()
        typer.echo(f"stopped: {self._text()}")

    def add(self, report: FileImport) -> None:
        """Count what was just imported of one file."""
        warn([report])
        self._lines += report.new_lines
        self._messages += report.messages
        self._artifacts += report.artifacts
        if report.new_lines:
            self._last = f"last at {time.strftime('%H:%M:%S')}"
        if self._status is not None:
            self._status.update(f"{self._text()}; {self._last}")

    def show(self, watcher: TranscriptWatcher, sync: SyncService | None) -> None:
        """Tell where it stands after a look."""
        text = f"{many(watcher.files, 'transcript')}; {self._text()}; {self._last}{_sync_text(sync)}"
        if self._status is not None:
            self._status.update(text)
        elif text != self._shown:
            typer.echo(f"{self._head}: {text}")
            sys.stdout.flush()
        self._shown = text

    def _text(self) -> str:
        counted = ((self._lines, "line"), (self._messages, "message"), (self._artifacts, "artifact"))
        return ", ".join(many(count, name) for count, name in counted) + " imported"


def _sync_text(sync: SyncService | None) -> str:
    if sync is None:
        return ""
    status = sync.status
    trouble = f" ({status.last_error})" if status.last_error else ""
    return f"; {status.state}{trouble}, {status.pending:,} to send"
