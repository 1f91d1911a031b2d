"""``agentlayers chat export``: conversations as Markdown, JSON lines or a page of HTML."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentlayers.cli.chat.arguments import Directory, Last, Session
from agentlayers.cli.chat.replica_chat import open_chat
from agentlayers.cli.output_file import write_lines
from agentlayers.cli.progress import progress_bar
from agentlayers.errors import SettingsError

if TYPE_CHECKING:
    from agentlayers.cli.chat.documents import Conversation
    from agentlayers.cli.chat.replica_chat import ReplicaChat, SessionSummary
    from agentlayers.storage.chat_event import ChatEvent

__all__ = ["ChatFormat", "export"]


class ChatFormat(StrEnum):
    """What an export is written as."""

    MARKDOWN = "markdown"
    JSONL = "jsonl"
    HTML = "html"


_SUFFIXES = {".md": ChatFormat.MARKDOWN, ".jsonl": ChatFormat.JSONL, ".html": ChatFormat.HTML, ".htm": ChatFormat.HTML}


def export(
    directory: Directory,
    session: Session = None,
    last: Last = False,
    every: Annotated[bool, typer.Option("--all", help="All sessions, the oldest first.")] = False,
    format_: Annotated[
        ChatFormat | None,
        typer.Option(
            "--format", help="What to write. (default: by the name of --output, or markdown)", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write to this file instead of standard output.", show_default=False),
    ] = None,
) -> None:
    """
    Write one session, or all of them, for people or programs to read.

    Markdown and HTML show what 'chat show --full' does; the page of HTML needs nothing else and runs nothing. JSON
    lines hold every message whole. A file is only there when it is whole, readable by its owner alone.

    For instance:

      agentlayers chat export ./replica --last --output conversation.html

      agentlayers chat export ./replica --all --format jsonl | jq -r .session_id | sort | uniq -c
    """
    if every and (session is not None or last):
        raise SettingsError(setting="--all", value=True, expected="no SESSION and no --last beside it")
    chosen = format_ or (_SUFFIXES.get(output.suffix.lower()) if output is not None else None) or ChatFormat.MARKDOWN
    with open_chat(directory) as chat:
        sessions = _sessions(chat, session, last=last, every=every)
        total = sum(summary.messages for summary in sessions) if output is not None else None
        with progress_bar("exporting", total) as advance:
            lines = _lines(chosen, _conversations(chat, sessions, advance))
            if output is not None:
                write_lines(output, lines)
                return
            for line in lines:
                sys.stdout.write(line + "\n")


def _sessions(chat: ReplicaChat, session: str | None, *, last: bool, every: bool) -> list[SessionSummary]:
    if every:
        return chat.sessions()[::-1]
    return [chat.summary(chat.resolve(session, last=last))]


def _conversations(
    chat: ReplicaChat, sessions: Iterable[SessionSummary], advance: Callable[[int], None]
) -> Iterator[Conversation]:
    from agentlayers.cli.chat.documents import Conversation

    for summary in sessions:
        yield Conversation(summary, _counted(chat.messages(summary.session_id), advance))


def _counted(events: Iterator[ChatEvent], advance: Callable[[int], None]) -> Iterator[ChatEvent]:
    for event in events:
        yield event
        advance(1)


def _lines(chosen: ChatFormat, conversations: Iterator[Conversation]) -> Iterator[str]:
    from agentlayers.cli.chat.documents import html_lines, markdown_lines
    from agentlayers.cli.chat.show import message_json

    if chosen is ChatFormat.MARKDOWN:
        return markdown_lines(conversations)
    if chosen is ChatFormat.HTML:
        return html_lines(conversations)
    return (
        json.dumps(message_json(event), ensure_ascii=False, separators=(",", ":"))
        for conversation in conversations
        for event in conversation.events
    )
