"""
What a batch is about to do to the files: written before it is done, done again after a crash.

An intent moves complete files from ``temporary/`` into place and deletes others, so doing it twice changes
nothing. It is JSON with a digest, put in place by one rename: there is a whole one or none.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, Self

__all__ = ["Intent"]

_VERSION: Final = 1
_IS_TEMPORARY: Final = re.compile(r"[0-9]{1,9}").fullmatch
_IS_TARGET: Final = re.compile(r"[0-9a-f]{2}/[kl][0-9a-f-]{0,241}").fullmatch


@dataclass(frozen=True, slots=True)
class Intent:
    """
    The moves and deletions of one batch.

    Attributes:
        moves: Name in ``temporary/`` and path below ``values/``.
        deletions: Paths below ``values/``.
    """

    moves: list[tuple[str, str]] = field(default_factory=list)
    deletions: list[str] = field(default_factory=list)

    @property
    def shards(self) -> set[str]:
        """The directories below ``values/`` whose names change."""
        return {path.split("/")[0] for path in (*self.deletions, *(target for _, target in self.moves))}

    def encode(self) -> bytes:
        """Return the content of the intent's file."""
        body = json.dumps({"version": _VERSION, "moves": self.moves, "deletions": self.deletions})
        return f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}\n".encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """
        Read an intent.

        Raises:
            ValueError: This is none, or one of a version that is not known.
        """
        digest, _, rest = data.partition(b"\n")
        body = rest.rstrip(b"\n")
        if digest.decode("ascii", "replace") != hashlib.sha256(body).hexdigest():
            raise ValueError("its digest does not fit its content")
        fields: Any = json.loads(body)
        if fields["version"] != _VERSION:
            raise ValueError(f"its version is {fields['version']}, this release knows {_VERSION}")
        intent = cls([(name, target) for name, target in fields["moves"]], list(fields["deletions"]))
        if not all(_IS_TEMPORARY(name) and _IS_TARGET(target) for name, target in intent.moves):
            raise ValueError("it moves something that is no file of the store")
        if not all(map(_IS_TARGET, intent.deletions)):
            raise ValueError("it deletes something that is no file of the store")
        return intent
