"""One test for each trap of dependency-injector that was found by experiment (E1 to E28); ours is free of it."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import types
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import anyio
import anyio.abc
import pytest
from dependency_injector import containers, providers
from dependency_injector.wiring import Provide, inject

from agentlayers.layer import App, Layer, LayerContainer
from agentlayers.layer.errors import (
    CycleError,
    LayerStartError,
    LayerValidationError,
    LifetimeLeakError,
    SignatureError,
    TypeMismatchError,
    UnknownNameError,
)

log: list[str] = []


@pytest.fixture(autouse=True)
def empty_log() -> None:
    log.clear()


def opening(name: str, seconds: float = 0.0) -> Any:
    """Make a resource that logs its life."""

    async def life(*_needs: object) -> AsyncIterator[str]:
        log.append(f"open {name}")
        await asyncio.sleep(seconds)
        log.append(f"opened {name}")
        yield name
        log.append(f"close {name}")
        await asyncio.sleep(seconds)
        log.append(f"closed {name}")

    return life


class Service:
    def __init__(self, dependency: Any = None) -> None:
        self.dependency = dependency


async def test_e1_independent_resources_open_and_close_side_by_side_and_dependents_wait() -> None:
    class Four(LayerContainer):
        a = providers.Resource(opening("a", 0.03))
        b = providers.Resource(opening("b", 0.03))
        c = providers.Resource(opening("c", 0.03), a, b)
        d = providers.Resource(opening("d", 0.03), c)

    async with App(Four):
        assert log[:2] == ["open a", "open b"]
        assert log.index("open c") > max(log.index("opened a"), log.index("opened b"))
        log.clear()
    assert log[:4] == ["close d", "closed d", "close c", "closed c"]
    assert log[4:6] in (["close a", "close b"], ["close b", "close a"])


async def test_e2_teardown_order_holds_behind_a_singleton() -> None:
    class Chain(LayerContainer):
        pool = providers.Resource(opening("pool", 0.02))
        repo = providers.Singleton(Service, pool)
        worker = providers.Resource(opening("worker", 0.02), repo)

    async with App(Chain):
        log.clear()
    assert log == ["close worker", "closed worker", "close pool", "closed pool"]


async def test_e3_a_half_way_failure_closes_and_cancels_everything() -> None:
    def fail() -> None:
        raise RuntimeError("bad dsn")

    class Failing(LayerContainer):
        ok = providers.Resource(opening("ok"))
        slow = providers.Resource(opening("slow", 5))
        bad = providers.Resource(fail)

    with pytest.raises(LayerStartError, match="bad dsn"):
        await App(Failing).start()
    await asyncio.sleep(0.01)

    assert "opened slow" not in log
    assert ("opened ok" in log) == ("closed ok" in log)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_e4_a_cancellation_inside_one_resource_hangs_nobody() -> None:
    async def cancelled() -> None:
        inner = asyncio.ensure_future(asyncio.sleep(5))
        inner.cancel()
        await inner

    class Cancelled(LayerContainer):
        ok = providers.Resource(opening("ok"))
        bad = providers.Resource(cancelled)
        dependent = providers.Singleton(Service, bad)

    app = App(Cancelled)
    with pytest.raises(LayerStartError, match="bad failed to start: CancelledError"):
        await asyncio.wait_for(app.start(), 10)
    await asyncio.wait_for(app.close(), 10)
    assert log[-1] != "opened ok"


async def test_e5_starting_and_closing_is_awaited_whatever_is_inside() -> None:
    class Nothing(LayerContainer):
        value = providers.Object(1)

    app = App(Nothing)
    await app.start()
    await app.close()
    await App(Nothing).close()

    class Faked(LayerContainer):
        pool = providers.Resource(opening("pool"))

    with Faked.override(pool="fake"):
        async with App(Faked) as app:
            assert app.get("pool") == "fake"
    assert log == []


async def test_e6_an_asynchronous_resource_makes_nothing_a_future() -> None:
    class Mixed(LayerContainer):
        pool = providers.Resource(opening("pool"))
        single = providers.Singleton(Service, pool)
        factory = providers.Factory(Service, single)

    async with App(Mixed) as app:
        assert app.get("single").dependency == "pool"
        with app.override(pool="fake"):
            assert app.get("factory").dependency.dependency == "fake"
        assert app.get("factory").dependency.dependency == "pool"
        assert app.container.factory().dependency is app.get("single")
        assert await asyncio.to_thread(lambda: app.get("factory").dependency.dependency) == "pool"


async def test_e6_a_value_that_is_a_future_is_handed_on_as_it_is() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    class Holding(LayerContainer):
        future_ = providers.Object(future)
        holder = providers.Factory(Service, future_)

    async with App(Holding) as app:
        assert app.get("holder").dependency is future
        assert app.container.holder().dependency is future


async def test_e7_overrides_are_not_a_global_stack() -> None:
    class Plain(LayerContainer):
        pool = providers.Object("real")
        single = providers.Singleton(Service, pool)

    async with App(Plain) as app:
        first, second = app.override(pool="first"), app.override(pool="second")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert app.get("single").dependency == "second"
        second.__exit__(None, None, None)
        assert app.get("single").dependency == "real"
        seen: list[str] = []
        with app.override(pool="fake"):
            thread = threading.Thread(target=lambda: seen.append(app.get("single").dependency))
            thread.start()
            thread.join()
        assert seen == ["real"]


async def test_e7_an_unknown_name_overrides_nothing() -> None:
    class Plain(LayerContainer):
        known = providers.Object("real")

    async with App(Plain) as app:
        with pytest.raises(LayerValidationError) as caught:
            app.override(known="fake", typo="fake").__enter__()
        assert isinstance(caught.value.problems[0], UnknownNameError)
        assert app.get("known") == "real"


async def test_e8_what_only_the_replaced_resource_needed_is_not_started() -> None:
    class Deep(LayerContainer):
        vault = providers.Resource(opening("vault"))
        pool = providers.Resource(opening("pool"), vault)
        service = providers.Singleton(Service, pool)

    app = App(Deep, "service")
    with app.override(pool="fake"):
        await app.start()
    assert app.get("service").dependency == "fake"
    assert log == []
    await app.close()


async def test_e9_cycles_and_signatures_are_checked_before_anything_runs() -> None:
    class A:
        def __init__(self, b: B) -> None: ...

    class B:
        def __init__(self, a: A) -> None: ...

    class Wrong(LayerContainer):
        opened = providers.Resource(opening("opened"))
        a = providers.Singleton(A)
        b = providers.Singleton(B)
        c = providers.Singleton(Service, unknown=1)

    with pytest.raises(LayerValidationError) as caught:
        await App(Wrong).start()
    assert {CycleError, SignatureError} <= {type(problem) for problem in caught.value.problems}
    assert log == []


async def test_e10_lifetimes_and_types_are_checked_before_anything_runs() -> None:
    class Session:
        pass

    class Keeper:
        def __init__(self, session: Session, number: int) -> None: ...

    class Wrong(LayerContainer):
        session = providers.ContextLocalSingleton(Session)
        keeper = providers.Singleton(Keeper, session=session, number="three")

    with pytest.raises(LayerValidationError) as caught:
        await App(Wrong).start()
    assert {type(problem) for problem in caught.value.problems} == {LifetimeLeakError, TypeMismatchError}


async def test_e11_independent_resources_start_in_the_order_of_their_declaration() -> None:
    slots: dict[str, Any] = {f"r{number}": providers.Resource(opening(str(number))) for number in range(6)}
    metaclass: Any = type(LayerContainer)
    async with App(metaclass("Ordered", (LayerContainer,), slots)):
        pass
    assert [line for line in log if line.startswith("open ")] == [f"open {number}" for number in range(6)]


async def test_e12_no_teardown_error_is_lost_and_the_cause_reaches_the_teardown() -> None:
    seen: list[Any] = []

    def bad(name: str) -> Any:
        class Bad:
            def __enter__(self) -> Self:
                return self

            def __exit__(self, *exc_info: object) -> None:
                seen.append(exc_info[1])
                raise OSError(name)

        return Bad

    class Three(LayerContainer):
        a = providers.Resource(bad("a"))
        b = providers.Resource(bad("b"))
        c = providers.Resource(opening("c"))

    app = App(Three)
    with pytest.raises(ExceptionGroup) as caught:
        async with app:
            raise ValueError("body")
    assert sorted(str(error) for error in caught.value.exceptions) == ["a", "b"]
    assert [str(error) for error in seen] == ["body", "body"]
    assert "closed c" in log


async def test_e13_threads_build_nothing_twice_and_block_nobody() -> None:
    made: list[int] = []

    class Slow:
        def __init__(self) -> None:
            time.sleep(0.01)
            made.append(1)

    class Both(LayerContainer):
        first = providers.Singleton(Slow)
        second = providers.Resource(Slow)
        user = providers.Factory(Service, first)

    async with App(Both) as app:
        results: list[int] = []
        threads = [
            threading.Thread(target=lambda: results.append(id(app.container.user().dependency))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(results)) == 1
    assert made == [1, 1]


async def test_e14_a_shared_layer_is_one_and_is_closed_once() -> None:
    class Pool:
        pass

    class Left(LayerContainer):
        pool: providers.Provider[Pool] = providers.Singleton(Pool)
        left = providers.Singleton(Service, pool)

    class Right(LayerContainer):
        pool: providers.Provider[Pool] = providers.Singleton(Pool)
        right = providers.Factory(Service, pool)

    def open_pool() -> Iterator[Pool]:
        log.append("open")
        yield Pool()
        log.append("close")

    both = Layer.merge(Left.layer((Pool,)), Right.layer((Pool,))).provide(Layer.scoped(Pool, open_pool))
    async with both.build(Pool):
        assert log == ["open"]
    assert log == ["open", "close"]


async def test_e15_wiring_belongs_to_one_app_and_ends_with_it() -> None:
    class Wired(LayerContainer):
        pool = providers.Resource(opening("pool"))

    module = types.ModuleType("wired_module")

    @inject
    def use(pool: str = Provide["pool"]) -> str:
        return pool

    use.__module__ = "wired_module"
    module.use = use  # type: ignore[attr-defined]
    sys.modules["wired_module"] = module
    try:
        async with App(Wired) as app:
            app.container.wire(modules=[module])
            assert module.use() == "pool"
            app.container.unwire()
        Wired.wiring_config = containers.WiringConfiguration(modules=[module])
        app = App(Wired)
        await app.start()
        assert module.use() == "pool"
        await app.close()
        assert module.use() != "pool"
        assert set(Wired.providers) == {"pool"}
    finally:
        del sys.modules["wired_module"]


async def test_e16_a_chain_starts_and_stops_in_linear_time() -> None:
    count = 400
    slots: dict[str, Any] = {}
    previous: Any = None
    for number in range(count):
        previous = providers.Resource(opening(str(number)), *([previous] if previous is not None else []))
        slots[f"r{number}"] = previous
    metaclass: Any = type(LayerContainer)
    app = App(metaclass("Chain", (LayerContainer,), slots))
    began = time.perf_counter()
    await app.start()
    await app.close()
    seconds = time.perf_counter() - began

    assert log.count("opened 0") == 1
    assert [line for line in log if line.startswith("close ")] == [f"close {n}" for n in reversed(range(count))]
    assert seconds < 20  # ours takes 0.03 s, plain dependency-injector 24 s for 300: a cubic cost would show


async def test_e17_a_resource_is_entered_and_left_in_one_task() -> None:
    async with Layer.scoped(anyio.abc.TaskGroup, anyio.create_task_group).build() as app:
        app.get(anyio.abc.TaskGroup).start_soon(anyio.sleep, 0)


async def test_e18_a_failed_request_resource_is_tried_again_and_an_open_one_is_closed() -> None:
    attempts: list[int] = []

    async def session() -> AsyncIterator[str]:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("first")
        yield "session"
        log.append("closed")

    class Requests(LayerContainer):
        session_ = providers.ContextLocalResource(session)

    async with App(Requests) as app:
        with pytest.raises(LayerStartError, match="first"):
            await app.scope("session_").__aenter__()
        async with app.scope("session_") as request:
            assert request.get("session_") == "session"
        assert log == ["closed"]


async def test_e19_what_was_opened_for_an_override_is_closed_with_it() -> None:
    class Plain(LayerContainer):
        pool = providers.Resource(opening("real"))

    async with App(Plain) as app:
        async with app.override(pool=providers.Resource(opening("fake"))):
            assert app.get("pool") == "fake"
        assert log[-1] == "closed fake"


async def test_e20_one_request_cannot_close_what_another_uses() -> None:
    class Requests(LayerContainer):
        pool = providers.Resource(opening("pool"))
        session = providers.ContextLocalResource(opening("session"), pool)

    async with App(Requests) as app:
        async with app.scope("session") as first:
            async with app.scope("session"):
                pass
            assert log.count("closed session") == 1
            assert first.get("session") == "session"
            assert "close pool" not in log
        assert log.count("closed session") == 2


async def test_e21_a_start_error_names_the_part_its_path_and_its_line() -> None:
    def fail() -> None:
        raise RuntimeError("bad dsn")

    class Failing(LayerContainer):
        pool = providers.Resource(fail)
        repo = providers.Singleton(Service, pool)

    with pytest.raises(LayerStartError) as caught:
        await App(Failing, "repo").start()
    text = str(caught.value)
    assert text.startswith("pool failed to start: RuntimeError: bad dsn")
    assert "test_layer_traps.py:" in text
    assert "  repo (Service)\n  └─> pool" in text


async def test_e24_a_replaced_slot_rebinds_what_was_inherited() -> None:
    class Base(LayerContainer):
        pool = providers.Object("real")
        service = providers.Singleton(Service, pool)

    class Sub(Base):
        pool = providers.Object("sub")

    async with App(Sub) as app:
        assert app.get("service").dependency == "sub"


async def test_e25_a_graph_may_be_deep() -> None:
    previous: Any = providers.Singleton(Service)
    slots: dict[str, Any] = {"first": previous}
    for number in range(1500):
        previous = slots[f"s{number}"] = providers.Singleton(Service, previous)
    metaclass: Any = type(LayerContainer)
    deep = metaclass("Deep", (LayerContainer,), slots)
    deeper = metaclass("Deeper", (deep,), {"first": providers.Object("end")})
    async with App(deeper) as app:
        service = app.get("s1499")
        while isinstance(service, Service):
            service = service.dependency
        assert service == "end"


async def test_e26_synchronous_resources_hold_up_only_what_needs_them() -> None:
    """An asynchronous one is under way while a synchronous one blocks the loop, whichever is declared first."""
    begun = threading.Event()

    def blocking() -> Iterator[bool]:
        yield begun.wait(5)

    async def beginning() -> AsyncIterator[str]:
        begun.set()
        await asyncio.sleep(0)
        yield "other"

    class Mixed(LayerContainer):
        sync = providers.Resource(blocking)
        other = providers.Resource(beginning)

    async with App(Mixed) as app:
        assert app.get("sync") is True


async def test_e27_cancelling_a_start_from_outside_leaves_nothing() -> None:
    class Plain(LayerContainer):
        ok = providers.Resource(opening("ok"))
        slow = providers.Resource(opening("slow", 5), ok)

    app = App(Plain)
    starting = asyncio.create_task(app.start())
    await asyncio.sleep(0.01)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert log[-1] == "closed ok"
    await app.close()


async def test_e28_a_start_that_was_cancelled_can_be_closed_and_repeated() -> None:
    class Plain(LayerContainer):
        slow = providers.Resource(opening("slow", 0.05))
        service = providers.Singleton(Service, slow)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(App(Plain).start(), 0.01)
    async with App(Plain) as app:
        assert app.get("service").dependency == "slow"


async def test_nothing_is_left_behind_when_an_app_is_done() -> None:
    class Plain(LayerContainer):
        pool = providers.Resource(opening("pool"))
        service = providers.Singleton(Service, pool)

    async with App(Plain) as app:
        service = app.get("service")
    assert isinstance(service, Service)
    del app
    gc.collect()
    assert isinstance(Plain.service, providers.Singleton)
    assert not Plain.pool.initialized
    assert containers.is_container(Plain)
