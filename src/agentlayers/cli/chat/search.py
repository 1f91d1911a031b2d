"""``agentlayers chat search``: messages by the words in them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from agentlayers.cli.chat.arguments import AsJson, Directory
from agentlayers.cli.chat.replica_chat import decoded, open_chat
from agentlayers.cli.chat.show import message_json
from agentlayers.cli.message_view import message_view
from agentlayers.cli.table import format_millis, one_line, show_json
from agentlayers.errors import SettingsError

if TYPE_CHECKING:
    from agentlayers.cli.chat.replica_chat import ReplicaChat
    from agentlayers.journal.text_search import Snippet, TextTerm
    from agentlayers.storage.chat_event import ChatEvent

__all__ = ["search"]


def search(
    directory: Directory,
    text: Annotated[
        str,
        typer.Argument(
            help='Words to find; "in quotes" next to each other, begin* for a beginning.', show_default=False
        ),
    ],
    session: Annotated[
        str | None, typer.Option(help="Only in this session: its id or its first characters.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    best: Annotated[bool, typer.Option("--best", help="The best matches first, instead of the newest.")] = False,
    as_json: AsJson = False,
) -> None:
    """
    Find messages that hold all the words, without regard to case and accents.

    Matches are highlighted, and marked ** where the output is no terminal. The exit status is 1 if there is none.

    For instance:

      agentlayers chat search ./replica '"connection refused" retr*'
    """
    from agentlayers.journal.text_search import parse_terms

    terms = parse_terms(text)
    if not terms:
        raise SettingsError(setting="TEXT", value=text, expected="at least one word of letters or digits")
    count = 0
    with open_chat(directory) as chat:
        chosen = None if session is None else chat.resolve(session, last=False)
        for match in islice(_matches(chat, terms, chosen, limit, is_ranked=best), limit):
            count += 1
            if as_json:
                show_json(_json(match))
            else:
                _show(match)
    if not count:
        typer.echo("no message has all these words", err=True)
        raise typer.Exit(1)


class _Match(NamedTuple):
    event: ChatEvent
    snippet: Snippet


def _matches(
    chat: ReplicaChat, terms: list[TextTerm], session_id: str | None, limit: int, *, is_ranked: bool
) -> Iterator[_Match]:
    from agentlayers.journal.sqlite.schema import SCHEMA_VERSION
    from agentlayers.journal.text_search import TextOrder, snippet_of
    from agentlayers.storage.chat_index import STORE
    from agentlayers.storage.chat_search import has_backlog, searchable_text
    from agentlayers.storage.reading import stored_entries

    tx = chat.snapshot.tx
    if chat.snapshot.schema_version < SCHEMA_VERSION or has_backlog(tx):
        # Messages older than the index are brought into it by the application; here they are read one by one.
        yield from _all_read(chat, terms, session_id)
        return
    order = TextOrder.BEST if is_ranked else TextOrder.NEWEST
    hits = tx.search_text(STORE, terms, scope=session_id, order=order, limit=limit)
    for stored in stored_entries(tx, STORE, [hit.entry_id for hit in hits]):
        event = decoded(stored)
        if event is not None:
            yield _Match(event, snippet_of(searchable_text(event.message), terms))


def _all_read(chat: ReplicaChat, terms: list[TextTerm], session_id: str | None) -> Iterator[_Match]:
    from agentlayers.journal.text_search import places_of, snippet_of
    from agentlayers.storage.chat_index import STORE, is_shown
    from agentlayers.storage.chat_search import searchable_text

    for stored in chat.snapshot.entries(store=STORE, newest_first=True):
        event = decoded(stored)
        if event is None or session_id not in (None, event.session_id) or not is_shown(chat.snapshot.tx, event):
            continue
        text = searchable_text(event.message)
        if places_of(text, terms) is not None:
            yield _Match(event, snippet_of(text, terms))


def _show(match: _Match) -> None:
    event = match.event
    role = message_view(event.message, source=event.source).role
    head = f"{format_millis(event.timestamp_ms)[:19]}Z  {event.session_id}  {role}"
    if not sys.stdout.isatty():
        typer.echo(f"{one_line(head)}  {one_line(match.snippet.marked())}")
        return
    from rich.console import Console
    from rich.text import Text

    shown = Text(one_line(head) + "\n", style="dim")
    at = 0
    for start, end in match.snippet.matches:
        shown.append(one_line(match.snippet.text[at:start]), style="not dim")
        shown.append(one_line(match.snippet.text[start:end]), style="not dim bold reverse")
        at = end
    shown.append(one_line(match.snippet.text[at:]), style="not dim")
    Console().print(shown, soft_wrap=True)


def _json(match: _Match) -> dict[str, Any]:
    return message_json(match.event) | {"snippet": match.snippet.text, "matches": match.snippet.matches}
