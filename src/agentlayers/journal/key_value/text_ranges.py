"""
Texts: an inverted index in segments, and the newest texts beside it.

A text waits until enough others do, and is then indexed together with them: one key for each word of all of them
instead of one for each word of each. Postings only narrow a search down; every text found by them is compared whole.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice
from struct import pack, unpack
from typing import Final, NamedTuple

import msgpack

from agentlayers.journal.key_value.keys import (
    position_of,
    posting_prefix,
    segment_count_key,
    segment_key,
    text_key,
    waiting_key,
    waiting_prefix,
)
from agentlayers.journal.key_value.remote_ranges import RemoteRanges
from agentlayers.journal.primitives import EntryRow
from agentlayers.journal.text_search import (
    TextHit,
    TextOrder,
    TextTerm,
    places_of,
    precedence,
    share_rank,
    words_of,
)
from agentlayers.key_value.keys import prefix_end

__all__ = ["TextRanges"]

_SEGMENTS: Final = b"segment"
_TEXTS_WAITING_MAX: Final = 128
"""So many texts are compared one by one at each search; with more they get a segment of the index."""

_WORD_CHARACTERS: Final = 40
"""Longer words are found by their beginning."""

_AT_ONCE: Final = 32
_POSITION_END: Final = (1 << 64) - 1


class _Text(NamedTuple):
    """What is kept of a text; segment 0 is none yet."""

    segment: int
    entry_id: bytes
    scope: str
    text: str


def _encode(text: _Text) -> bytes:
    return bytes(msgpack.packb(text, unicode_errors="surrogatepass"))


def _decode(data: bytes) -> _Text:
    return _Text(*msgpack.unpackb(data, unicode_errors="surrogatepass"))


class TextRanges(RemoteRanges):
    """The text index."""

    # -- keeping -------------------------------------------------------------------------------------------
    def put_text(self, store: int, entry_id: bytes, scope: str, text: str | None) -> None:
        """Keep the text an entry is found by."""
        place = self._place(store, entry_id)
        if place is None:
            return
        self._drop_text(store, place.position)
        if text is not None:
            self.cells.put(text_key(store, place.position), _encode(_Text(0, entry_id, scope, text)))
            self.cells.put(waiting_key(store, place.position), b"")
            self._count_waiting(store, 1)

    def delete_rows(self, rows: Sequence[EntryRow]) -> None:
        """Drop entries, and the texts they were found by."""
        for row in rows:
            self._drop_text(row.store, row.position)
        super().delete_rows(rows)

    def _drop_text(self, store: int, position: int) -> None:
        found = self.cells.get(text_key(store, position))
        if found is None:
            return
        self.cells.put(text_key(store, position), None)
        segment = _decode(found).segment
        if segment:
            self._leave_segment(segment)
        else:
            self.cells.put(waiting_key(store, position), None)
            self._count_waiting(store, -1)

    def _waiting(self, store: int) -> int:
        return int.from_bytes(self.cells.get(_waiting_count(store)) or b"")

    def _count_waiting(self, store: int, more: int) -> None:
        self.cells.put(_waiting_count(store), (self._waiting(store) + more).to_bytes(8))

    # -- segments ------------------------------------------------------------------------------------------
    def finish(self) -> None:
        """Index what has waited long enough; called once, before the commit."""
        for store in self.stores.values():
            if self._waiting(store) >= _TEXTS_WAITING_MAX:
                self._make_segment(store)

    def _make_segment(self, store: int) -> None:
        segment = self._next_number(_SEGMENTS)
        waiting = [position_of(key) for key, _ in self._under(waiting_prefix(store))]
        postings: dict[str, list[int]] = {}
        for start in range(0, len(waiting), _AT_ONCE):
            some = waiting[start : start + _AT_ONCE]
            found = self.cells.get_many([text_key(store, position) for position in some])
            for position, data in zip(some, found, strict=True):
                text = _decode(data)._replace(segment=segment)
                self.cells.put(text_key(store, position), _encode(text))
                self.cells.put(waiting_key(store, position), None)
                for word in {word[:_WORD_CHARACTERS] for word in words_of(text.text)}:
                    postings.setdefault(word, []).append(position)
        keys = []
        for word in sorted(postings):
            positions = postings[word]
            key = _posting_key(store, word, positions[-1], segment)
            self.cells.put(key, pack(f">{len(positions)}Q", *positions))
            keys.append(key)
        self.cells.put(segment_key(segment), msgpack.packb(keys))
        self.cells.put(segment_count_key(segment), len(waiting).to_bytes(8))
        self._count_waiting(store, -len(waiting))

    def _leave_segment(self, segment: int) -> None:
        left = int.from_bytes(self.cells.get(segment_count_key(segment)) or b"") - 1
        if left > 0:
            # Its postings go on naming the text, which is not there any more; positions are never used again.
            self.cells.put(segment_count_key(segment), left.to_bytes(8))
            return
        for key in msgpack.unpackb(self.cells.get(segment_key(segment)) or b"\x90"):
            self.cells.put(key, None)
        self.cells.put(segment_key(segment), None)
        self.cells.put(segment_count_key(segment), None)

    # -- searching -----------------------------------------------------------------------------------------
    def texts_with(
        self,
        store: int,
        terms: Sequence[TextTerm],
        *,
        scope: str | None,
        order: TextOrder,
        after: TextHit | None,
        rows_max: int,
    ) -> list[TextHit]:
        """List entries whose text has all terms."""
        is_ranked = order is TextOrder.BEST
        before = after.position if after is not None and not is_ranked else _POSITION_END
        hits = self._hits(store, terms, scope, before, is_ranked=is_ranked)
        if not is_ranked:
            return list(islice(hits, rows_max))
        beyond = (hit for hit in hits if after is None or precedence(hit) > precedence(after))
        return heapq.nsmallest(rows_max, beyond, key=precedence)

    def _hits(
        self, store: int, terms: Sequence[TextTerm], scope: str | None, before: int, *, is_ranked: bool
    ) -> Iterator[TextHit]:
        candidates = (position for position in self._candidates(store, terms) if position < before)
        while some := list(islice(candidates, _AT_ONCE)):
            found = self.cells.get_many([text_key(store, position) for position in some])
            for position, data in zip(some, found, strict=True):
                if data is None:
                    continue
                text = _decode(data)
                places = places_of(text.text, terms) if scope in (None, text.scope) else None
                if places is not None:
                    yield TextHit(text.entry_id, position, share_rank(text.text, places) if is_ranked else 0.0)

    def _candidates(self, store: int, terms: Sequence[TextTerm]) -> Iterator[int]:
        """Iterate over positions that may match, newest first, each once."""
        prefix = waiting_prefix(store)
        waiting = (position_of(key) for key, _ in self.cells.scan(prefix, prefix_end(prefix), reverse=True))
        last = -1
        for position in heapq.merge(waiting, self._indexed(store, terms), reverse=True):
            if position != last:
                yield position
            last = position

    def _indexed(self, store: int, terms: Sequence[TextTerm]) -> Iterator[int]:
        words = {word for term in terms for word in term.words[: -1 if term.is_prefix else None]}
        if words:
            prefixes = [posting_prefix(store, word[:_WORD_CHARACTERS]) + b"\x00" for word in words]
            return self._descending(min(prefixes, key=self._frequency))
        beginning = max((term.words[-1] for term in terms), key=len)[:_WORD_CHARACTERS]
        found = {position for _, data in self._under(posting_prefix(store, beginning)) for position in _positions(data)}
        return iter(sorted(found, reverse=True))

    def _frequency(self, prefix: bytes) -> int:
        """Return about how often a word occurs; beyond some, how often does not matter."""
        some = self.cells.scan(prefix, prefix_end(prefix), limit=_AT_ONCE)
        return sum(len(data) for _, data in some)

    def _descending(self, prefix: bytes) -> Iterator[int]:
        """Iterate over the positions of a word; postings come with the highest last position first."""
        heap: list[int] = []
        for key, data in self._under(prefix):
            last = _POSITION_END - int.from_bytes(key[-16:-8])
            while heap and -heap[0] > last:
                yield -heapq.heappop(heap)
            for position in _positions(data):
                heapq.heappush(heap, -position)
        while heap:
            yield -heapq.heappop(heap)

    def settle_texts(self) -> None:
        """Do nothing: ranks depend on the text alone."""

    def text_backlog(self) -> int:
        """Return up to which position entries are older than the text index."""
        return 0


def _posting_key(store: int, word: str, last: int, segment: int) -> bytes:
    return b"".join((posting_prefix(store, word), b"\x00", (_POSITION_END - last).to_bytes(8), segment.to_bytes(8)))


def _positions(data: bytes) -> tuple[int, ...]:
    return unpack(f">{len(data) // 8}Q", data)


def _waiting_count(store: int) -> bytes:
    return b"W" + waiting_prefix(store)[1:]
