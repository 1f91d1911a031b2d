"""``agentlayers sync``: exchange a replica's journals with servers, once or for as long as it runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentlayers.cli.exchange import exchange
from agentlayers.cli.interpreter import tune_interpreter
from agentlayers.cli.table import Column, one_line, show_json
from agentlayers.cli.tls_files import tls_files
from agentlayers.cli.token import read_token
from agentlayers.errors import SettingsError

if TYPE_CHECKING:
    from rich.table import Table

    from agentlayers.layer import Layer
    from agentlayers.sync.service import SyncService
    from agentlayers.sync.status import StoreStatus, SyncReport, SyncStatus
    from agentlayers.transport.transport import Transport

__all__ = ["command", "since_start"]

STORES = ("audit_log", "chat_history", "artifacts", "agent_sessions")


def command(
    directory: Annotated[Path, typer.Argument(help="Directory of the replica, the one that holds its identity.")],
    to: Annotated[
        list[str],
        typer.Option(help="Server: ws://, wss://, tcp:// or tls:// address; repeated, several servers at once."),
    ],
    token: Annotated[
        str | None, typer.Option(help="Token the server asks for. Others may see it here: prefer --token-file.")
    ] = None,
    token_file: Annotated[
        list[Path] | None,
        typer.Option(help="File that holds the token; repeated, one for each server, in the order of --to."),
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Tenant of the server. (default: the URL's, or 'default')")] = None,
    ca: Annotated[
        Path | None, typer.Option(help="PEM file of the authorities to trust with wss:// and tls://. (default: system)")
    ] = None,
    client_cert: Annotated[
        Path | None,
        typer.Option(help="PEM file with the certificate this replica shows to a server that asks for one."),
    ] = None,
    client_key: Annotated[
        Path | None, typer.Option(help="PEM file with its private key, if that does not stand in --client-cert.")
    ] = None,
    store: Annotated[
        list[str] | None, typer.Option(help=f"Only this store ({', '.join(STORES)}); may be repeated.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch/--once", help="Stay connected and show the status until stopped.")
    ] = False,
    relay: Annotated[
        bool | None,
        typer.Option(
            "--relay/--no-relay",
            help="Send servers also what came from others. (default: to our own servers, once there are several)",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="What was exchanged, as a JSON object; with --watch a line each change.")
    ] = False,
) -> None:
    """
    Send what the server does not have and fetch what this replica does not have.

    Safe beside an application that uses the same directory. With --once (the default) it ends when both sides hold
    the same and says how much went each way; with --watch it goes on, and connects again after any interruption.

    The token may also come from SYNC_TOKEN, and a client certificate may stand for it; SYNC_CA, SYNC_CLIENT_CERT and
    SYNC_CLIENT_KEY stand for the options. Replicas share data only if they share an identity: the file "identity" in
    their directories. A directory with nothing but that file becomes a new replica, with all that the server has.

    With several servers everything held ends up at all of them: what came from one is sent to the others. A server that
    cannot be reached does not keep the others from being served.

    For instance:

      agentlayers sync ./replica --to wss://sync.example.org --token-file ./token --watch

      agentlayers sync ./replica --to ws://127.0.0.1:8787 --to tcp://127.0.0.1:8788
    """
    from agentlayers.transport.transport import Transport

    tokens = _tokens(token, token_file or [], len(to))
    files = tls_files(*to, ca=ca, client_cert=client_cert, client_key=client_key)
    transports = [Transport.from_url(url, one, tenant, **tls) for url, one, tls in zip(to, tokens, files, strict=True)]
    layer = _layer(directory, transports, store, relay)
    tune_interpreter()
    if watch:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_watch(layer, as_json=as_json))
        return
    _tell(asyncio.run(_once(layer)), as_json=as_json)


def _tokens(token: str | None, files: list[Path], count: int) -> list[str | None]:
    """Return the token of each server."""
    if len(files) > 1 and len(files) != count:
        expected = f"one for all servers, or one for each of the {count}, in the order of --to"
        raise SettingsError(setting="--token-file", value=f"{len(files)} files", expected=expected)
    given: list[Path | None] = [*files] or [None]
    tokens = [read_token(token, file, variable="SYNC_TOKEN") for file in given]
    return tokens if len(tokens) == count else tokens * count


def _tell(report: SyncReport, *, as_json: bool) -> None:
    """Say how much went each way, and what went wrong where."""
    if as_json:
        show_json(_as_json(report), indent=2)
    else:
        for remote in report.remotes:
            if remote.error is None:
                if len(report.remotes) > 1:
                    typer.echo(remote.url)
                for name in remote.sent:
                    typer.echo(f"{name:16}  sent {remote.sent[name]:>8}   received {remote.received[name]:>8}")
        done = [remote.url for remote in report.remotes if remote.error is None]
        if done:
            typer.echo(f"in {report.seconds:.2f} s with {' and '.join(done)}")
    for remote in report.remotes:
        if remote.error is not None:
            raise remote.error


def _as_json(report: SyncReport) -> dict[str, Any]:
    remotes = [
        {
            "url": remote.url,
            "sent": dict(remote.sent),
            "received": dict(remote.received),
            "error": None if remote.error is None else str(remote.error),
        }
        for remote in report.remotes
    ]
    return {"seconds": round(report.seconds, 3), "remotes": remotes}


def _layer(directory: Path, transports: Sequence[Transport], stores: list[str] | None, relay: bool | None) -> Layer:
    from agentlayers.layer import Layer
    from agentlayers.runtime.containers import IDENTITY_FILE, AgentRuntimeContainer
    from agentlayers.runtime.session_store import AgentSessionStore
    from agentlayers.storage.artifacts import ArtifactStore
    from agentlayers.storage.audit_log import AuditEventStore
    from agentlayers.storage.chat_history import ChatHistoryStore
    from agentlayers.storage.journal_file import journal_files
    from agentlayers.storage.storage_config import StorageConfig
    from agentlayers.sync.service import SyncService
    from agentlayers.transport.transport import Transport

    # An identity alone is a new replica, which gets everything from the server.
    if not (directory / IDENTITY_FILE).exists():
        journal_files(directory)
        expected = f"a replica's directory with the file {IDENTITY_FILE!r}, which holds the key of its journals"
        raise SettingsError(setting="DIRECTORY", value=str(directory), expected=expected)
    unknown = [name for name in stores or () if name not in STORES]
    if unknown:
        raise SettingsError(setting="--store", value=unknown[0], expected=f"one of {', '.join(STORES)}")
    flags = {name: not stores or name in stores for name in STORES}

    config = StorageConfig.from_environment().model_copy(update={"directory": directory})
    return AgentRuntimeContainer.layer(
        outputs=(SyncService, AuditEventStore, ChatHistoryStore, ArtifactStore, AgentSessionStore),
        storage_config=StorageConfig.layer_of(config),
        transport=Layer.succeed(Transport, transports[0]),
        sync=SyncService.layer(stores=flags, remotes=transports[1:], relay=relay),
    )


async def _once(layer: Layer) -> SyncReport:
    async with _opened(layer) as sync:
        return since_start(await exchange(sync), sync.status)


def since_start(report: SyncReport, status: SyncStatus) -> SyncReport:
    """Return a report that counts all of this process: stores sync as they open, before an exchange is asked for."""
    remotes = []
    for remote in report.remotes:
        stores = {name: one for name, one in status.remotes[remote.url].stores.items() if one.enabled}
        sent = {name: one.sent for name, one in stores.items()}
        remotes.append(replace(remote, sent=sent, received={name: one.received for name, one in stores.items()}))
    return replace(report, remotes=tuple(remotes))


@contextlib.asynccontextmanager
async def _opened(layer: Layer) -> AsyncIterator[SyncService]:
    """Open the replica's stores, which take part in the sync by themselves."""
    from agentlayers.sync.service import SyncService

    async with layer.build() as app:
        yield app.get(SyncService)


async def _watch(layer: Layer, *, as_json: bool) -> None:
    async with _opened(layer) as sync:
        showing = asyncio.current_task()
        assert showing is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, showing.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await _show(sync, as_json=as_json)


async def _show(sync: SyncService, *, as_json: bool) -> None:
    """Show the status: one live line on a terminal, a line for each change elsewhere."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if as_json or not console.is_terminal:
        shown = ""
        async for status in sync.status_stream():
            # While a server is away, every attempt begins and ends alike: told once.
            line = "" if shown and _is_trying(status) else _line(status, as_json=as_json)
            if line and line != shown:
                typer.echo(one_line(line))
                shown = line
        return
    with Live(console=console, refresh_per_second=8) as live:
        async for status in sync.status_stream():
            live.update(_table(status, console.width))


def _is_trying(status: SyncStatus) -> bool:
    from agentlayers.sync.status import SyncState

    return any(remote.state is SyncState.CONNECTING for remote in status.remotes.values())


def _table(status: SyncStatus, width: int) -> Table:
    """Lay out each store that takes part; the heading says where each connection stands, and why."""
    from agentlayers.cli.live_table import live_table

    remotes = list(status.remotes.values())
    rows = [
        _row(number, name, store)
        for number, remote in enumerate(remotes, 1)
        for name, store in remote.stores.items()
        if store.enabled
    ]
    quiet = [name for name in ("quarantined", "behind") if not any(row[_NAMES.index(name)] not in "0?" for row in rows)]
    return live_table(
        [Column(name, is_number=name not in ("store", "verified")) for name in _NAMES],
        rows,
        width=width,
        title="\n".join(_heading(number, remote, len(remotes)) for number, remote in enumerate(remotes, 1)),
        left_out=() if len(remotes) > 1 else ("server",),
        dispensable=("verified", *quiet, "received", "sent"),
    )


_NAMES: Final = ("server", "store", "pending", "behind", "sent", "received", "quarantined", "verified")


def _row(number: int, name: str, store: StoreStatus) -> tuple[str, ...]:
    counts = (store.pending, store.behind, store.sent, store.received, store.quarantined)
    shown = ["?" if count is None else f"{count:,}" for count in counts]
    return (str(number), name, *shown, "differs" if store.is_diverged else _clock(store))


def _heading(number: int, remote: SyncStatus, count: int) -> str:
    heading = f"{remote.state} {remote.url}" if count == 1 else f"{number} {remote.state} {remote.url}"
    if remote.retry_in_seconds is not None:
        heading += f", attempt {remote.attempt + 1} within {remote.retry_in_seconds:.1f} s"
    return "\n  ".join([heading, *_troubles(remote)])


def _troubles(remote: SyncStatus) -> list[str]:
    """List what keeps the connection, and what keeps single stores, from being synced."""
    of_stores = (f"{name}: {one.last_error}" for name, one in remote.stores.items() if one.last_error)
    return [*([remote.last_error] if remote.last_error else ()), *of_stores]


def _line(status: SyncStatus, *, as_json: bool) -> str:
    if as_json:
        return json.dumps({"remotes": [_status_as_json(remote) for remote in status.remotes.values()]})
    return " | ".join(map(_remote_line, status.remotes.values()))


def _status_as_json(status: SyncStatus) -> dict[str, Any]:
    told = ("pending", "behind", "sent", "received", "quarantined", "last_error")
    stores = {
        name: {field: getattr(store, field) for field in told} for name, store in status.stores.items() if store.enabled
    }
    return {"url": status.url, "state": status.state.value, "error": status.last_error, "stores": stores}


def _remote_line(status: SyncStatus) -> str:
    stores = " ".join(
        f"{name} +{store.received}/-{store.sent}" for name, store in status.stores.items() if store.enabled
    )
    trouble = "".join(f"; {trouble}" for trouble in _troubles(status))
    return f"{status.state} {status.url}: {status.pending} pending; received/sent {stores}{trouble}"


def _clock(store: StoreStatus) -> str:
    return "" if store.last_verified is None else f"{store.last_verified.astimezone():%H:%M:%S}"
