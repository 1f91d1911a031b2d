"""
What client and server sessions share: framing, chunks, the queue of frames to send, and how they
fail.

A session never raises for what a peer sends. It records the error, moves to ``FAILED``, emits
:class:`~agentlayers.protocol.events.SessionFailed` as its last event, and ignores whatever comes
after.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from enum import StrEnum
from typing import Generic, TypeVar

from agentlayers.errors import (
    AccessError,
    AgentLayersError,
    LimitExceededError,
    LocalProtocolError,
    MalformedMessageError,
    RemoteProtocolError,
)
from agentlayers.limits import FRAME_BYTES_MAX
from agentlayers.protocol.chunking import Reassembler
from agentlayers.protocol.decoder import decode_message
from agentlayers.protocol.events import SessionFailed
from agentlayers.protocol.framing import ValueReader
from agentlayers.protocol.messages import ChunkedMessage, Message

__all__ = ["Session", "SessionState"]

Event = TypeVar("Event")


class SessionState(StrEnum):
    """Where a session is; see the tables in the modules of the client and the server session."""

    AWAITING_HELLO = "awaiting_hello"
    AWAITING_AUTHENTICATION = "awaiting_authentication"
    AUTHENTICATING = "authenticating"
    OPEN = "open"
    FAILED = "failed"
    CLOSED = "closed"


class Session(abc.ABC, Generic[Event]):
    """One side of one connection, without its socket."""

    def __init__(self, *, is_stream: bool, state: SessionState) -> None:
        self._state = state
        self._error: AgentLayersError | None = None
        self._reader = ValueReader() if is_stream else None
        self._reassembler = Reassembler()
        self._outgoing: list[bytes] = []
        self._events: list[Event | SessionFailed] = []
        self._ignored = 0

    @property
    def state(self) -> SessionState:
        """Where the session is."""
        return self._state

    @property
    def error(self) -> AgentLayersError | None:
        """Why the session failed: a protocol error, or what the server refused us for."""
        return self._error

    @property
    def ignored_messages(self) -> int:
        """How many well-formed messages had nothing to do with what this side asked for."""
        return self._ignored

    @property
    def buffered_bytes(self) -> int:
        """Bytes held of messages not yet complete."""
        return self._reassembler.pending_bytes + (self._reader.buffered_bytes if self._reader else 0)

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """
        Take one frame, or for a stream whatever was read; never raises for what it holds.

        Collect :meth:`events_received` and :meth:`data_to_send` afterwards.
        """
        if not self._is_over():
            self._guard(lambda: self._receive(data))

    def receive_eof(self) -> None:
        """Note that the connection ended; nothing can be sent any more."""
        if not self._is_over():
            self._state = SessionState.CLOSED
            self._release()

    def data_to_send(self) -> list[bytes]:
        """Return what is to be sent and forget it: each item is one frame, or one write."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def events_received(self) -> list[Event | SessionFailed]:
        """Return what happened since the last call."""
        events, self._events = self._events, []
        return events

    @abc.abstractmethod
    def _handle(self, message: Message) -> None:
        """Act on one whole message, raising what is wrong with it."""

    def _guard(self, receive: Callable[[], None]) -> None:
        """Let whatever is wrong with what the peer sent fail the session, and nothing else."""
        try:
            receive()
        except (RemoteProtocolError, AccessError) as error:
            # The error is kept as a value. Its traceback would hold every frame up to the caller, the
            # session and what the peer sent, in a cycle that only the garbage collector takes apart.
            error.__traceback__ = error.__context__ = None
            self._end(error)
            self._events.append(SessionFailed(error))

    def _receive(self, data: bytes | bytearray | memoryview) -> None:
        if self._reader is None:
            self._receive_frame(data)
        else:
            self._reader.feed(data)
            self._receive_values(self._reader)

    def _receive_frame(self, data: bytes | bytearray | memoryview) -> None:
        if len(data) > FRAME_BYTES_MAX:
            raise LimitExceededError(limit="FRAME_BYTES_MAX", allowed=FRAME_BYTES_MAX, declared=len(data))
        self._receive_value(data if isinstance(data, bytes) else bytes(data))

    def _receive_values(self, reader: ValueReader) -> None:
        while not self._is_over():
            value = reader.next_value()
            if value is None:
                return
            self._receive_value(value)

    def _receive_value(self, value: bytes) -> None:
        self._handle(decode_message(value))

    def _assemble(self, chunk: ChunkedMessage) -> Message | None:
        """Take a chunk; return the message it completes."""
        whole = self._reassembler.add(chunk)
        if whole is None:
            return None
        message = decode_message(whole)
        if type(message) is ChunkedMessage:
            raise MalformedMessageError("ChunkedMessage.data: a chunk inside a chunk")
        return message

    def _end(self, error: AgentLayersError) -> None:
        self._state = SessionState.FAILED
        self._error = error
        self._outgoing = []
        self._release()

    def _release(self) -> None:
        """Let go of what was held for the peer."""
        self._reassembler.clear()
        self._reader = ValueReader() if self._reader is not None else None

    def _is_over(self) -> bool:
        return self._state is SessionState.FAILED or self._state is SessionState.CLOSED

    def _require_open(self, command: str) -> None:
        if self._state is not SessionState.OPEN:
            raise LocalProtocolError(f"cannot {command}: the session is {self._state.value}, not open")
