"""A query as its caller holds it: reading, taps, timeouts, and ending without leftovers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from agentlayers.errors import BackendError, QueryTimeoutError, StateError, StorageUnavailableError
from agentlayers.runtime import query_handle
from agentlayers.runtime.backend import Prompt
from agentlayers.runtime.message import AgentMessage
from agentlayers.runtime.query_handle import QueryHandle
from agentlayers.runtime.tap import MessageTap, QueryEnd, Receipt
from unit.runtime.fake_agent import INIT, RESULT, FakeQuery, said


class Watcher(MessageTap):
    """Notes what it is shown; hands out receipts when asked to."""

    def __init__(self, *, receipts: bool = False, strict: bool = False, wait: float | None = None) -> None:
        self.seen: list[str] = []
        self.receipts: list[asyncio.Future[None]] | None = [] if receipts else None
        self.strict, self.wait = strict, wait

    async def received(self, message: AgentMessage) -> Receipt | None:
        self.seen.append(message.text or message.type)
        if self.receipts is None:
            return None
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self.receipts.append(done)
        return Receipt(done, None if self.wait is None else loop.time() + self.wait, strict=self.strict)

    async def sent(self, message: Mapping[str, Any]) -> None:
        self.seen.append(f"sent {message['message']['content']}")

    async def ended(self, end: QueryEnd) -> None:
        self.seen.append(f"ended {end.state} {end.session_id}")


async def opened(query: FakeQuery, *taps: MessageTap, prompt: Prompt = None, grace: float = 2.0) -> QueryHandle:
    handle = QueryHandle("q", prompt=prompt, taps=taps, interrupt_grace_seconds=grace)

    async def start(shown: Prompt) -> FakeQuery:
        return query

    async def on_gone(state: str) -> None:
        for tap in taps:
            if isinstance(tap, Watcher):
                tap.seen.append(f"gone {state}")

    await handle.open(start, on_gone=on_gone)
    return handle


async def texts(handle: QueryHandle) -> list[str]:
    return [message.text or message.type for message in await handle.collect()]


async def test_messages_are_read_in_order_and_taps_see_all_of_them() -> None:
    watcher = Watcher()
    handle = await opened(FakeQuery(INIT, said("a"), RESULT, None), watcher, prompt="hi")

    assert ["system", "a", "ok"] == await texts(handle)
    assert ["sent hi", "system", "a", "ok", "gone completed", "ended completed s"] == watcher.seen
    assert ("completed", "s", 3) == (handle.status.state, handle.session_id, handle.status.messages)
    assert handle.result is not None
    await handle.aclose()


async def test_only_the_result_is_asked_for() -> None:
    handle = await opened(FakeQuery(INIT, said("a"), RESULT, None))
    assert "ok" == (await handle.collect_success()).text
    await handle.aclose()

    failed = await opened(FakeQuery(INIT, {**RESULT, "subtype": "error_max_turns", "is_error": True}, None))
    with pytest.raises(BackendError, match="did not succeed: error_max_turns: ok"):
        await failed.collect_success()
    await failed.aclose()

    silent = await opened(FakeQuery(INIT, None))
    assert await silent.collect_result() is None
    with pytest.raises(BackendError, match="without a result"):
        await silent.collect_success()
    await silent.aclose()


async def test_the_agent_is_watched_to_its_end_though_nobody_reads() -> None:
    watcher = Watcher()
    query = FakeQuery(INIT, said("a"), RESULT, None)
    handle = await opened(query, watcher)

    await asyncio.wait_for(query.closed.wait(), 5)
    await handle.aclose()

    assert ["system", "a", "ok", "gone completed", "ended completed s"] == watcher.seen


async def test_leaving_early_interrupts_and_leaves_nothing() -> None:
    watcher = Watcher()
    query = FakeQuery(INIT, said("a"))
    handle = await opened(query, watcher)
    await anext(handle)

    await handle.aclose()

    assert {"interrupt", "close_input"} == set(query.calls)
    assert query.closed.is_set()
    assert "interrupted" == handle.status.state
    assert ["system", "a", "result", "gone interrupted", "ended interrupted s"] == watcher.seen
    assert [] == [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_an_agent_that_ignores_the_interrupt_is_cancelled() -> None:
    watcher = Watcher()
    query = FakeQuery(INIT, obeys=False)
    handle = await opened(query, watcher, grace=0.02)
    await anext(handle)

    async with asyncio.timeout(5):
        await handle.aclose()

    assert query.closed.is_set()
    assert "ended interrupted s" == watcher.seen[-1]


async def test_cancelling_the_closing_does_not_stop_it() -> None:
    query = FakeQuery(INIT, obeys=False)
    handle = await opened(query, grace=0.05)
    closing = asyncio.create_task(handle.aclose())
    await asyncio.sleep(0.01)

    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await handle.aclose()

    assert query.closed.is_set()


async def test_a_broken_agent_is_raised_after_what_it_said() -> None:
    handle = await opened(FakeQuery(INIT, said("a"), BackendError("killed")))
    read = [await anext(handle), await anext(handle)]

    with pytest.raises(BackendError, match="killed"):
        await anext(handle)

    assert 2 == len(read)
    await handle.aclose()
    assert "failed" == handle.status.state


async def test_an_agent_that_does_not_start_is_raised_to_the_opener() -> None:
    handle = QueryHandle("q")
    gone: list[str] = []

    async def start(shown: Prompt) -> FakeQuery:
        raise BackendError("no command")

    async def on_gone(state: str) -> None:
        gone.append(state)

    with pytest.raises(BackendError, match="no command"):
        await handle.open(start, on_gone=on_gone)

    assert ([], "failed") == (gone, handle.status.state)
    await handle.aclose()


async def test_cancelling_the_start_leaves_nothing() -> None:
    handle = QueryHandle("q")
    stopped = asyncio.Event()

    async def start(shown: Prompt) -> FakeQuery:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()
        raise AssertionError

    async def on_gone(state: str) -> None: ...

    opening = asyncio.create_task(handle.open(start, on_gone=on_gone))
    await asyncio.sleep(0.01)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening

    assert stopped.is_set()


async def test_a_message_waits_for_its_receipt_and_is_not_lost_by_a_reader_that_gives_up() -> None:
    watcher = Watcher(receipts=True)
    handle = await opened(FakeQuery(INIT, RESULT, None), watcher)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(handle), 0.02)
    assert watcher.receipts is not None
    for receipt in watcher.receipts:
        receipt.set_result(None)

    assert ["system", "ok"] == await texts(handle)
    await handle.aclose()


async def test_past_its_deadline_a_message_is_yielded_all_the_same() -> None:
    handle = await opened(FakeQuery(INIT, RESULT, None), Watcher(receipts=True, wait=0.02))

    async with asyncio.timeout(5):
        assert ["system", "ok"] == await texts(handle)
    await handle.aclose()


async def test_a_strict_receipt_raises_its_error_to_the_reader() -> None:
    watcher = Watcher(receipts=True, strict=True)
    handle = await opened(FakeQuery(INIT, RESULT, None), watcher)
    reading = asyncio.create_task(handle.collect())
    await asyncio.sleep(0.01)
    assert watcher.receipts is not None
    watcher.receipts[0].set_exception(StorageUnavailableError(backend="b", operation="write", reason="full"))

    with pytest.raises(StorageUnavailableError, match="full"):
        await reading
    await handle.aclose()


async def test_a_tap_that_fails_never_breaks_the_conversation() -> None:
    class Broken(MessageTap):
        async def received(self, message: AgentMessage) -> Receipt | None:
            raise RuntimeError("tap")

        async def sent(self, message: Mapping[str, Any]) -> None:
            raise RuntimeError("tap")

        async def ended(self, end: QueryEnd) -> None:
            raise RuntimeError("tap")

    watcher = Watcher()
    handle = await opened(FakeQuery(INIT, RESULT, None), Broken(), watcher, prompt="hi")

    assert ["system", "ok"] == await texts(handle)
    assert "ended completed s" == watcher.seen[-1]
    await handle.aclose()


async def test_a_late_tap_is_shown_what_is_not_read_yet() -> None:
    query = FakeQuery(INIT, said("a"), said("b"))
    handle = await opened(query)
    await anext(handle)
    await asyncio.sleep(0.01)
    late = Watcher()

    handle.attach(late)
    query.feed.put_nowait(RESULT)
    query.feed.put_nowait(None)
    await handle.collect()

    assert ["a", "b", "ok", "ended completed s"] == late.seen
    await handle.aclose()
    assert 4 == len(late.seen)
    with pytest.raises(StateError, match="has ended"):
        handle.attach(Watcher())
    await handle.aclose()


@pytest.mark.parametrize("read", [True, False])
async def test_a_tap_may_be_attached_when_the_agent_is_gone_but_not_read(read: bool) -> None:
    query = FakeQuery(INIT, said("a"), RESULT, None)
    handle = await opened(query)
    await anext(handle)
    await asyncio.wait_for(query.closed.wait(), 5)
    await asyncio.sleep(0.01)
    late = Watcher()

    handle.attach(late)
    if read:
        await handle.collect()
    await handle.aclose()

    assert ["a", "ok", "ended completed s"] == late.seen


async def test_buffered_messages_wait_for_the_receipt_of_a_late_tap() -> None:
    handle = await opened(FakeQuery(INIT, RESULT))
    await asyncio.sleep(0.01)
    late = Watcher(receipts=True)
    handle.attach(late)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(handle), 0.02)

    await handle.aclose()


async def test_a_slow_reader_slows_the_agent_until_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(query_handle, "MESSAGES_BUFFERED_MAX", 4)
    query = FakeQuery(INIT, *(said(str(n)) for n in range(20)))
    handle = await opened(query)
    await asyncio.sleep(0.02)
    held_back = query.feed.qsize()

    await handle.interrupt()
    messages = await asyncio.wait_for(handle.collect(), 5)

    assert 17 == held_back
    assert 22 == len(messages)
    assert messages[-1].is_error
    assert "interrupted" == handle.status.state
    await handle.aclose()


async def test_a_missing_first_message_times_out() -> None:
    query = FakeQuery()
    handle = await opened(query)
    handle.expire_after(first_message_seconds=0.02, query_seconds=None)

    with pytest.raises(QueryTimeoutError, match=r"no first message within 0\.02 s"):
        await asyncio.wait_for(anext(handle), 5)

    await handle.aclose()
    assert ("timed_out", True) == (handle.status.state, query.closed.is_set())


async def test_a_first_message_in_time_cancels_that_timeout() -> None:
    query = FakeQuery(INIT)
    handle = await opened(query)
    handle.expire_after(first_message_seconds=0.05, query_seconds=None)
    await anext(handle)
    await asyncio.sleep(0.1)
    query.feed.put_nowait(RESULT)
    query.feed.put_nowait(None)

    assert ["ok"] == await texts(handle)
    await handle.aclose()


async def test_a_long_query_times_out_and_is_watched_to_its_end() -> None:
    watcher = Watcher()
    query = FakeQuery(INIT, said("a"))
    handle = await opened(query, watcher)
    handle.expire_after(first_message_seconds=None, query_seconds=0.05)

    with pytest.raises(QueryTimeoutError, match=r"query q: no end of the query within 0\.05 s"):
        await handle.collect()

    await handle.aclose()
    assert ["system", "a", "result", "gone timed_out", "ended timed_out s"] == watcher.seen


async def test_sent_messages_are_shown_to_taps_once_the_agent_has_them() -> None:
    watcher = Watcher()
    query = FakeQuery(INIT)
    handle = await opened(query, watcher)
    await anext(handle)

    await handle.send_all(["one", {"type": "user", "message": {"role": "user", "content": "two"}}])

    assert ["one", "two"] == [message["message"]["content"] for message in query.sent]
    assert ["system", "sent one", "sent two"] == watcher.seen
    await handle.set_model("m")
    await handle.set_permission_mode("plan")
    assert ["set_model m", "set_permission_mode plan"] == query.calls
    await handle.aclose()
    with pytest.raises(StateError, match="does not run"):
        await handle.send("three")


async def test_a_streamed_prompt_is_shown_as_the_agent_takes_it() -> None:
    async def prompts() -> AsyncIterator[Mapping[str, Any]]:
        yield {"type": "user", "message": {"role": "user", "content": "one"}}

    watcher = Watcher()
    handle = QueryHandle("q", prompt=prompts(), taps=[watcher])
    taken: list[Any] = []

    async def start(shown: Prompt) -> FakeQuery:
        assert shown is not None
        taken.extend([message async for message in shown])  # type: ignore[union-attr]
        return FakeQuery(INIT, RESULT, None)

    async def on_gone(state: str) -> None: ...

    await handle.open(start, on_gone=on_gone)
    await handle.collect()
    await handle.aclose()

    assert "sent one" == watcher.seen[0]
    assert 1 == len(taken)


async def test_two_tasks_cannot_read_one_query() -> None:
    handle = await opened(FakeQuery())
    reading = asyncio.ensure_future(anext(handle))
    await asyncio.sleep(0.01)

    with pytest.raises(StateError, match="one task at a time"):
        await anext(handle)

    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await handle.aclose()


async def test_taps_end_together_so_that_one_that_is_slow_delays_no_other() -> None:
    met = asyncio.Barrier(2)

    class Meeting(MessageTap):
        async def ended(self, end: QueryEnd) -> None:
            await met.wait()

    handle = await opened(FakeQuery(INIT, RESULT, None), Meeting(), Meeting())

    assert 2 == len(await asyncio.wait_for(handle.collect(), 5))
    await handle.aclose()
