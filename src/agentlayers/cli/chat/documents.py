"""
Conversations as documents: Markdown, and pages of HTML that need nothing else.

What was said may hold anything. In HTML all of it is escaped, and the page forbids scripts, styles of others and any
request. In Markdown a fence is longer than any in the text it holds.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from agentlayers.cli.message_view import MessageView, Part, message_view
from agentlayers.cli.table import format_millis, one_line, printable

if TYPE_CHECKING:
    from agentlayers.cli.chat.replica_chat import SessionSummary
    from agentlayers.storage.chat_event import ChatEvent

__all__ = ["Conversation", "html_lines", "markdown_lines"]

_PART_NAMES: Final = {
    "call": "call", "result": "result", "error": "failed", "thinking": "thinking", "note": "note", "image": "image"
}  # fmt: skip
_CODE_OR_TAG: Final = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)|<(?=[A-Za-z/!?])")
_STYLE: Final = """\
body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.4rem;border-top:3px solid #d0d7de;padding-top:1rem}
.about,time{color:#59636e;font-size:.85rem}
section{margin:1rem 0;padding:.1rem 1rem;border-left:4px solid #d0d7de}
.user{border-color:#0969da}.assistant{border-color:#1a7f37}.tool{border-color:#9a6700}.subagent{margin-left:2rem}
.text{white-space:pre-wrap;overflow-wrap:anywhere}
details{margin:.5rem 0}summary{cursor:pointer;color:#59636e;overflow-wrap:anywhere}.error>summary{color:#cf222e}
pre{background:#f6f8fa;padding:.75rem;overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}pre{background:#161b22}}
"""


class Conversation(NamedTuple):
    """One session and its messages."""

    summary: SessionSummary
    events: Iterable[ChatEvent]


# -- Markdown -----------------------------------------------------------------------------------------------
def markdown_lines(conversations: Iterable[Conversation]) -> Iterator[str]:
    """Write conversations as Markdown, line by line."""
    for conversation in conversations:
        yield f"# {_markdown_text(_title(conversation.summary))}"
        yield ""
        yield "  \n".join(_markdown_text(line) for line in _about(conversation.summary))
        yield ""
        for event, view in _views(conversation):
            speaker = _markdown_text(_speaker(view))
            yield f"## {speaker} · {_time(event)}"
            yield ""
            for part in view.parts:
                yield from _markdown_part(part)
                yield ""


def _markdown_part(part: Part) -> Iterator[str]:
    text = printable(part.text)
    if part.kind == "text":
        yield "\n".join(_said(text))
        return
    yield f"**{_PART_NAMES[part.kind]}**" + (f" `{one_line(part.name)}`" if part.name else "")
    if text:
        fence = "`" * max(3, 1 + max((len(ticks) for ticks in re.findall("`+", text)), default=0))
        yield f"\n{fence}{'json' if part.kind == 'call' else 'text'}\n{text}\n{fence}"


def _said(text: str) -> Iterator[str]:
    """Leave the Markdown that was said as it is, but for what would reach beyond it: headings, HTML, open fences."""
    fence = ""
    for line in text.split("\n"):
        mark = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip("`~ \t\r"):
                fence = ""
            yield line
        elif mark:
            fence = mark[1]
            yield line
        else:
            lower = re.sub(r"^(#{1,4} )", r"##\1", line)
            yield _CODE_OR_TAG.sub(lambda found: "&lt;" if found[0] == "<" else found[0], lower)
    if fence:
        yield fence


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", one_line(text))


# -- HTML ---------------------------------------------------------------------------------------------------
def html_lines(conversations: Iterable[Conversation]) -> Iterator[str]:
    """Write conversations as one page of HTML, line by line."""
    yield '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width">'
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield f"<title>Conversations</title>\n<style>\n{_STYLE}</style>"
    for conversation in conversations:
        yield f"<h1>{_escaped(_title(conversation.summary))}</h1>"
        yield f'<p class="about">{"<br>".join(_escaped(line) for line in _about(conversation.summary))}</p>'
        for event, view in _views(conversation):
            role = view.role if view.role in ("user", "assistant", "tool") else "other"
            yield f'<section class="{role}{" subagent" if view.is_subagent else ""}">'
            yield f"<p><strong>{_escaped(_speaker(view))}</strong> <time>{_escaped(_time(event))}</time></p>"
            yield from map(_html_part, view.parts)
            yield "</section>"
    yield "</html>"


def _html_part(part: Part) -> str:
    text = _escaped(printable(part.text))
    if part.kind == "text":
        return f'<div class="text">{text}</div>'
    name = f" <code>{_escaped(one_line(part.name))}</code>" if part.name else ""
    head = f"{_PART_NAMES[part.kind]}{name} {_escaped(one_line(part.brief)[:160])}"
    if not part.text:
        return f"<p class='about'>{head}</p>"
    return f'<details class="{part.kind}"><summary>{head}</summary><pre>{text}</pre></details>'


def _escaped(text: str) -> str:
    return html.escape(printable(text), quote=True)


# -- both ---------------------------------------------------------------------------------------------------
def _views(conversation: Conversation) -> Iterator[tuple[ChatEvent, MessageView]]:
    for event in conversation.events:
        if event.message.get("type") != "stream_event":  # a piece of a message that comes whole
            yield event, message_view(event.message, source=event.source)


def _title(summary: SessionSummary) -> str:
    return summary.title or summary.session_id


def _about(summary: SessionSummary) -> list[str]:
    began, last = format_millis(summary.began_ms)[:19], format_millis(summary.last_ms)[:19]
    held = " on ".join(text for text in (summary.project, summary.branch) if text)
    return [
        f"session {summary.session_id}",
        f"{summary.messages:,} messages, {began}Z to {last}Z",
        *([held] if held else []),
    ]


def _speaker(view: MessageView) -> str:
    return f"{view.role} (subagent)" if view.is_subagent else view.role


def _time(event: ChatEvent) -> str:
    return format_millis(event.timestamp_ms)[:19] + "Z"
