"""
Texts of one SQLite transaction: most in an index of FTS5, the newest few beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from agentlayers.journal.sqlite.remote_tables import RemoteTables
from agentlayers.journal.text_search import TextHit, TextOrder, TextTerm, places_of, precedence, share_rank

__all__ = ["TextTables"]

_BACKLOG: Final = "text_backlog"
_FOUND: Final = (
    "FROM text_index JOIN entry ON entry.position = text_index.rowid WHERE text_index MATCH ? AND text_index.store = ?"
)


class TextTables(RemoteTables):
    """The text index; texts are kept in Python until the commit, as values of read models are."""

    def put_text(self, store: int, entry_id: bytes, scope: str, text: str | None) -> None:
        """Keep the text an entry is found by."""
        kept = self._rows_by_id.get((store, entry_id))
        if kept is not None:
            position = kept.position
        else:
            # Asked of this database: a replay, whose entries are in another, keeps no texts.
            found = self.sql.one("SELECT position FROM entry WHERE id = ? AND store = ?", (entry_id, store))
            if found is None:
                return
            position = found[0]
        self._set(self._texts, position, None if text is None else (text, store, scope))

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
        conditions, values = [_FOUND], list[Any]([_match(terms), store])
        if scope is not None:
            conditions.append("AND text_index.scope = ?")
            values.append(scope)
        if after is not None and is_ranked:
            conditions.append("AND (rank > ? OR (rank = ? AND text_index.rowid < ?))")
            values += [after.rank, after.rank, after.position]
        elif after is not None:
            conditions.append("AND text_index.rowid < ?")
            values.append(after.position)
        rank, direction = ("rank", "rank, text_index.rowid DESC") if is_ranked else ("0.0", "text_index.rowid DESC")
        query = f"SELECT entry.id, text_index.rowid, {rank} {' '.join(conditions)} ORDER BY {direction} LIMIT ?"
        found = [TextHit._make(row) for row in self.sql.all(query, (*values, rows_max))]
        found += self._waiting(store, terms, scope, after, is_ranked=is_ranked)
        return sorted(found, key=precedence)[:rows_max]

    def _waiting(
        self, store: int, terms: Sequence[TextTerm], scope: str | None, after: TextHit | None, *, is_ranked: bool
    ) -> list[TextHit]:
        hits = []
        query = "SELECT id, position, text, scope FROM text_waiting JOIN entry USING (position) WHERE entry.store = ?"
        for entry_id, position, text, its_scope in self.sql.all(query, (store,)):
            places = places_of(text, terms) if scope in (None, its_scope) else None
            if places is not None:
                hits.append(TextHit(entry_id, position, share_rank(text, places) if is_ranked else 0.0))
        return [hit for hit in hits if after is None or precedence(hit) > precedence(after)]

    def text_backlog(self) -> int:
        """Return up to which position entries are older than the text index."""
        return int(self.get_setting(_BACKLOG) or b"0")


def _match(terms: Sequence[TextTerm]) -> str:
    """Return the query in FTS5's language; words are letters and digits only, so nothing in them has a meaning."""
    return " AND ".join(f'"{" ".join(term.words)}"{" *" if term.is_prefix else ""}' for term in terms)
