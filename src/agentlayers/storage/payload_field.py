"""
Read one field of a payload that a peer may have written.

Payloads of stock peers come in unchecked, so each field is checked on the way into a value type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgpack

from agentlayers.errors import MalformedMessageError, UsageError

__all__ = ["INTEGER_MAX", "PayloadFields", "peek_text", "required_text", "without_nones"]

T = TypeVar("T")

INTEGER_MAX: Final = 2**53 - 1
"""Largest integer a stock peer (JavaScript) holds exactly."""


class PayloadFields:
    """The fields of one payload; what is missing or ill-typed names the event and the field."""

    __slots__ = ("_event", "_fields")

    def __init__(self, event: str, fields: Mapping[str, Any]) -> None:
        self._event, self._fields = event, fields

    def text(self, name: str) -> str:
        """Return a text that must be there."""
        return self._checked(name, self._fields.get(name), str)

    def optional_text(self, name: str) -> str | None:
        """Return a text or :obj:`None`."""
        value = self._fields.get(name)
        return None if value is None else self._checked(name, value, str)

    def integer(self, name: str) -> int:
        """Return a whole number between 0 and :data:`INTEGER_MAX`; a fraction is cut off."""
        value = self._fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= INTEGER_MAX:
            raise self._malformed(name, value, f"a number from 0 to {INTEGER_MAX}")
        return int(value)

    def optional_integer(self, name: str) -> int | None:
        """Return a whole number or :obj:`None`."""
        return None if self._fields.get(name) is None else self.integer(name)

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Return a map that must be there."""
        value: Mapping[str, Any] = self._checked(name, self._fields.get(name), dict)
        return value

    def optional_mapping(self, name: str) -> Mapping[str, Any] | None:
        """Return a map or :obj:`None`."""
        return None if self._fields.get(name) is None else self.mapping(name)

    def _checked(self, name: str, value: Any, kind: type[T]) -> T:
        if not isinstance(value, kind):
            raise self._malformed(name, value, "a text" if kind is str else "a map")
        return value

    def _malformed(self, name: str, value: Any, expected: str) -> MalformedMessageError:
        shown = "is missing" if value is None else f"is {type(value).__name__} {str(value)[:40]!r}"
        return MalformedMessageError(f"{self._event}: field {name!r} {shown}; expected {expected}")


def peek_text(payload: bytes, name: str) -> str:
    """
    Return one text field of an encoded payload without decoding the fields behind it.

    Returns:
        The text; empty if there is none, or if the payload is malformed.

    >>> peek_text(bytes.fromhex("81a173a26162"), "s")
    'ab'

    """
    unpacker = msgpack.Unpacker(max_buffer_size=0)
    unpacker.feed(payload)
    try:
        for _field in range(unpacker.read_map_header()):
            if unpacker.unpack() == name:
                value = unpacker.unpack()
                return value if isinstance(value, str) else ""
            unpacker.skip()
    except (ValueError, msgpack.UnpackException):
        pass
    return ""


def required_text(name: str, value: object) -> str:
    """
    Check a name given by the calling code, such as a session id.

    Raises:
        UsageError: Not a text, empty, or with half a surrogate pair, which no file or peer can
        hold.
    """
    if not isinstance(value, str) or not value:
        raise UsageError(f"{name}: {value!r} cannot be used; expected a text that is not empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{name}: {value!r} cannot be used; expected valid Unicode") from error
    return value


def without_nones(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave optional fields out that are not set; on the wire they are absent, never null."""
    return {name: value for name, value in fields.items() if value is not None}
