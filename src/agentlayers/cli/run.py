"""``agentlayers run``: ask an agent that a layer file or preset wires, recorded and synced as the file says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentlayers.cli.exit_status import ExitStatus
from agentlayers.cli.layer_source import ALLOW_IMPORTS_HELP, CONTAINER_HELP, container_named, load_source
from agentlayers.errors import AgentLayersError, SettingsError, UsageError
from agentlayers.limits import FLUSH_ON_CLOSE_SECONDS
from agentlayers.runtime.options import PermissionMode

if TYPE_CHECKING:
    from agentlayers.layer import LayerContainer
    from agentlayers.runtime.agent_runtime import AgentRuntime
    from agentlayers.runtime.query_handle import QueryHandle

__all__ = ["command"]

_PROMPT_CHARACTERS_MAX: Final = 4_000_000


def command(
    layer: Annotated[str, typer.Argument(metavar="LAYER", help="YAML file, or preset by name: local, memory, synced.")],
    prompt: Annotated[
        str | None, typer.Argument(help="What to ask. Read from standard input if it is left out or '-'.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="Agent: scripted or claude. (default: the layer's)")
    ] = None,
    script: Annotated[Path | None, typer.Option(help="Script that the scripted agent plays.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="SESSION", help="Go on with this session.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of the agent.")] = None,
    cwd: Annotated[Path | None, typer.Option(help="Where the agent's tools work.")] = None,
    permission_mode: Annotated[PermissionMode | None, typer.Option(help="How tools are permitted.")] = None,
    allow_tool: Annotated[
        list[str] | None, typer.Option(metavar="TOOL", help="Permit this tool without asking; may be repeated.")
    ] = None,
    max_turns: Annotated[int | None, typer.Option(min=1, help="End with an error after so many replies.")] = None,
    directory: Annotated[
        Path | None,
        typer.Option(help="Directory of the replica. (default: AGENTLAYERS_STORAGE_DIRECTORY, or ./storage)"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SLOT=YAML", help="Fill a slot of the layer otherwise; may be repeated."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", "--whole", help="Show calls of tools and their results whole.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each message as a JSON object on a line.")] = False,
    container: Annotated[str | None, typer.Option(metavar="NAME|MODULE:CLASS", help=CONTAINER_HELP)] = None,
    allow_imports: Annotated[
        list[str] | None, typer.Option("--allow-imports", metavar="PACKAGE", help=ALLOW_IMPORTS_HELP)
    ] = None,
) -> None:
    """
    Ask an agent, and show what it says and does while it does it.

    The layer decides what is kept and where it is sent: with "local" the
    conversation is recorded in the replica's directory, with "synced" it is
    also exchanged with the server at SYNC_URL. The last line says under which
    session it is recorded, for --resume and for "agentlayers chat show".

    Ctrl-C interrupts the agent; what it said until then is kept. The exit
    status is 0 if the agent came to an end, 6 if it failed, and 130 if it was
    interrupted.

    For example:

      agentlayers run local "hello"

      agentlayers run memory --script talk.yaml "make a plan"

      agentlayers run local --backend claude --set "compaction={by_age: 30 days}" "fix the tests"
    """
    if directory is not None:
        os.environ["AGENTLAYERS_STORAGE_DIRECTORY"] = str(directory)
    changes = _changes(backend, script, set_ or [])
    wired = _wired(layer, container_named(container), allow_imports or [], changes)
    options: dict[str, Any] = {
        "resume": resume,
        "model": model,
        "cwd": cwd,
        "permission_mode": permission_mode,
        "allowed_tools": allow_tool,
        "max_turns": max_turns,
    }
    given = {name: value for name, value in options.items() if value is not None}
    raise typer.Exit(asyncio.run(_run(wired, _prompt(prompt), given, is_full=full, as_json=as_json)))


def _prompt(prompt: str | None) -> str:
    if prompt is None or prompt == "-":
        if prompt is None and sys.stdin.isatty():
            raise UsageError("there is nothing to ask; give a PROMPT, or pipe one in")
        prompt = sys.stdin.read(_PROMPT_CHARACTERS_MAX).removesuffix("\n")
    if not prompt.strip():
        raise UsageError("the prompt is empty; say what the agent is to do")
    return prompt


# -- wiring -------------------------------------------------------------------------------------------------
def _changes(backend: str | None, script: Path | None, settings: list[str]) -> str:
    """Write what the command line says about slots as a layer file, to be laid over the one that was named."""
    import yaml

    lines = []
    for setting in settings:
        slot, equals, value = setting.partition("=")
        if not (equals and slot.strip().isidentifier() and value.strip()):
            raise SettingsError(
                setting="--set", value=setting, expected="SLOT=YAML, such as compaction={by_age: 30 days}"
            )
        lines.append(f"{slot.strip()}: {value.strip()}\n")
    if script is not None:
        if backend not in {None, "scripted"}:
            raise UsageError(f"--script is played by the scripted agent, not by {backend!r}; leave one of them out")
        lines.append(yaml.safe_dump({"agent_backend": {"scripted": {"script": str(script)}}}))
    elif backend is not None:
        lines.append(yaml.safe_dump({"agent_backend": backend}))
    return "".join(lines)


def _wired(layer: str, container: type[LayerContainer], allow_imports: list[str], changes: str) -> type[LayerContainer]:
    from agentlayers.layer import load_layers
    from agentlayers.runtime.containers import AgentRuntimeContainer

    wired = load_source(layer, container, fill=False, allow_imports=allow_imports).container
    if not issubclass(wired, AgentRuntimeContainer):
        kind = wired.__name__.partition("[")[0]
        raise UsageError(f"{layer} fills {kind}, which runs no agent; name a layer of an agent runtime, such as local")
    if changes:
        return load_layers(changes, container=wired, allow_imports=allow_imports)
    return wired


# -- running ------------------------------------------------------------------------------------------------
async def _run(
    wired: type[LayerContainer], prompt: str, options: Mapping[str, Any], *, is_full: bool, as_json: bool
) -> ExitStatus:
    from agentlayers.runtime.agent_runtime import AgentRuntime

    async with wired.build(AgentRuntime) as runtime:
        async with runtime.query(prompt, **options) as query, _interruptible(query):
            await _show(query, is_full=is_full, as_json=as_json)
            await query.aclose()  # until all of it is recorded, so that the summary is true
        sent = await _exchange(runtime)
        if not as_json:
            typer.echo(f"-- {_recorded(runtime, query)}{sent}", err=True)
        state = query.status.state
    if state == "interrupted":
        return ExitStatus.INTERRUPTED
    return ExitStatus.OK if state == "completed" else ExitStatus.AGENT


async def _show(query: QueryHandle, *, is_full: bool, as_json: bool) -> None:
    from rich.console import Console

    from agentlayers.cli.conversation import Conversation
    from agentlayers.cli.table import show_json

    conversation = Conversation(Console(), is_full=is_full)
    async for message in query:
        if as_json:
            show_json(message.raw)
            sys.stdout.flush()
        else:
            conversation.show(message)


@contextlib.asynccontextmanager
async def _interruptible(query: QueryHandle) -> AsyncIterator[None]:
    """Interrupt the agent at the first signal; a second one has its usual effect."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    interrupting: list[asyncio.Task[None]] = []

    def interrupt() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)
        interrupting.append(asyncio.create_task(query.interrupt(), name="interrupt"))

    for number in numbers:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
        await asyncio.gather(*interrupting, return_exceptions=True)


async def _exchange(runtime: AgentRuntime) -> str:
    """Send what was recorded, if there is a server, and say so."""
    from agentlayers.sync.status import SyncState

    sync = runtime.sync
    if sync is None or sync.status.state is SyncState.OFFLINE:
        return ""
    try:
        await sync.sync_now(timeout_seconds=FLUSH_ON_CLOSE_SECONDS)
    except AgentLayersError as error:
        return f", not sent: {error}; it is sent the next time there is a connection"
    return f", sent to {sync.url}"


def _recorded(runtime: AgentRuntime, query: QueryHandle) -> str:
    """Say what became of the conversation; on standard error, so that what the agent said can be piped on."""
    status = query.status
    said = f"session {status.session_id or 'unknown'}, {status.messages} messages"
    if runtime.chat_history is None or not runtime.chat_history.is_enabled:
        return f"{said}, not recorded"
    if status.recording_pending or status.recording_error:
        reason = f": {status.recording_error}" if status.recording_error else ""
        return f"{said}, {status.recording_pending} of them not recorded{reason}"
    return f"{said}, recorded"
