"""Any graph, any failure, any cancellation: what was opened is closed, in order, and nothing is left."""

from __future__ import annotations

import asyncio
from typing import Any

from dependency_injector import providers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentlayers.layer import App, LayerContainer
from agentlayers.layer.errors import LayerStartError

PARTS = 6
KINDS = ("async", "sync", "single", "factory")


class Made:
    def __init__(self, *needs: Any) -> None:
        self.needs = needs


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a small graph with small pauses, so that orders collide."""
    parts = []
    for number in range(draw(st.integers(1, PARTS))):
        needs = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        parts.append(
            {
                "kind": draw(st.sampled_from(KINDS)),
                "needs": sorted(needs),
                "pause": draw(st.integers(0, 2)),
                "fails": draw(st.sampled_from([None, None, None, None, "open", "close"])),
            }
        )
    return {"parts": parts, "cancel_after": draw(st.none() | st.integers(0, 6))}


def build(graph: dict[str, Any], events: list[tuple[str, int]]) -> Any:
    slots: dict[str, Any] = {}
    for number, part in enumerate(graph["parts"]):
        needs = [slots[f"p{need}"] for need in part["needs"]]
        kind = {"async": providers.Resource, "sync": providers.Resource, "single": providers.Singleton}
        provider = kind.get(part["kind"], providers.Factory)
        slots[f"p{number}"] = provider(_maker(number, part, events), *needs)
    metaclass: Any = type(LayerContainer)
    return metaclass("Drawn", (LayerContainer,), slots)


def _maker(number: int, part: dict[str, Any], events: list[tuple[str, int]]) -> Any:
    async def open_async(*needs: Any) -> Any:
        for _ in range(part["pause"]):
            await asyncio.sleep(0)
        if part["fails"] == "open":
            raise OSError(number)
        events.append(("open", number))
        yield Made(*needs)
        for _ in range(part["pause"]):
            await asyncio.sleep(0)
        events.append(("close", number))
        if part["fails"] == "close":
            raise OSError(number)

    def open_sync(*needs: Any) -> Any:
        if part["fails"] == "open":
            raise OSError(number)
        events.append(("open", number))
        yield Made(*needs)
        events.append(("close", number))
        if part["fails"] == "close":
            raise OSError(number)

    def make(*needs: Any) -> Any:
        if part["fails"] == "open" and part["kind"] == "single":
            raise OSError(number)
        return Made(*needs)

    return {"async": open_async, "sync": open_sync}.get(part["kind"], make)


def resources_below(graph: dict[str, Any], number: int) -> set[int]:
    """Find the resources a part needs, through whatever is in between."""
    found: set[int] = set()
    for need in graph["parts"][number]["needs"]:
        if graph["parts"][need]["kind"] in {"async", "sync"}:
            found.add(need)
        found |= resources_below(graph, need)
    return found


async def live(graph: dict[str, Any]) -> tuple[list[tuple[str, int]], BaseException | None, App]:
    events: list[tuple[str, int]] = []
    app = App(build(graph, events))

    async def run() -> None:
        async with app:
            events.append(("body", -1))
            await asyncio.sleep(0)

    task = asyncio.create_task(run())
    error: BaseException | None = None
    if graph["cancel_after"] is not None:
        for _ in range(graph["cancel_after"]):
            await asyncio.sleep(0)
        task.cancel()
    try:
        await asyncio.wait_for(task, 5)
    except BaseException as raised:
        error = raised
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return events, error, app


@settings(max_examples=300, deadline=None)
@given(graphs())
@example(
    {
        "parts": [
            {"kind": "async", "needs": [], "pause": 2, "fails": None},
            {"kind": "single", "needs": [0], "pause": 0, "fails": None},
            {"kind": "async", "needs": [1], "pause": 1, "fails": "close"},
        ],
        "cancel_after": None,
    }
)
def test_any_run_ends_clean_and_in_order(graph: dict[str, Any]) -> None:
    events, error, app = asyncio.run(live(graph))
    opened = [number for event, number in events if event == "open"]
    closed = [number for event, number in events if event == "close"]

    assert sorted(opened) == sorted(closed) == sorted(set(opened))
    for number in opened:
        for need in resources_below(graph, number):
            assert opened.index(need) < opened.index(number)
            assert closed.index(need) > closed.index(number)
    assert app.state in {"new", "closed"}
    failing = [n for n, part in enumerate(graph["parts"]) if part["fails"] == "open" and part["kind"] != "factory"]
    if graph["cancel_after"] is None:
        assert isinstance(error, LayerStartError) == bool(failing)
        if not failing:
            assert len(opened) == sum(part["kind"] in {"async", "sync"} for part in graph["parts"])
            bad = {n for n in opened if graph["parts"][n]["fails"] == "close"}
            assert isinstance(error, ExceptionGroup) == bool(bad)
            if isinstance(error, ExceptionGroup):
                assert {inner.args[0] for inner in error.exceptions} == bad
