"""
Bytes to messages: tolerant of form, strict about content.

Any key order and header form, unknown keys and integral floats are read, as a stock peer does. What
a message holds is checked here once, so that sessions and everything above them can rely on it: ids
of 16 bytes, nonces of 12, numbers from 0 to 2**53, bounded texts and lists. An error names the
message, the field, and for a list the item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from agentlayers.errors import LimitExceededError, MalformedMessageError, VersionMismatchError
from agentlayers.limits import (
    ENTRY_ID_BYTES,
    FETCH_ENTRIES_MAX,
    IV_BYTES,
    NAME_BYTES_MAX,
    PUBLIC_KEY_BYTES_MAX,
    TOKEN_BYTES_MAX,
)
from agentlayers.protocol.fields import Fields, read_fields
from agentlayers.protocol.messages import (
    EXTENSION_VERSION,
    Ack,
    Authenticate,
    Changes,
    ChunkedMessage,
    Credit,
    EncryptedEntry,
    Extensions,
    FetchedEntries,
    FetchEntries,
    HeadDigest,
    Hello,
    Message,
    Ping,
    Pong,
    Rejected,
    RemoteEncryptedEntry,
    RequestChanges,
    StopChanges,
    WriteEntries,
    WriteWindow,
)
from agentlayers.protocol.sequence_digest import DIGEST_BYTES
from agentlayers.protocol.wire_form import INTEGER_MAX

__all__ = ["decode_message"]

_IDS_BYTES: Final = 16
_new_entry: Final = tuple.__new__


def decode_message(data: bytes) -> Message:
    """
    Read the message that ``data`` is, from the first byte to the last.

    Raises:
        MalformedMessageError: No single MessagePack map, an unknown ``_tag``, or a field that is
            missing or ill-typed.
        LimitExceededError: More fields, entries or capabilities than :mod:`agentlayers.limits`
            allows.
        VersionMismatchError: A Hello whose extension fields are of a version this release cannot
            speak.
    """
    fields = read_fields(data)
    decoder = _DECODERS.get(fields.tag)
    if decoder is None:
        raise MalformedMessageError(f"_tag: unknown message {fields.tag[:40]!r}; known are {', '.join(_DECODERS)}")
    return decoder(fields)


def _hello(fields: Fields) -> Hello:
    remote_id = fields.data("remoteId", size=_IDS_BYTES)
    extensions = fields.nested("agentlayers")
    return Hello(remote_id, None if extensions is None else _extensions(extensions))


def _extensions(fields: Fields) -> Extensions:
    version = fields.number("version")
    if version != EXTENSION_VERSION:
        raise VersionMismatchError(f"{fields.tag}.version: {version}; this release speaks {EXTENSION_VERSION}")
    capabilities = fields.listed("capabilities")
    for name in capabilities:
        if type(name) is not str or len(name.encode()) > NAME_BYTES_MAX:
            raise fields.wrong("capabilities", f"names of at most {NAME_BYTES_MAX} bytes", name)
    return Extensions(
        version=version,
        capabilities=frozenset(capabilities),
        incarnation=fields.data("incarnation", size=_IDS_BYTES),
        tenant=fields.text("tenant", bytes_max=NAME_BYTES_MAX),
        write_window=_write_window(fields),
    )


def _write_window(fields: Fields) -> WriteWindow | None:
    window = fields.optional_list("writeWindow")
    if window is None:
        return None
    messages, ciphertext_bytes = (fields.integer("writeWindow", number) for number in window)
    if not messages or not ciphertext_bytes:
        raise MalformedMessageError(f"{fields.tag}.writeWindow: nothing could ever be written")
    return WriteWindow(messages, ciphertext_bytes)


def _authenticate(fields: Fields) -> Authenticate:
    return Authenticate(
        tenant=fields.text("tenant", bytes_max=NAME_BYTES_MAX),
        token=fields.text("token", bytes_max=TOKEN_BYTES_MAX),
    )


def _rejected(fields: Fields) -> Rejected:
    return Rejected(fields.text("code", bytes_max=NAME_BYTES_MAX))


def _public_key(fields: Fields) -> str:
    return fields.text("publicKey", bytes_min=1, bytes_max=PUBLIC_KEY_BYTES_MAX)


def _request_changes(fields: Fields) -> RequestChanges:
    return RequestChanges(_public_key(fields), fields.number("startSequence"), fields.optional_number("credit"))


def _credit(fields: Fields) -> Credit:
    amount = fields.number("amount")
    if not amount:
        raise MalformedMessageError("Credit.amount: 0 grants nothing; expected at least 1")
    return Credit(_public_key(fields), amount)


def _stop_changes(fields: Fields) -> StopChanges:
    return StopChanges(_public_key(fields))


def _write_entries(fields: Fields) -> WriteEntries:
    public_key, message_id = _public_key(fields), fields.number("id")
    iv = fields.data("iv", size=IV_BYTES)
    raw = fields.listed("encryptedEntries")
    if not raw:
        return WriteEntries(public_key, message_id, (), iv)
    # What the entries hold is checked a column at a time, which is three times as fast as one by
    # one; only when something is wrong are they looked at singly, to say where.
    if set(map(type, raw)) == {RemoteEncryptedEntry}:
        _, ivs, ids, ciphertexts = zip(*raw, strict=True)
        if None in ivs:
            ivs = tuple(iv if own is None else own for own in ivs)
        if _all_bytes(ids, ENTRY_ID_BYTES) and _all_bytes(ivs, IV_BYTES) and set(map(type, ciphertexts)) == {bytes}:
            return WriteEntries(public_key, message_id, tuple(map(EncryptedEntry, ids, ivs, ciphertexts)), iv)
    raise _explain(fields, "encryptedEntries", raw, has_sequence=False)


def _ack(fields: Fields) -> Ack:
    numbers = fields.listed("sequenceNumbers")
    if not _all_sequences(numbers):
        numbers = [_sequence(fields, "sequenceNumbers", number) for number in numbers]
    return Ack(fields.number("id"), tuple(numbers), fields.optional_number("through"))


def _changes(fields: Fields) -> Changes:
    return Changes(_public_key(fields), _remote_entries(fields), fields.optional_number("through"))


def _remote_entries(fields: Fields) -> tuple[RemoteEncryptedEntry, ...]:
    raw = fields.listed("entries")
    if not raw:
        return ()
    if set(map(type, raw)) == {RemoteEncryptedEntry}:
        sequences, ivs, ids, ciphertexts = zip(*raw, strict=True)
        if not _all_sequences(sequences):
            sequences = tuple(_sequence(fields, "entries.sequence", sequence) for sequence in sequences)
            raw = list(map(RemoteEncryptedEntry, sequences, ivs, ids, ciphertexts))
        if _all_bytes(ids, ENTRY_ID_BYTES) and _all_bytes(ivs, IV_BYTES) and set(map(type, ciphertexts)) == {bytes}:
            return tuple(raw)
    raise _explain(fields, "entries", raw, has_sequence=True)


def _fetch_entries(fields: Fields) -> FetchEntries:
    ids = fields.listed("entryIds")
    if not 1 <= len(ids) <= FETCH_ENTRIES_MAX:
        raise LimitExceededError(limit="FETCH_ENTRIES_MAX", allowed=FETCH_ENTRIES_MAX, declared=len(ids))
    if not _all_bytes(ids, ENTRY_ID_BYTES):
        raise fields.wrong("entryIds", f"ids of {ENTRY_ID_BYTES} bytes", ids[0])
    return FetchEntries(fields.number("id"), _public_key(fields), tuple(ids))


def _fetched_entries(fields: Fields) -> FetchedEntries:
    answered = fields.number("answered")
    entries = _remote_entries(fields)
    if not len(entries) <= answered or not answered:
        raise MalformedMessageError(f"FetchedEntries.answered: {answered}, with {len(entries)} entries")
    return FetchedEntries(fields.number("id"), entries, answered)


def _ping(fields: Fields) -> Ping:
    cursors = fields.pairs("cursors")
    if cursors is None:
        return Ping(fields.number("id"))
    return Ping(
        fields.number("id"),
        {_key_of(fields, "cursors", key): fields.integer("cursors", cursor) for key, cursor in cursors},
    )


def _pong(fields: Fields) -> Pong:
    digests = fields.pairs("digests")
    if digests is None:
        return Pong(fields.number("id"))
    return Pong(
        fields.number("id"),
        {_key_of(fields, "digests", key): _head_digest(fields, value) for key, value in digests},
    )


def _head_digest(fields: Fields, value: Any) -> HeadDigest:
    if type(value) is not list or not value:
        raise fields.wrong("digests", "[head] or [head, digest]", value)
    head, *digest = value
    if digest and not _all_bytes(digest, DIGEST_BYTES):
        raise fields.wrong("digests", f"a digest of {DIGEST_BYTES} bytes", digest[0])
    return HeadDigest(fields.integer("digests", head), *digest)


def _key_of(fields: Fields, name: str, key: Any) -> str:
    if type(key) is not str or not 1 <= len(key.encode("utf-8", "surrogatepass")) <= PUBLIC_KEY_BYTES_MAX:
        raise fields.wrong(name, f"public keys of 1 to {PUBLIC_KEY_BYTES_MAX} bytes", key)
    return key


def _chunked_message(fields: Fields) -> ChunkedMessage:
    part = fields.listed("part")
    if len(part) != 2:
        raise MalformedMessageError(f"ChunkedMessage.part: expected [index, total], got {len(part)} items")
    index, total = (fields.integer("part", number) for number in part)
    return ChunkedMessage(fields.number("id"), index, total, fields.data("data"))


def _all_bytes(values: Sequence[Any], size: int) -> bool:
    return set(map(type, values)) == {bytes} and set(map(len, values)) == {size}


def _all_sequences(values: Sequence[Any]) -> bool:
    return not values or (set(map(type, values)) == {int} and min(values) >= 0 and max(values) < INTEGER_MAX)


def _sequence(fields: Fields, name: str, value: Any) -> int:
    """Check one entry's number; a cursor has to be able to stand behind it, and to be sent."""
    number = fields.integer(name, value)
    if number == INTEGER_MAX:
        raise MalformedMessageError(f"{fields.tag}.{name}: {number} leaves no number for a cursor behind it")
    return number


def _explain(fields: Fields, name: str, raw: Sequence[Any], *, has_sequence: bool) -> MalformedMessageError:
    """Find the first entry that is wrong."""
    for index, entry in enumerate(raw):
        place = f"{name}[{index}]"
        if type(entry) is not RemoteEncryptedEntry:
            return fields.wrong(place, "a map", entry)
        sequence, iv, entry_id, ciphertext = entry
        if has_sequence and type(sequence) not in (int, float):
            return fields.wrong(f"{place}.sequence", "an integer", sequence)
        if type(entry_id) is not bytes or len(entry_id) != ENTRY_ID_BYTES:
            return fields.wrong(f"{place}.entryId", f"{ENTRY_ID_BYTES} bytes", entry_id)
        if (has_sequence or iv is not None) and (type(iv) is not bytes or len(iv) != IV_BYTES):
            return fields.wrong(f"{place}.iv", f"{IV_BYTES} bytes", iv)
        if type(ciphertext) is not bytes:
            return fields.wrong(f"{place}.encryptedEntry", "bytes", ciphertext)
    return MalformedMessageError(f"{fields.tag}.{name}: cannot be read")


_DECODERS: Final[dict[str, Callable[[Fields], Message]]] = {
    "Hello": _hello,
    "Authenticate": _authenticate,
    "Rejected": _rejected,
    "RequestChanges": _request_changes,
    "Credit": _credit,
    "StopChanges": _stop_changes,
    "WriteEntries": _write_entries,
    "Ack": _ack,
    "Changes": _changes,
    "FetchEntries": _fetch_entries,
    "FetchedEntries": _fetched_entries,
    "Ping": _ping,
    "Pong": _pong,
    "ChunkedMessage": _chunked_message,
}
