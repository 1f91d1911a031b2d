"""
Record a conversation: what the agent is given and what it says, message by message, as it happens.

A message is durable before its reader gets it, unless the store takes longer than ``RECORD_WAIT_SECONDS_MAX``:
then it is yielded all the same, and the query's status says ``recording_behind`` until the store caught up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, final

from agentlayers.limits import RECORD_WAIT_SECONDS_MAX
from agentlayers.logs import get_logger
from agentlayers.runtime.background_writer import BackgroundWriter
from agentlayers.runtime.frames import new_uuid
from agentlayers.runtime.message import AgentMessage
from agentlayers.runtime.query_handle import QueryHandle
from agentlayers.runtime.tap import MessageTap, QueryEnd, Receipt
from agentlayers.storage.chat_event import ChatEventSource

if TYPE_CHECKING:
    from agentlayers.storage.chat_history import ChatHistoryStore

__all__ = ["ChatHistory", "ChatRecorder"]

logger = get_logger(__name__)


@final
class ChatHistory:
    """
    Records queries into a chat history store.

    Args:
        store: Where the messages are kept.
    """

    def __init__(self, store: ChatHistoryStore) -> None:
        self._store = store

    def with_recorder(self, query: QueryHandle, **options: Any) -> QueryHandle:
        """
        Record a query from the next message its reader gets; returns the same query.

        Args:
            query: A running query.
            **options: As for :meth:`recorder`.

        Raises:
            StateError: The query has ended.
        """
        query.attach(self.recorder(**options))
        return query

    def recorder(
        self,
        *,
        session_id: str | None = None,
        record_output: bool = True,
        record_input: bool = True,
        record_partial: bool = False,
        strict: bool = False,
        wait_seconds: float = RECORD_WAIT_SECONDS_MAX,
        source: ChatEventSource = "sdk",
        input_source: ChatEventSource = "external",
    ) -> ChatRecorder:
        """
        Make a recorder for one query.

        Args:
            session_id: Record under this session; :obj:`None` takes the one the messages name.
            record_output: Record what the agent says.
            record_input: Record what the agent is given.
            record_partial: Record partial messages (``stream_event``) too.
            strict: Raise the store's error to the reader, instead of trying again and going on.
            wait_seconds: How long a message may wait for its commit before it is yielded all the same;
                strict mode waits as long as it takes.
            source: Noted with what the agent says.
            input_source: Noted with what the agent is given.
        """
        return ChatRecorder(
            self._store,
            session_id=session_id,
            record_output=record_output,
            record_input=record_input,
            record_partial=record_partial,
            strict=strict,
            wait_seconds=wait_seconds,
            source=source,
            input_source=input_source,
        )


class _Recorded(NamedTuple):
    session_id: str
    source: ChatEventSource
    message: Mapping[str, Any]


@final
class ChatRecorder(MessageTap):
    """Records one query; see :meth:`ChatHistory.recorder`, which makes these."""

    def __init__(
        self,
        store: ChatHistoryStore,
        *,
        session_id: str | None,
        record_output: bool,
        record_input: bool,
        record_partial: bool,
        strict: bool,
        wait_seconds: float,
        source: ChatEventSource,
        input_source: ChatEventSource,
    ) -> None:
        self._store = store
        self._fixed_session_id = session_id
        self._session_id = session_id or ""
        self._record_output = record_output
        self._record_input = record_input
        self._record_partial = record_partial
        self._strict = strict
        self._wait_seconds = wait_seconds
        self._source: ChatEventSource = source
        self._input_source: ChatEventSource = input_source
        self._held: list[Mapping[str, Any]] = []
        self._waits: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._writer: BackgroundWriter[_Recorded] = BackgroundWriter(self._write, name="chat-recorder", strict=strict)

    @property
    def pending(self) -> int:
        """Messages not durable yet."""
        return self._writer.pending + len(self._held)

    @property
    def is_behind(self) -> bool:
        """A message waited longer than allowed and is still not durable, or was given up."""
        self._forget_done()
        return bool(self._waits) and self._waits[0][0] <= asyncio.get_running_loop().time()

    @property
    def lost(self) -> int:
        """Messages given up."""
        return self._writer.lost

    @property
    def error(self) -> Exception | None:
        """Why recording fails at the moment, or why a message was lost."""
        return self._writer.lost_error or self._writer.error

    async def received(self, message: AgentMessage) -> Receipt | None:
        """Record what the agent says."""
        if not self._fixed_session_id and message.session_id:
            self._session_id = message.session_id
        if self._session_id:
            await self._release_held()
        if not self._record_output or (message.type == "stream_event" and not self._record_partial):
            return None
        if not self._session_id:
            logger.warning(
                "message_not_recorded",
                reason="no message named a session yet",
                message_type=message.type,
            )
            return None
        done = await self._writer.put(_Recorded(self._session_id, self._source, message.raw))
        deadline = asyncio.get_running_loop().time() + self._wait_seconds
        self._forget_done()
        self._waits.append((deadline, done))
        return Receipt(done, None if self._strict else deadline, strict=self._strict)

    async def sent(self, message: Mapping[str, Any]) -> None:
        """Record what the agent is given; held back until a message names the session."""
        if not self._record_input:
            return
        # Agents add the id themselves to what they say; a prompt has none, and needs one to be referred to.
        recorded = dict(message) if message.get("uuid") else {**message, "uuid": new_uuid()}
        self._held.append(recorded)
        if self._session_id:
            await self._release_held()

    async def ended(self, end: QueryEnd) -> None:  # noqa: ARG002
        """Wait until all of it is durable; what is not in time is counted and logged."""
        if self._held and not self._session_id:
            self._session_id = next((str(m["session_id"]) for m in self._held if m.get("session_id")), "")
        if self._session_id:
            await self._release_held()
        elif self._held:
            logger.warning("input_not_recorded", reason="the query ended before it named a session")
        await self._writer.aclose()

    def _forget_done(self) -> None:
        while self._waits and self._waits[0][1].done():
            self._waits.popleft()

    async def _release_held(self) -> None:
        while self._held:
            message = {**self._held.pop(0), "session_id": self._session_id}
            await self._writer.put(_Recorded(self._session_id, self._input_source, message))

    async def _write(self, batch: Sequence[_Recorded]) -> int:
        """Append the messages of one session and source that stand first; all in one transaction."""
        first = batch[0]
        run = [first]
        for recorded in batch[1:]:
            if recorded[:2] != first[:2]:
                break
            run.append(recorded)
        await self._store.append_all(first.session_id, [item.message for item in run], source=first.source)
        return len(run)
