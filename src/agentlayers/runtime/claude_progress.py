"""
Follow what the ``claude`` command is at, from the messages it sends.

Pure: fed with wire objects, it knows when a turn runs and when the command owes nothing more, which is when its
input may be closed. Closing it earlier would cut off hooks, permissions and tools that are served over it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, final

__all__ = ["ClaudeProgress"]


@final
class ClaudeProgress:
    """
    Where one query stands.

    Attributes:
        last_result: The last result message, if there was one.
        login_failed: The API refused the credentials since the last prompt.
    """

    def __init__(self) -> None:
        self.last_result: Mapping[str, Any] | None = None
        self.login_failed = False
        self._state: str | None = None
        self._answered = False
        self._settled = asyncio.Event()
        self._settled.set()
        self._begun = asyncio.Event()

    @property
    def is_running(self) -> bool:
        """A prompt was written and what it started has not ended."""
        return not self._settled.is_set()

    def prompt_written(self) -> None:
        """Note that the command was given a prompt."""
        self._answered = False
        self.login_failed = False
        self._settled.clear()

    def ended(self) -> None:
        """Note that nothing more can come."""
        self._begun.set()
        self._settled.set()

    async def until_begun(self) -> None:
        """Wait until the command works on a prompt, so that there is something to interrupt."""
        await self._begun.wait()

    async def until_settled(self) -> None:
        """Wait until the command owes nothing more."""
        await self._settled.wait()

    def observe(self, frame: Mapping[str, Any]) -> bool:
        """
        Take in one message.

        Returns:
            Whether it is one for the caller; messages that only tell the state of the command are not.
        """
        kind, subtype = frame.get("type"), frame.get("subtype")
        if kind == "system" and subtype == "session_state_changed":
            self._state_changed(frame.get("state"))
            return False
        if kind == "system" and subtype == "init":
            self._begun.set()
        elif kind == "assistant" and frame.get("error") == "authentication_failed":
            self.login_failed = True
        elif kind == "result":
            self.last_result = frame
            self._answered = True
            # A command that tells no state has nothing but its result to go by.
            if self._state in {None, "idle"}:
                self._settle()
        return True

    def _state_changed(self, state: Any) -> None:
        self._state = state if isinstance(state, str) else None
        if state == "idle":
            if self._answered:
                self._settle()
            return
        if not self.is_running:
            # Work in the background woke it up by itself.
            self._answered = False
            self._settled.clear()
        self._begun.set()

    def _settle(self) -> None:
        self._begun.clear()
        self._settled.set()
