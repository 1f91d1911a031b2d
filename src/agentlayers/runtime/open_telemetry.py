"""
Metrics and spans for OpenTelemetry (extra ``otel``).

Names, counts and times only: prompts, answers and the arguments and results of tools never leave through here.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Final, final

from agentlayers.errors import ConfigurationError
from agentlayers.runtime.message import AgentMessage
from agentlayers.runtime.tap import Receipt
from agentlayers.runtime.telemetry import QueryTelemetry, Telemetry, open_telemetry_is_installed

__all__ = ["OpenTelemetry"]

SCOPE: Final = "agentlayers"
"""Name of the instrumentation, as OpenTelemetry shows it."""

SECONDS_BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Buckets of waits and durations; the first nine are the reference's."""

PARENTS_MAX: Final = 1024
"""Tool calls of a query that an agent in the background may still work for."""

RECORD_BOUNDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Buckets of the delay of recording."""


@final
class _Instruments:
    """What is counted and measured."""

    def __init__(self, meter: Any) -> None:
        def seconds(name: str, description: str, bounds: Sequence[float]) -> Any:
            return meter.create_histogram(
                name, unit="s", description=description, explicit_bucket_boundaries_advisory=list(bounds)
            )

        self.started = meter.create_counter("agent.queries.started", description="Queries whose agent ran.")
        self.ended = meter.create_counter("agent.queries.ended", description="Queries that are over, by outcome.")
        self.running = meter.create_up_down_counter("agent.queries.running", description="Queries with an agent.")
        self.pending = meter.create_up_down_counter("agent.queries.pending", description="Queries without a slot.")
        self.messages = meter.create_counter("agent.messages", description="Messages of agents, by type.")
        self.tokens = meter.create_counter("agent.tokens", unit="{token}", description="Tokens, by type.")
        self.wait = seconds("agent.query.wait", "From the submission to the slot.", SECONDS_BOUNDS)
        self.duration = seconds("agent.query.duration", "From the slot to the end.", SECONDS_BOUNDS)
        self.tool = seconds("agent.tool.duration", "From a tool call to its result.", SECONDS_BOUNDS)
        self.record = seconds("agent.record.delay", "From a message to its commit.", RECORD_BOUNDS)


@final
class OpenTelemetry(Telemetry):
    """
    Tells OpenTelemetry what queries do.

    Args:
        meter_provider: Makes the meter; the process's own if not given.
        tracer_provider: Makes the tracer; the process's own if not given.
        metrics: Count and measure.
        tracing: Make spans.
        clock: Seconds, for durations.

    Raises:
        ConfigurationError: The extra ``otel`` is not installed.
    """

    is_on: ClassVar[bool] = True

    def __init__(
        self,
        *,
        meter_provider: Any = None,
        tracer_provider: Any = None,
        metrics: bool = True,
        tracing: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not open_telemetry_is_installed():
            raise ConfigurationError(
                "telemetry needs opentelemetry-api, which is not installed: pip install 'agentlayers[otel]'"
            )
        from opentelemetry import metrics as metrics_api
        from opentelemetry import trace as trace_api

        # Of switched-off ones there is still an instrument, which does nothing.
        meters = (meter_provider or metrics_api.get_meter_provider()) if metrics else metrics_api.NoOpMeterProvider()
        tracers = (tracer_provider or trace_api.get_tracer_provider()) if tracing else trace_api.NoOpTracerProvider()
        self._instruments = _Instruments(meters.get_meter(SCOPE))
        self._tracer = tracers.get_tracer(SCOPE) if tracing else None
        self._clock = clock

    def query(self, query_id: str) -> QueryTelemetry:
        """Begin to watch a query."""
        return _Query(self._instruments, None if self._tracer is None else _Spans(self._tracer, query_id), self._clock)


@final
class _Query(QueryTelemetry):
    def __init__(self, instruments: _Instruments, spans: _Spans | None, clock: Callable[[], float]) -> None:
        self._count = instruments
        self._spans = spans
        self._clock = clock
        self._submitted = clock()
        self._granted: float | None = None
        self._is_pending = False
        self._is_running = False
        self._is_over = False
        self._tools: dict[str, tuple[str, float]] = {}

    def queued(self) -> None:
        self._is_pending = True
        self._count.pending.add(1)

    def granted(self) -> None:
        self._granted = self._clock()
        self._leave_queue()
        self._count.wait.record(self._granted - self._submitted)
        if self._spans is not None:
            self._spans.event("granted")

    def current(self) -> AbstractContextManager[object]:
        return nullcontext() if self._spans is None else self._spans.current()

    def started(self) -> None:
        self._is_running = True
        self._count.started.add(1)
        self._count.running.add(1)

    def refused(self, error: BaseException) -> None:
        self._leave_queue()
        code = str(getattr(error, "code", "canceled"))
        is_start = self._granted is not None and isinstance(error, Exception)
        self._end("start_failed" if is_start else code, error)

    def gone(self, state: str, error: Exception | None) -> None:
        if self._is_running:
            self._is_running = False
            self._count.running.add(-1)
        if self._granted is not None:
            self._count.duration.record(self._clock() - self._granted, {"outcome": state})
        for tool_use_id in tuple(self._tools):
            self._tool_ended(tool_use_id, "interrupted")
        self._end(state, error)

    async def received(self, message: AgentMessage) -> None:
        self._count.messages.add(1, {"type": message.type or "unknown"})
        for use in message.tool_uses:
            self._tools[use.id] = (use.name, self._clock())
            if self._spans is not None:
                self._spans.tool_began(use.id, use.name, message.parent_tool_use_id)
        for result in message.tool_results:
            self._tool_ended(result.tool_use_id, "failure" if result.is_error else "success")
        if message.is_result:
            self._count_tokens(message)
        if self._spans is not None:
            self._spans.seen(message)

    def recording(self, receipts: Sequence[Receipt]) -> None:
        begun, record, clock = self._clock(), self._count.record, self._clock

        def kept(done: asyncio.Future[None]) -> None:
            failed = done.cancelled() or done.exception() is not None
            record.record(clock() - begun, {"outcome": "failure" if failed else "success"})

        for receipt in receipts:
            receipt.done.add_done_callback(kept)

    def _tool_ended(self, tool_use_id: str, outcome: str) -> None:
        tool = self._tools.pop(tool_use_id, None)
        if tool is None:
            return
        name, begun = tool
        self._count.tool.record(self._clock() - begun, {"tool": name, "outcome": outcome})
        if self._spans is not None:
            self._spans.tool_ended(tool_use_id, outcome)

    def _count_tokens(self, result: AgentMessage) -> None:
        usage = result.raw.get("usage")
        for kind in ("input", "output"):
            tokens = usage.get(f"{kind}_tokens") if isinstance(usage, Mapping) else None
            if isinstance(tokens, int) and tokens > 0:
                self._count.tokens.add(tokens, {"type": kind})

    def _leave_queue(self) -> None:
        if self._is_pending:
            self._is_pending = False
            self._count.pending.add(-1)

    def _end(self, outcome: str, error: BaseException | None) -> None:
        if self._is_over:
            return  # a start that was cancelled when the agent ran already
        self._is_over = True
        self._count.ended.add(1, {"outcome": outcome})
        if self._spans is not None:
            self._spans.ended(outcome, error)


@final
class _Spans:
    """The span of one query and those of its tools, a subagent's below the tool it works for."""

    def __init__(self, tracer: Any, query_id: str) -> None:
        from opentelemetry import trace

        self._trace = trace
        self._tracer = tracer
        self._query = tracer.start_span("agent.query", attributes={"query.id": query_id})
        self._tools: dict[str, Any] = {}
        # Also of tools that have ended: an agent in the background goes on after the call that started it.
        self._parents: OrderedDict[str, Any] = OrderedDict()
        self._session_id = ""

    def current(self) -> AbstractContextManager[object]:
        return self._trace.use_span(
            self._query, end_on_exit=False, record_exception=False, set_status_on_exception=False
        )

    def event(self, name: str) -> None:
        self._query.add_event(name)

    def seen(self, message: AgentMessage) -> None:
        if message.session_id and message.session_id != self._session_id:
            self._session_id = message.session_id
            self._query.set_attribute("gen_ai.conversation.id", message.session_id)
        model = message.raw.get("model") if message.is_init else None
        if isinstance(model, str) and model:
            self._query.set_attribute("gen_ai.request.model", model)

    def tool_began(self, tool_use_id: str, name: str, parent_tool_use_id: str | None) -> None:
        parent = self._parents.get(parent_tool_use_id or "", self._query)
        span = self._tracer.start_span(
            "agent.tool",
            context=self._trace.set_span_in_context(parent),
            attributes={
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": name,
                "gen_ai.tool.call.id": tool_use_id,
            },
        )
        self._tools[tool_use_id] = self._parents[tool_use_id] = span
        while len(self._parents) > PARENTS_MAX:
            self._parents.popitem(last=False)

    def tool_ended(self, tool_use_id: str, outcome: str) -> None:
        span = self._tools.pop(tool_use_id)
        span.set_attribute("outcome", outcome)
        if outcome != "success":
            span.set_status(self._trace.StatusCode.ERROR, outcome)
        span.end()

    def ended(self, outcome: str, error: BaseException | None) -> None:
        self._query.set_attribute("outcome", outcome)
        if error is not None:
            # The type only: a text may quote what was said.
            self._query.set_attribute("error.type", type(error).__name__)
        if outcome not in {"completed", "interrupted"}:
            self._query.set_status(self._trace.StatusCode.ERROR, outcome)
        self._query.end()
