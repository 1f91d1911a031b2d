"""
Words of a search and where they are in a text; what every journal's text index agrees on.

A text is a sequence of words: runs of letters and digits, compared without case and accents. A search is a list of
terms; each must be in the text, and the words of one term follow each other. Pure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

__all__ = [
    "Snippet",
    "TextHit",
    "TextOrder",
    "TextTerm",
    "parse_terms",
    "places_of",
    "precedence",
    "share_rank",
    "snippet_of",
    "words_of",
]

_WORD: Final = re.compile(r"[^\W_](?:[^\W_]|[\u0300-\u036f])*")
_BEFORE: Final = 6
_WORDS: Final = 24
_SNIPPET_CHARACTERS_MAX: Final = 400


class TextOrder(StrEnum):
    """Which matches come first."""

    NEWEST = "newest"
    """What arrived here last."""
    BEST = "best"
    """Where the words searched for make up most."""


class TextTerm(NamedTuple):
    """
    One thing to find.

    Attributes:
        words: They follow each other in the text; without case and accents.
        is_prefix: The last of them may go on.
    """

    words: tuple[str, ...]
    is_prefix: bool


class TextHit(NamedTuple):
    """
    One entry that matches.

    Attributes:
        entry_id: The entry.
        position: Its place in local arrival order.
        rank: Lower is better; 0 where the order is not that of rank.
    """

    entry_id: bytes
    position: int
    rank: float


class Snippet(NamedTuple):
    """
    A part of a text with a match in it.

    Attributes:
        text: The part; an ellipsis stands for what was left out.
        matches: Start and end of each match in :attr:`text`, ascending.
    """

    text: str
    matches: tuple[tuple[int, int], ...]

    def marked(self, start: str = "**", end: str = "**") -> str:
        """
        Return the text with its matches marked.

        >>> Snippet("find it here", ((5, 7),)).marked("[", "]")
        'find [it] here'

        """
        parts, at = [], 0
        for first, last in self.matches:
            parts += [self.text[at:first], start, self.text[first:last], end]
            at = last
        return "".join([*parts, self.text[at:]])


def parse_terms(text: str) -> list[TextTerm]:
    """
    Read what a person typed: words to find, in any order; ``pars*`` finds every word that begins so.

    Anything else than words has no meaning and does no harm; what is joined, such as ``foo-bar`` or ``"foo bar"``,
    must be together in the text.

    >>> parse_terms('Köln "the cat" pars* AND')
    [TextTerm(words=('koln',), is_prefix=False), TextTerm(words=('the', 'cat'), is_prefix=False), \
TextTerm(words=('pars',), is_prefix=True), TextTerm(words=('and',), is_prefix=False)]

    """
    terms = []
    for quoted, bare in re.findall(r'"([^"]*)"|([^\s"]+)', text):
        words = tuple(word for word, _start, _end in _words(quoted or bare))
        if words:
            terms.append(TextTerm(words, bare.endswith("*")))
    return terms


def words_of(text: str) -> set[str]:
    """
    Return the words of a text as they are compared.

    >>> sorted(words_of("The cat, the CAFÉ"))
    ['cafe', 'cat', 'the']

    """
    return {word for word, _start, _end in _words(text)}


def places_of(text: str, terms: Sequence[TextTerm]) -> list[tuple[int, int]] | None:
    """
    Return where the terms are in a text, ascending; :obj:`None` unless all of them are.

    >>> places_of("The cat sat.", parse_terms("CAT sa*")), places_of("The cat sat.", parse_terms("dog"))
    ([(4, 7), (8, 11)], None)

    """
    words = list(_words(text))
    found: set[tuple[int, int]] = set()
    for term in terms:
        places = list(_places(words, term))
        if not places:
            return None
        found.update(places)
    return sorted(found)


def share_rank(text: str, places: Sequence[tuple[int, int]]) -> float:
    """Return a rank by how much of a text the matches make up."""
    return -sum(end - start for start, end in places) / len(text)


def precedence(hit: TextHit) -> tuple[float, int]:
    """Return what matches are sorted by, in either order."""
    return hit.rank, -hit.position


def snippet_of(text: str, terms: Sequence[TextTerm]) -> Snippet:
    """
    Return the part of a text around the first match; its beginning if there is none.

    >>> snippet_of("one two three", parse_terms("two"))
    Snippet(text='one two three', matches=((4, 7),))

    """
    words = list(_words(text))
    places = sorted({place for term in terms for place in _places(words, term)})
    starts = [start for _word, start, _end in words]
    first = 0
    if places:
        first = max(0, starts.index(places[0][0]) - _BEFORE)
    begin = starts[first] if first else 0
    last = first + _WORDS
    end = min(words[last - 1][2] if last < len(words) else len(text), begin + _SNIPPET_CHARACTERS_MAX)
    before, after = "…" if begin else "", "…" if end < len(text) else ""
    shift = len(before) - begin
    inside: list[tuple[int, int]] = []
    for start, stop in places:
        if start >= begin and stop <= end and (not inside or start + shift >= inside[-1][1]):
            inside.append((start + shift, stop + shift))
    return Snippet(before + text[begin:end] + after, tuple(inside))


def _places(words: Sequence[tuple[str, int, int]], term: TextTerm) -> Iterator[tuple[int, int]]:
    count = len(term.words)
    *head, tail = term.words
    for at in range(len(words) - count + 1):
        last = words[at + count - 1]
        is_tail = last[0].startswith(tail) if term.is_prefix else last[0] == tail
        if is_tail and all(words[at + number][0] == word for number, word in enumerate(head)):
            yield words[at][1], last[2]


def _words(text: str) -> Iterator[tuple[str, int, int]]:
    """Iterate over the words of a text as they are compared, with where they are as written."""
    for match in _WORD.finditer(text):
        word = match.group().lower()
        if not word.isascii():
            word = "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))
        yield word, match.start(), match.end()
