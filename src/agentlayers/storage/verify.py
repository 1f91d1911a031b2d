"""
Tell whether a replica's files are whole: the medium, the entries, and what was made of them.

Nothing is changed. Read models are compared with a replay of all entries, so a fault of a projection shows as well as
damage of the file.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from agentlayers.errors import IdentityError, MalformedMessageError, StorageCorruptionError
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.conflict_policy import ConflictPolicy
from agentlayers.journal.entry_id import entry_id_millis
from agentlayers.journal.sqlite.entry_row import COLUMNS, entry_checksum
from agentlayers.limits import CLOCK_DRIFT_SECONDS_MAX, ENTRY_ID_BYTES, PAYLOAD_BYTES_MAX
from agentlayers.protocol.payload import decode_payload
from agentlayers.storage.digest import Digest, digest_of_sorted
from agentlayers.storage.event_groups import UNSYNCED_EVENTS
from agentlayers.storage.journal_file import journal_files
from agentlayers.storage.replay import (
    KeyDifference,
    Replay,
    TextDifference,
    ValueDifference,
    read_model_digest,
    replayed,
)
from agentlayers.storage.replica_store import FurtherStore
from agentlayers.storage.snapshot import JournalSnapshot, open_snapshot

__all__ = ["Finding", "Severity", "VerifiedFile", "VerifyReport", "verify"]

Progress = Callable[[int], None]

_SHOWN_MAX: Final = 10
"""Findings of one kind that are told one by one; the rest are counted."""

_SQLITE_FAULTS_MAX: Final = 10


class Severity(StrEnum):
    """How bad a finding is."""

    FAULT = "fault"
    """Something is not as it must be."""
    NOTE = "note"
    """Something worth knowing that can be so by design."""


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing that was found.

    Attributes:
        severity: A fault or a note.
        file: Name of the file it is in.
        check: What was checked, such as ``read_model``.
        text: What is wrong, and where.
    """

    severity: Severity
    file: str
    check: str
    text: str


@dataclass(slots=True)
class VerifiedFile:
    """
    One file of the replica.

    Attributes:
        path: The file.
        entries: Entries it holds.
        read_models: Digest of its read models.
        skipped: Stores whose events are not known here; only their entries and heads were checked.
    """

    path: Path
    entries: int = 0
    read_models: str = ""
    skipped: tuple[str, ...] = ()


@dataclass(slots=True)
class VerifyReport:
    """
    What was found in all files.

    Attributes:
        files: What each file holds.
        digest: Of what is synced; equal on replicas that hold the same.
        findings: In the order found.
    """

    files: list[VerifiedFile] = field(default_factory=list)
    digest: Digest = field(default_factory=lambda: Digest(0, ""))
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether there is no fault."""
        return not any(finding.severity is Severity.FAULT for finding in self.findings)


def verify(
    directory: Path,
    *,
    policy: ConflictPolicy | None = None,
    progress: Progress | None = None,
    now_ms: int,
    further: Sequence[FurtherStore] = (),
) -> VerifyReport:
    """
    Check every file of a replica.

    Args:
        directory: The replica's directory, or one journal file.
        policy: The one its application shows artifacts by; last write wins if not given.
        progress: Called with the number of entries checked since the last call.
        now_ms: The clock, Unix milliseconds.
        further: Stores that whoever asks knows beside those of this room. Of any other the entries and heads are
            checked, but not what its application made of them.

    Raises:
        StorageUnavailableError: There is no journal, or it cannot be read.
        MigrationError: A newer release wrote a file.
    """
    report = VerifyReport()
    paths = journal_files(directory)
    _check_identity(report, directory)
    whole: list[Path] = []
    for path in paths:
        try:
            with open_snapshot(path, policy=policy, further=further) as snapshot:
                if _File(report, snapshot, now_ms).check(progress):
                    whole.append(path)
        except StorageCorruptionError as error:
            report.findings.append(Finding(Severity.FAULT, path.name, "file", error.reason))
    if len(whole) == len(paths):
        report.digest = _digest(whole)
    return report


def _check_identity(report: VerifyReport, directory: Path) -> None:
    path = directory / "identity"
    if not path.is_file():
        return
    try:
        Identity.load(path)
    except IdentityError as error:
        report.findings.append(Finding(Severity.FAULT, path.name, "identity", str(error)))
    if path.stat().st_mode & 0o077:
        text = f"others can read the secret of this replica; chmod 600 {path}"
        report.findings.append(Finding(Severity.NOTE, path.name, "identity", text))


def _digest(paths: list[Path]) -> Digest:
    with ExitStack() as stack:
        snapshots = [stack.enter_context(open_snapshot(path)) for path in paths]
        return digest_of_sorted(heapq.merge(*map(_synced_by_id, snapshots)))


def _synced_by_id(snapshot: JournalSnapshot) -> Iterator[tuple[bytes, bytes]]:
    # What is written here and not to be sent is an observation, also in a store that an application declares.
    query = "SELECT id, event, payload FROM entry WHERE outbound OR origin != 0 ORDER BY id"
    for entry_id, event, payload in snapshot.connection.execute(query):
        if event not in UNSYNCED_EVENTS:
            yield entry_id, payload


class _File:
    """The checks of one file."""

    def __init__(self, report: VerifyReport, snapshot: JournalSnapshot, now_ms: int) -> None:
        self.report, self.snapshot, self.now_ms = report, snapshot, now_ms
        self.counts: dict[str, int] = {}

    def check(self, progress: Progress | None) -> bool:
        """Run all checks and tell whether the file could be read; what damage makes impossible raises."""
        snapshot, known, unknown = self.snapshot, self.snapshot.known_stores, self.snapshot.unknown_stores
        verified = VerifiedFile(snapshot.path, skipped=unknown)
        self.report.files.append(verified)
        if not self._check_medium():
            return False
        is_undamaged = self._check_entries()
        self._check_bookkeeping()
        if not is_undamaged:
            # What the read models have to be cannot be told.
            self._tell_rest()
            return False
        with replayed(snapshot, progress) as replay:
            verified.entries = replay.entries
            self._check_replay(replay)
        verified.read_models = read_model_digest(snapshot.tx, known)
        for name in unknown:
            text = f"store {name} is its application's; its entries and heads were checked, not what was made of them"
            self._tell(Severity.NOTE, "unknown_store", text)
        self._tell_rest()
        return True

    def _tell(self, severity: Severity, check: str, text: str) -> None:
        count = self.counts[check] = self.counts.get(check, 0) + 1
        if count <= _SHOWN_MAX:
            self.report.findings.append(Finding(severity, self.snapshot.path.name, check, text))

    def _fault(self, check: str, text: str) -> None:
        self._tell(Severity.FAULT, check, text)

    def _tell_rest(self) -> None:
        for check, count in self.counts.items():
            if count > _SHOWN_MAX:
                text = f"... and {count - _SHOWN_MAX} more"
                self.report.findings.append(Finding(Severity.NOTE, self.snapshot.path.name, check, text))

    def _check_medium(self) -> bool:
        found = self.snapshot.connection.execute(f"PRAGMA integrity_check({_SQLITE_FAULTS_MAX})").fetchall()
        texts = [str(text) for (text,) in found if text != "ok"]
        for text in texts:
            self._fault("file", f"SQLite: {text}")
        return not texts

    def _check_entries(self) -> bool:
        damaged, ahead = 0, self.now_ms + int(CLOCK_DRIFT_SECONDS_MAX * 1000)
        rows = self.snapshot.connection.execute(f"SELECT {COLUMNS} FROM entry ORDER BY position")
        remotes = {number for (number,) in self.snapshot.connection.execute("SELECT number FROM remote")}
        for position, store, entry_id, event, primary_key, payload, outbound, origin, _, _, checksum in rows:
            where = f"entry {entry_id.hex()} at position {position}"
            if len(entry_id) != ENTRY_ID_BYTES:
                self._fault("entry", f"{where}: an id of {len(entry_id)} bytes")
            elif checksum not in (None, entry_checksum(entry_id, event, primary_key, payload)):
                self._fault("entry", f"{where}: it is not what was written; restore the file from a backup")
                damaged += 1
                continue
            elif entry_id_millis(entry_id) > ahead:
                self._tell(Severity.NOTE, "clock", f"{where}: its time lies ahead of this machine's clock")
            if store not in self.snapshot.store_names:
                self._fault("entry", f"{where}: of a store without a name")
            if outbound and (origin != 0 or event in UNSYNCED_EVENTS):
                self._fault("entry", f"{where}: noted to be sent, though it is not this replica's to send")
            if origin != 0 and origin not in remotes:
                self._fault("entry", f"{where}: received from a remote that is not noted")
            self._check_payload(where, payload)
        return not damaged

    def _check_payload(self, where: str, payload: bytes) -> None:
        if len(payload) > PAYLOAD_BYTES_MAX:
            self._fault("payload", f"{where}: a payload of {len(payload)} bytes, at most {PAYLOAD_BYTES_MAX} are kept")
        try:
            decode_payload(payload)
        except MalformedMessageError as error:
            self._fault("payload", f"{where}: {error}")

    def _check_bookkeeping(self) -> None:
        back = self.snapshot.connection.execute(
            "SELECT hex(entry.id) FROM entry JOIN horizon ON horizon.store = entry.store AND horizon.id = entry.id"
        )
        for (entry_id,) in back:
            self._fault("horizon", f"entry {entry_id.lower()} is held, though it was compacted")
        last = self.snapshot.connection.execute("SELECT max(position) FROM entry").fetchone()[0] or 0
        floor = int.from_bytes(self.snapshot.tx.get_setting("position_floor") or b"")
        for number, store in self.snapshot.store_names.items():
            for remote in self.snapshot.tx.list_remotes(number):
                if max(remote.watermark, remote.relay_watermark, remote.lost_up_to) > max(last, floor):
                    self._fault(
                        "remote", f"remote {remote.remote_id.hex()} is noted to have entries that were never here"
                    )
            self._check_unapplied(store)
            quarantined = len(self.snapshot.tx.quarantined(store))
            not_kept = self.snapshot.tx.count_not_kept(store)
            if quarantined or not_kept:
                more = f", {not_kept} not kept" if not_kept else ""
                self._tell(Severity.NOTE, "quarantine", f"{store}: {quarantined} kept aside{more}; see 'journal stats'")

    def _check_unapplied(self, store: str) -> None:
        number, waiting = self.snapshot.tx.store_number(store), 0
        found = self.snapshot.connection.execute(
            "SELECT entry.id, error, attempts FROM unapplied JOIN entry ON entry.position = unapplied.position "
            "WHERE unapplied.store = ? ORDER BY entry.position",
            (number,),
        )
        for entry_id, error, attempts in found:
            where = f"entry {entry_id.hex()} of {store}"
            if attempts > 0:
                self._fault("unapplied", f"{where} is not in its read model: {error}")
            elif store in self.snapshot.unknown_stores:
                waiting += 1
            else:
                text = f"{where} is kept, but not understood until a release knows its event: {error}"
                self._tell(Severity.NOTE, "not_understood", text)
        if waiting:  # perhaps all there are: imported, and the application has not been opened since
            text = f"{store}: {waiting} entries are kept until an application that knows their events opens the store"
            self._tell(Severity.NOTE, "not_understood", text)

    def _check_replay(self, replay: Replay) -> None:
        for row, reason in replay.unreadable:
            self._fault("entry", f"entry {row.id.hex()} at position {row.position}: {reason}")
        for difference in replay.differences():
            if isinstance(difference, ValueDifference):
                self._fault("read_model", _difference_text(difference))
            elif isinstance(difference, TextDifference):
                self._fault("text_index", _text_difference_text(difference))
            else:
                self._fault("heads", _heads_text(difference))
        for store in self.snapshot.unknown_stores:
            for one in replay.head_differences(store):
                self._fault("heads", f"{_heads_text(one)}; its application repairs it with the store's rebuild()")
        for gap in replay.index_gaps():
            text = f"session {gap.expected.session_id!r} of {gap.store} is not listed, or with another time"
            self._tell(Severity.NOTE, "session_index", text)


def _heads_text(difference: KeyDifference) -> str:
    return f"{difference.store}: key {difference.primary_key!r} has other heads than its versions give"


def _difference_text(difference: ValueDifference) -> str:
    if difference.found is None:
        what = "is missing"
    elif difference.expected is None:
        what = "belongs to no entry"
    else:
        what = "differs from what the entries give"
    key = difference.key[len(difference.store) + 1 :]
    return f"{difference.store}: row {_printable(key)} {what}; 'journal rebuild' repairs it"


def _text_difference_text(difference: TextDifference) -> str:
    if difference.found is None:
        what = "is not found by its text"
    elif difference.expected is None:
        what = "is found by a text, though it is not to be found"
    else:
        what = "is found by another text than it has"
    return f"{difference.store}: entry {difference.entry_id.hex()} {what}; 'journal rebuild' repairs it"


def _printable(key: bytes) -> str:
    return repr(key)[2:-1] if len(key) <= 100 else f"{repr(key[:100])[2:-1]}..."
