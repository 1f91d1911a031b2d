"""``agentlayers chat show``: one session, readable."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentlayers.cli.chat.arguments import AsJson, Directory, Last, Session
from agentlayers.cli.chat.replica_chat import open_chat
from agentlayers.cli.table import format_millis, one_line, show_json

if TYPE_CHECKING:
    from agentlayers.cli.chat.replica_chat import SessionSummary
    from agentlayers.storage.chat_event import ChatEvent

__all__ = ["message_json", "show"]

_POLL_SECONDS = 0.3


def show(
    directory: Directory,
    session: Session = None,
    last: Last = False,
    limit: Annotated[int, typer.Option(min=0, help="Only the last so many messages; 0 for all.")] = 0,
    full: Annotated[
        bool,
        typer.Option("--full", help="Show calls of tools, their results and asides whole, instead of a line each."),
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what arrives, until stopped with Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """
    Show one session: who said what, which tools were called, and what came of it.

    With --json there is one message on each line, whole. With --follow messages are shown as they reach the replica,
    written by an application here or received from a server.

    For instance:

      agentlayers chat show ./replica --last --limit 20 --follow

      agentlayers chat show ./replica 5c047d02 --json | jq .message.uuid
    """
    from agentlayers.cli.chat.terminal import MessagePrinter

    with open_chat(directory) as chat:
        session_id = chat.resolve(session, last=last)
        printer = None if as_json else MessagePrinter(is_full=full)
        if printer is not None:
            printer.heading(_heading(chat.summary(session_id)))
        tell = _tell_json if printer is None else printer.message
        position = chat.last_position()
        _tell_all(chat.messages(session_id, newest=limit or None), tell)
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            _tell_all(_arriving(directory, session_id, position), tell)


def _tell_all(events: Iterable[ChatEvent], tell: Callable[[ChatEvent], None]) -> None:
    for event in events:
        tell(event)


def _arriving(directory: Path, session_id: str, position: int) -> Iterator[ChatEvent]:
    while True:
        with open_chat(directory) as chat:
            # A page is kept in memory, so that no snapshot stays open while the reader waits.
            reached = chat.last_position()
            found = list(chat.after(position, session_id)) if reached > position else []
        yield from found
        position = reached
        time.sleep(_POLL_SECONDS)


def _heading(summary: SessionSummary) -> list[str]:
    about = [one_line(text) for text in (summary.project, summary.branch) if text]
    times = f"{format_millis(summary.began_ms)[:19]}Z to {format_millis(summary.last_ms)[:19]}Z"
    title = one_line(summary.title)
    return [
        title or summary.session_id,
        "  ".join([summary.session_id, f"{summary.messages:,} messages", times, *about]),
    ]


def _tell_json(event: ChatEvent) -> None:
    show_json(message_json(event))


def message_json(event: ChatEvent) -> dict[str, Any]:
    """Return one message for ``--json``."""
    from agentlayers.storage.export import json_of

    return {
        "session_id": event.session_id,
        "sequence": event.sequence,
        "time": format_millis(event.timestamp_ms),
        "source": event.source,
        "id": event.entry_id.hex(),
        "message": json_of(event.message),
    }
