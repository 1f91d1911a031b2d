"""
One file for each key; a file is only ever replaced whole.

A single change is one rename. A batch writes its files aside, then an intent that says what goes where (from
here on the batch will happen, whatever crashes), then moves the files while no reader looks. Whoever finds an
intent without a writer finishes it first. The writer lock makes one process at a time do any of this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agentlayers.durable_names import sync_directory
from agentlayers.errors import StorageCorruptionError
from agentlayers.file_mark import file_mark
from agentlayers.key_value.expectation import NOTHING_EXPECTED, Expectation, check_expected
from agentlayers.key_value.file_lock import locked
from agentlayers.key_value.file_name import IS_NAME, key_of, prefix_of
from agentlayers.key_value.file_operation import (
    BACKEND,
    make_directory,
    translated,
    write_file,
)
from agentlayers.key_value.filesystem_layout import Layout
from agentlayers.key_value.intent import Intent
from agentlayers.key_value.key_range import KeyRange
from agentlayers.key_value.key_value_store import Changes, Pair
from agentlayers.key_value.value_file import HEADER_BYTES, decode_key, decode_value, encode_value
from agentlayers.limits import KEY_VALUE_KEY_BYTES_MAX, KEY_VALUE_PAGE_BYTES_MAX, KEY_VALUE_PAGE_ENTRIES_MAX

__all__ = ["FileSystemMedium"]

_FRESH_INTENT: Final = "intent"
"""Name in ``temporary`` of an intent that is not complete yet."""


class FileSystemMedium:
    """
    The directory, from one writing and several reading threads.

    Args:
        root: The store's directory.
    """

    # Each change syncs its own file, so there is nothing that several could share.
    shares_commits = False

    def __init__(self, root: Path) -> None:
        self._layout = Layout(root)
        self._shards: set[str] = set()

    # -- opening ---------------------------------------------------------------------------------------
    def open(self) -> None:
        """Make the directory, finish the batch a crash interrupted, and sweep up what is half written."""
        layout = self._layout
        with translated("open", layout.root):
            layout.create()
            with locked(layout.writer_lock, exclusive=True):
                layout.claim()
                self._finish_intent()
                for path in layout.temporary.iterdir():
                    path.unlink()

    def close(self) -> None:
        """Forget which directories are there: another process may tidy up now."""
        self._shards.clear()

    def home(self) -> str:
        """Say what a copy does not share with the directory of the values, which is made once and never replaced."""
        with translated("open", self._layout.root):
            return file_mark(self._layout.values)

    # -- writing ---------------------------------------------------------------------------------------
    def write(self, changes: Changes, expected: Expectation = NOTHING_EXPECTED) -> None:
        """Replace one file, or several at once."""
        layout = self._layout
        with translated("write", layout.root), locked(layout.writer_lock, exclusive=True):
            self._finish_intent()
            check_expected(expected, self._value, backend=BACKEND, path=layout.root)
            if not changes:
                return
            intent = Intent()
            try:
                self._stage(changes, intent)
                if len(changes) > 1:
                    self._announce(intent)
            except BaseException:
                self._unstage(intent)
                raise
            if len(changes) > 1:
                self._apply(layout.ready, intent)
            else:
                self._apply_single(intent)

    def _stage(self, changes: Changes, intent: Intent) -> None:
        for number, (key, value) in enumerate(changes.items()):
            target = self._layout.target(key)
            if value is None:
                intent.deletions.append(target)
                continue
            # Noted first, so that a file written in part is cleared away too.
            intent.moves.append((str(number), target))
            write_file(self._layout.temporary / str(number), encode_value(key, value))
            self._make_shard(target.split("/")[0])

    def _unstage(self, intent: Intent) -> None:
        if self._layout.ready.exists():
            # It is announced, and perhaps durably so: it will happen.
            return
        for name, _ in intent.moves:
            with contextlib.suppress(OSError):
                (self._layout.temporary / name).unlink()

    def _make_shard(self, shard: str) -> None:
        if shard not in self._shards:
            make_directory(self._layout.values / shard)
            self._shards.add(shard)

    def _announce(self, intent: Intent) -> None:
        """Write the intent down: the point from which the batch will happen."""
        fresh = self._layout.temporary / _FRESH_INTENT
        write_file(fresh, intent.encode())
        sync_directory(self._layout.temporary)
        fresh.rename(self._layout.ready)
        sync_directory(self._layout.intents)

    def _apply_single(self, intent: Intent) -> None:
        for name, target in intent.moves:
            (self._layout.temporary / name).rename(self._layout.values / target)
        for target in intent.deletions:
            try:
                (self._layout.values / target).unlink()
            except FileNotFoundError:
                return
        for shard in intent.shards:
            sync_directory(self._layout.values / shard)

    def _apply(self, state: Path, intent: Intent) -> None:
        """Do what the intent says while no reader looks; also again, however far it came before."""
        layout = self._layout
        with locked(layout.turn_lock, exclusive=True), locked(layout.reader_lock, exclusive=True):
            state.rename(layout.applying)
            for name, target in intent.moves:
                self._move(layout.temporary / name, layout.values / target)
            for target in intent.deletions:
                (layout.values / target).unlink(missing_ok=True)
            layout.applying.rename(layout.applied)
        for shard in intent.shards:
            with contextlib.suppress(FileNotFoundError):
                sync_directory(layout.values / shard)
        # Durably gone before anything else is written: done again later, it would undo what came after it.
        layout.applied.unlink()
        sync_directory(layout.intents)

    def _move(self, source: Path, target: Path) -> None:
        try:
            source.rename(target)
        except FileNotFoundError:
            if not target.exists():
                raise self._damaged(source, "a file of an interrupted batch is gone") from None

    def _finish_intent(self) -> None:
        """Finish the batch of a writer that is gone; the writer lock is held."""
        for state in self._layout.intents.iterdir():
            try:
                intent = Intent.decode(state.read_bytes())
            except (ValueError, KeyError, TypeError) as error:
                raise self._damaged(state, str(error)) from error
            self._apply(state, intent)

    # -- reading ---------------------------------------------------------------------------------------
    def read(self, key: bytes) -> bytes | None:
        """Return one value."""
        with translated("read", self._layout.root):
            # A batch is seen as soon as its first file is, so a single read waits only while one is applied.
            if self._layout.applying.exists():
                with self._look():
                    return self._value(key)
            return self._value(key)

    def pages(self, key_range: KeyRange, limit: int | None) -> Iterator[list[Pair]]:
        """Yield pages of what was there when the first was read, without what is deleted meanwhile."""
        keys: list[bytes] | None = None
        while limit is None or limit > 0:
            count = KEY_VALUE_PAGE_ENTRIES_MAX if limit is None else min(limit, KEY_VALUE_PAGE_ENTRIES_MAX)
            with translated("scan", self._layout.root), self._look():
                if keys is None:
                    # The next key is the last of the list, so that taking it is cheap.
                    keys = sorted(self._keys(key_range), reverse=not key_range.reverse)
                page = self._page(keys, count)
            if not page:
                return
            limit = None if limit is None else limit - len(page)
            yield page

    @contextlib.contextmanager
    def _look(self) -> Iterator[None]:
        """Keep batches out for the block; finishes the one of a writer that died while it applied it."""
        layout = self._layout
        while True:
            with contextlib.ExitStack() as stack:
                with locked(layout.turn_lock, exclusive=False):
                    stack.enter_context(locked(layout.reader_lock, exclusive=False))
                if not layout.applying.exists():
                    yield
                    return
            with locked(layout.writer_lock, exclusive=True):
                self._finish_intent()

    def _page(self, keys: list[bytes], count: int) -> list[Pair]:
        page: list[Pair] = []
        size = 0
        while keys and len(page) < count:
            path = self._layout.values / self._layout.target(keys[-1])
            with contextlib.suppress(FileNotFoundError):
                size += path.stat().st_size
            if page and size > KEY_VALUE_PAGE_BYTES_MAX:
                break
            key = keys.pop()
            value = self._value(key)
            if value is not None:
                page.append((key, value))
        return page

    def _keys(self, key_range: KeyRange) -> Iterator[bytes]:
        for shard in self._layout.values.iterdir():
            try:
                names = [path.name for path in shard.iterdir()]
            except NotADirectoryError:
                continue
            for name in filter(IS_NAME, names):
                key = key_of(name)
                if key is None:
                    key = self._long_key(shard / name, key_range)
                if key is not None and key in key_range:
                    yield key

    def _long_key(self, path: Path, key_range: KeyRange) -> bytes | None:
        first = prefix_of(path.name)
        if first < key_range.start[: len(first)] or (key_range.end is not None and first > key_range.end):
            return None
        try:
            with path.open("rb") as file:
                return decode_key(file.read(HEADER_BYTES + KEY_VALUE_KEY_BYTES_MAX))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise self._damaged(path, str(error)) from error

    def _value(self, key: bytes) -> bytes | None:
        path = self._layout.values / self._layout.target(key)
        try:
            found, value = decode_value(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise self._damaged(path, str(error)) from error
        if found != key:
            raise self._damaged(path, "it holds another key than its name says")
        return value

    def _damaged(self, path: Path, fault: str) -> StorageCorruptionError:
        reason = f"{fault}. Nothing was changed: restore the file from a backup, or move it aside to lose its key"
        return StorageCorruptionError(backend=BACKEND, operation="read", reason=reason, path=path)
