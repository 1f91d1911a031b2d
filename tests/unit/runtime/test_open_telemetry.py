"""What OpenTelemetry is told, by its own SDK."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest

from agentlayers.errors import BackendError, ConfigurationError, QueryPendingTimeoutError, QueryQueueFullError
from agentlayers.layer import Layer
from agentlayers.runtime import (
    AgentRuntime,
    CallTool,
    Delay,
    QuerySupervisor,
    Say,
    Script,
    ScriptedBackend,
    SupervisorSettings,
    Telemetry,
    Turn,
)
from agentlayers.runtime.containers import AgentRuntimeContainer
from agentlayers.runtime.hooks import HookMatcher
from agentlayers.runtime.message import AgentMessage
from agentlayers.runtime.telemetry import find_telemetry
from unit.runtime.conftest import Stores
from unit.runtime.fake_agent import INIT, RESULT, FakeBackend, FakeQuery

pytest.importorskip("opentelemetry.sdk.metrics", reason="opentelemetry-sdk is not installed: it is in the extra dev")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentlayers.runtime.open_telemetry import OpenTelemetry

SCRIPT = Script([
    Turn([
        CallTool("write_file", {"path": "a", "content": "secret content"}),
        CallTool("read_file", {"path": "missing"}),
        Say("done"),
    ]),
])  # fmt: skip

Points = dict[tuple[str, ...], Any]


class Watched:
    """OpenTelemetry's SDK with exporters in memory."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._spans = InMemorySpanExporter()
        self.meters = MeterProvider([self._reader])
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))

    def telemetry(self, **flags: Any) -> OpenTelemetry:
        return OpenTelemetry(meter_provider=self.meters, tracer_provider=self.tracers, **flags)

    def close(self) -> None:
        self.meters.shutdown()
        self.tracers.shutdown()

    def points(self) -> dict[str, Points]:
        """Every instrument's value, or count of values, by its attributes."""
        found: dict[str, Points] = {}
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = {
                        tuple(str(value) for value in dict(point.attributes or {}).values()): getattr(
                            point, "value", getattr(point, "count", None)
                        )
                        for point in metric.data.data_points
                    }
        return found

    def spans(self) -> list[ReadableSpan]:
        return list(self._spans.get_finished_spans())


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.close()


def runtime(watched: Watched, backend: Any, *, stores: Stores | None = None, **settings: Any) -> AgentRuntime:
    supervisor = QuerySupervisor(SupervisorSettings(**settings), telemetry=watched.telemetry())
    kept = {} if stores is None else {"chat_history": stores.chat, "audit_log": stores.audit}
    return AgentRuntime(backend, supervisor, **kept)  # type: ignore[arg-type]


async def test_a_query_and_its_tools_are_spans_and_numbers(watched: Watched, stores: Stores) -> None:
    agent = runtime(watched, ScriptedBackend(SCRIPT), stores=stores)
    async with agent.query("go", session_id="s-1") as turn:
        await turn.collect()

    points = watched.points()
    assert {(): 1} == points["agent.queries.started"]
    assert {("completed",): 1} == points["agent.queries.ended"] == points["agent.query.duration"]
    assert ({(): 0}, {(): 0}) == (points["agent.queries.running"], points["agent.queries.pending"])
    assert {(): 1} == points["agent.query.wait"]
    assert {("system",): 1, ("assistant",): 3, ("user",): 2, ("result",): 1} == points["agent.messages"]
    assert {("write_file", "success"): 1, ("read_file", "failure"): 1} == points["agent.tool.duration"]
    assert {("success",): 7} == points["agent.record.delay"]
    write, read, query = watched.spans()
    assert ["agent.tool", "agent.tool", "agent.query"] == [span.name for span in (write, read, query)]
    assert ["write_file", "read_file"] == [dict(span.attributes or {})["gen_ai.tool.name"] for span in (write, read)]
    assert query.context is not None
    assert write.parent is not None
    assert query.context.span_id == write.parent.span_id
    attributes = dict(query.attributes or {})
    assert (turn.query_id, "s-1", "completed") == (
        attributes["query.id"], attributes["gen_ai.conversation.id"], attributes["outcome"],
    )  # fmt: skip
    assert [True, False, True] == [span.status.is_ok for span in (write, read, query)]
    assert "secret content" not in "".join(span.to_json() for span in watched.spans())


async def test_what_runs_and_what_waits_is_told_while_it_does(watched: Watched) -> None:
    agent = runtime(watched, FakeBackend(FakeQuery(INIT), FakeQuery(INIT, RESULT, None)), concurrency_limit=1)
    async with agent.query("x"):
        waiting = asyncio.create_task(first_message(agent))
        async with asyncio.timeout(20):
            while {(): 1} != (points := watched.points()).get("agent.queries.pending"):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)
        assert ({(): 1}, {(): 1}) == (points["agent.queries.running"], points["agent.queries.pending"])
    await waiting

    points = watched.points()
    assert ({(): 0}, {(): 0}) == (points["agent.queries.running"], points["agent.queries.pending"])
    assert {("interrupted",): 1, ("completed",): 1} == points["agent.queries.ended"]


async def first_message(agent: AgentRuntime) -> AgentMessage:
    async with agent.query("x") as turn:
        message = await anext(turn)
        await turn.collect()
        return message


async def test_queries_that_never_ran_are_told_with_the_reason(watched: Watched) -> None:
    backend = FakeBackend(FakeQuery(INIT), errors=(BackendError("no command of Mallory"),))
    agent = runtime(watched, backend, concurrency_limit=1, pending_queue_capacity=1, max_pending_time=0.05)
    with pytest.raises(BackendError):
        await first_message(agent)
    full = runtime(
        watched,
        FakeBackend(FakeQuery(INIT)),
        concurrency_limit=1,
        pending_queue_capacity=0,
        pending_queue_strategy="dropping",
    )
    async with agent.query("x"), full.query("x"):
        with pytest.raises(QueryPendingTimeoutError):
            await first_message(agent)
        with pytest.raises(QueryQueueFullError):
            await first_message(full)
        waiting = asyncio.create_task(first_message(agent))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait({waiting})

    expected = {"start_failed": 1, "query_pending_timeout": 1, "query_queue_full": 1, "canceled": 1, "interrupted": 2}
    points = watched.points()
    assert {(outcome,): count for outcome, count in expected.items()} == points["agent.queries.ended"]
    assert ({(): 0}, {(): 0}) == (points["agent.queries.running"], points["agent.queries.pending"])
    spans = {dict(span.attributes or {})["outcome"]: span for span in watched.spans()}
    assert "BackendError" == dict(spans["start_failed"].attributes or {})["error.type"]
    assert "Mallory" not in "".join(span.to_json() for span in watched.spans())


async def test_an_interrupted_tool_ends_as_such(watched: Watched) -> None:
    agent = runtime(watched, ScriptedBackend(Script([Turn([CallTool("run_command", {"command": "sleep 9"})])])))
    async with agent.query("go") as turn:
        async for message in turn:
            if message.tool_uses:
                break

    # A command that was running when it was interrupted has failed; one that had not begun yet has no result.
    assert watched.points()["agent.tool.duration"] in (
        {("run_command", "failure"): 1},
        {("run_command", "interrupted"): 1},
    )
    assert ["agent.tool", "agent.query"] == [span.name for span in watched.spans()]


async def test_a_tool_whose_result_never_came_is_interrupted(watched: Watched) -> None:
    use = {"type": "tool_use", "id": "t", "name": "Bash", "input": {}}
    call = {"type": "assistant", "message": {"role": "assistant", "content": [use]}}
    agent = runtime(watched, FakeBackend(FakeQuery(INIT, call, BackendError("killed"))))
    with pytest.raises(BackendError):
        async with agent.query("go") as turn:
            await turn.collect()

    assert {("Bash", "interrupted"): 1} == watched.points()["agent.tool.duration"]
    assert {("failed",): 1} == watched.points()["agent.queries.ended"]


@pytest.mark.parametrize("in_background", [True, False])
async def test_spans_of_a_subagents_tools_are_below_the_tool_it_works_for(
    watched: Watched, in_background: bool
) -> None:
    def call(tool_use_id: str, parent: str | None) -> Mapping[str, Any]:
        use = {"type": "tool_use", "id": tool_use_id, "name": "T", "input": {}}
        return {"type": "assistant", "parent_tool_use_id": parent, "message": {"content": [use]}}

    block = {"type": "tool_result", "tool_use_id": "outer", "content": "launched"}
    launched = [{"type": "user", "message": {"content": [block]}}] if in_background else []
    frames = [INIT, call("outer", None), *launched, call("inner", "outer"), RESULT, None]
    agent = runtime(watched, FakeBackend(FakeQuery(*frames)))
    async with agent.query("go") as turn:
        await turn.collect()

    spans = {dict(span.attributes or {}).get("gen_ai.tool.call.id"): span for span in watched.spans()}
    inner, outer = spans["inner"], spans["outer"]
    assert inner.parent is not None
    assert outer.context is not None
    assert inner.parent.span_id == outer.context.span_id


async def test_spans_of_the_callers_code_join_those_of_the_query(watched: Watched) -> None:
    """A hook's own span is below the query, and the query below whatever the caller does."""
    tracer = watched.tracers.get_tracer("caller")

    async def hook(hook_input: Mapping[str, Any], tool_use_id: str | None, context: Any) -> dict[str, Any]:
        with tracer.start_as_current_span("hook"):
            return {}

    agent = runtime(watched, ScriptedBackend(SCRIPT))
    with tracer.start_as_current_span("request"):
        async with agent.query("go", hooks={"Stop": [HookMatcher(None, [hook])]}) as turn:
            await turn.collect()

    spans = {span.name: span for span in watched.spans()}
    parents = {name: span.parent.span_id if span.parent else None for name, span in spans.items()}
    ids = {name: span.context.span_id for name, span in spans.items() if span.context}
    assert (ids["agent.query"], ids["request"], None) == (parents["hook"], parents["agent.query"], parents["request"])


@pytest.mark.parametrize(("metrics", "tracing"), [(True, False), (False, True)])
async def test_metrics_and_spans_are_switched_one_by_one(watched: Watched, metrics: bool, tracing: bool) -> None:
    supervisor = QuerySupervisor(telemetry=watched.telemetry(metrics=metrics, tracing=tracing))
    async with AgentRuntime(ScriptedBackend(SCRIPT), supervisor).query("go") as turn:
        await turn.collect()

    assert (metrics, tracing) == (bool(watched.points()), bool(watched.spans()))


async def test_a_telemetry_that_fails_never_breaks_the_conversation(watched: Watched) -> None:
    telemetry = watched.telemetry()
    telemetry._instruments.messages = telemetry._instruments.started = telemetry._instruments.duration = None
    supervisor = QuerySupervisor(telemetry=telemetry)
    async with AgentRuntime(ScriptedBackend(SCRIPT), supervisor).query("go") as turn:
        messages = await turn.collect()

    assert messages[-1].is_result
    assert 0 == supervisor.stats.active


@pytest.mark.parametrize(
    ("given", "metrics", "tracing", "kind"),
    [
        (None, False, False, type(None)),
        (Telemetry(), False, False, type(None)),
        (None, True, False, OpenTelemetry),
        (Telemetry(), False, True, OpenTelemetry),
    ],
)
def test_it_is_found_where_it_is_switched_on(given: Any, metrics: bool, tracing: bool, kind: type) -> None:
    assert kind is type(find_telemetry(given, metrics=metrics, tracing=tracing))


def test_without_the_extra_nothing_is_found_and_asking_for_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("telemetry", "open_telemetry"):
        monkeypatch.setattr(f"agentlayers.runtime.{module}.open_telemetry_is_installed", lambda: False)

    assert find_telemetry(None, metrics=True, tracing=True) is None
    with pytest.raises(ConfigurationError, match=r"pip install 'agentlayers\[otel\]'"):
        OpenTelemetry()


def test_nothing_of_it_is_loaded_before_it_is_asked_for() -> None:
    import subprocess

    code = "import agentlayers.runtime.query_supervisor, sys; print('opentelemetry' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "False" == told.stdout.strip()


@pytest.fixture
async def scripted_app(watched: Watched, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    monkeypatch.setenv("AGENTLAYERS_STORAGE_DIRECTORY", str(tmp_path / "storage"))
    telemetry = watched.telemetry()
    app = AgentRuntimeContainer.layer(outputs=(AgentRuntime,), telemetry=Layer.succeed(Telemetry, telemetry))
    async with app.build(AgentRuntime) as agent:
        yield agent


async def test_it_is_wired_as_a_slot(watched: Watched, scripted_app: AgentRuntime) -> None:
    async with scripted_app.query("hello") as turn:
        await turn.collect()

    assert {("completed",): 1} == watched.points()["agent.queries.ended"]


async def test_the_yaml_spelling_names_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentlayers.runtime.presets import load_preset

    monkeypatch.setenv("AGENTLAYERS_STORAGE_DIRECTORY", str(tmp_path / "storage"))
    file = tmp_path / "app.yaml"
    file.write_text("extends: memory\ntelemetry: {open_telemetry: {tracing: false}}\n")

    async with load_preset(file).build() as app:
        assert isinstance(app.get(Telemetry), OpenTelemetry)


async def test_delays_are_no_part_of_a_wait(watched: Watched) -> None:
    """The wait ends with the slot; what the agent then takes is its duration."""
    agent = runtime(watched, ScriptedBackend(Script([Turn([Delay(0.06), Say("x")])])))
    async with agent.query("go") as turn:
        await turn.collect()

    data = watched._reader.get_metrics_data()
    assert data is not None
    sums = {
        metric.name: metric.data.data_points[0].sum  # type: ignore[union-attr]
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        if metric.name in {"agent.query.wait", "agent.query.duration"}
    }
    assert sums["agent.query.wait"] < 0.05 < sums["agent.query.duration"]
