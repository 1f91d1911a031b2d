"""What happened in a run, line by line with its virtual time, and what of it ought not to have."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable

__all__ = ["RunLog"]


class RunLog(logging.Handler):
    """
    The log of one run; also takes what the package logs.

    Attributes:
        lines: Everything, in order.
        violations: What must not happen and did.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self.violations: list[str] = []

    def note(self, who: str, what: str) -> None:
        """Add a line."""
        self.lines.append(f"{_now():12.6f} {who:<10} {what}")

    def violate(self, who: str, what: str) -> None:
        """Add a line that says what is wrong; once, however often it is seen."""
        text = f"{who}: {what}"
        if text not in self.violations:
            self.violations.append(text)
            self.note(who, f"VIOLATION {what}")

    def require(self, who: str, what: str | Callable[[], str], *, holds: bool) -> None:
        """Note a violation unless something holds."""
        if not holds:
            self.violate(who, what if isinstance(what, str) else what())

    def emit(self, record: logging.LogRecord) -> None:
        """Take over what the package logs; an error with a traceback is one that nobody thought of."""
        text = record.getMessage().replace("\n", " | ")
        self.note("log", f"{record.levelname.lower()} {record.name.removeprefix('agentlayers.')} {text}")
        if record.levelno >= logging.ERROR and ("Traceback" in text or text.startswith("sync_failed")):
            self.violate("log", text)

    def digest(self) -> str:
        """Return a number for all of it."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    def tail(self, count: int) -> str:
        """Return the last lines, and where the violations are."""
        marked = [line for line in self.lines[:-count] if "VIOLATION" in line]
        return "\n".join([*marked, "...", *self.lines[-count:]])


def _now() -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return 0.0
