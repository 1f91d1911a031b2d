"""Starting and stopping: order, parallelism, failure, cancellation, one task per resource."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import anyio
import anyio.abc
import pytest
from dependency_injector import providers

from agentlayers.errors import StateError
from agentlayers.layer import App, Layer, LayerContainer
from agentlayers.layer.errors import LayerStartError

log: list[str] = []


@pytest.fixture(autouse=True)
def empty_log() -> None:
    log.clear()


async def logged(line: str) -> None:
    async with asyncio.timeout(20):
        while line not in log:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)


class Part:
    """Logs its life; subclasses are the services."""

    seconds = 0.0

    def __init__(self) -> None:
        self.name = type(self).__name__.lower()

    async def __aenter__(self) -> Any:
        log.append(f"opening {self.name}")
        if self.seconds:
            await asyncio.sleep(self.seconds)
        log.append(f"open {self.name}")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        log.append(f"closing {self.name}")
        if self.seconds:
            await asyncio.sleep(self.seconds)
        log.append(f"closed {self.name}")


class Pool(Part):
    pass


class Cache(Part):
    pass


class Repo:
    def __init__(self, pool: Pool, cache: Cache | None = None) -> None:
        self.pool, self.cache = pool, cache


class Worker(Part):
    def __init__(self, repo: Repo) -> None:
        super().__init__()
        self.repo = repo


class Application(LayerContainer):
    pool = providers.Resource(Pool)
    cache = providers.Resource(Cache)
    repo = providers.Singleton(Repo)
    worker = providers.Resource(Worker)


class Slow(Part):
    seconds = 0.05


async def test_parts_open_in_dependency_order_and_close_in_reverse() -> None:
    async with Application.build(Worker) as worker:
        assert worker.repo.pool is not None
        assert log.index("open pool") < log.index("opening worker")
        assert log.index("open cache") < log.index("opening worker")
        log.append("body")

    after = log[log.index("body") :]
    assert after[:3] == ["body", "closing worker", "closed worker"]
    assert sorted(after[3:]) == ["closed cache", "closed pool", "closing cache", "closing pool"]


async def test_independent_parts_open_and_close_side_by_side() -> None:
    class Left(Slow):
        pass

    class Right(Slow):
        pass

    async with Layer.merge(Layer.scoped(Left), Layer.scoped(Right)).build():
        assert log[:2] == ["opening left", "opening right"]
        log.clear()

    assert sorted(log[:2]) == ["closing left", "closing right"]


async def test_only_what_was_asked_for_is_started() -> None:
    async with Application.build(Pool):
        pass

    assert log == ["opening pool", "open pool", "closing pool", "closed pool"]


async def test_a_diamond_is_opened_once() -> None:
    class Left:
        def __init__(self, pool: Pool) -> None:
            self.pool = pool

    class Right:
        def __init__(self, pool: Pool) -> None:
            self.pool = pool

    pool = Layer.scoped(Pool)
    both = Layer.merge(Layer.factory(Left).provide(pool), Layer.factory(Right).provide(pool))
    async with both.build() as app:
        assert app.get(Left).pool is app.get(Right).pool

    assert log.count("open pool") == 1


async def test_a_failed_start_closes_what_is_open_and_names_the_path() -> None:
    class Broken:
        def __init__(self, worker: Worker) -> None:
            raise ValueError("no such table")

    class Sub(Application):
        broken = providers.Singleton(Broken)

    with pytest.raises(LayerStartError) as caught:
        async with Sub.build(Broken):
            pass

    assert log[-2:].count("closed pool") + log[-2:].count("closed cache") >= 1
    assert log.index("closed worker") < log.index("closing pool")
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.name == "broken"
    text = str(caught.value)
    assert "no such table" in text
    assert "test_layer_lifecycle.py:" in text
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_start_error_masks_addresses_in_what_it_repeats() -> None:
    address = "db://me:hunter2@host/x?token=hunter2"

    class Well:
        pass

    class House:
        pass

    async def open_pool() -> AsyncIterator[Well]:
        yield Well()
        raise OSError(f"cannot leave {address}")

    def refuse(pool: Well) -> House:
        raise OSError(f"cannot reach {address}")

    with pytest.raises(LayerStartError) as caught:
        await App(Layer.factory(House, refuse).provide(Layer.scoped(Well, open_pool))).start()

    error = caught.value
    said = "\n".join([str(error), *error.__notes__])
    assert "cannot reach db://me:***@host/x?token=***" in said
    assert "cannot leave db://me:***@host/x?token=***" in said
    assert "hunter" not in said
    assert str(error.__cause__) == f"cannot reach {address}"


async def test_a_failed_start_cancels_what_is_still_opening() -> None:
    class Broken:
        async def __aenter__(self) -> None:
            await asyncio.sleep(0.01)
            raise OSError("refused")

        async def __aexit__(self, *exc_info: object) -> None:
            log.append("closed broken")

    class Endless(Part):
        seconds = 30.0

    both = Layer.merge(Layer.scoped(Broken), Layer.scoped(Endless), Layer.scoped(Pool))
    with pytest.raises(LayerStartError, match="broken failed to start: OSError: refused"):
        async with both.build():
            pass

    assert "closed pool" in log
    assert "open endless" not in log
    assert "closed broken" not in log
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_part_that_opens_in_spite_of_being_cancelled_is_closed_again() -> None:
    class Stubborn(Part):
        async def __aenter__(self) -> Any:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(30)
            log.append("open stubborn")
            return self

    class Broken:
        async def __aenter__(self) -> None:
            await asyncio.sleep(0.01)
            raise OSError("refused")

        async def __aexit__(self, *exc_info: object) -> None: ...

    with pytest.raises(LayerStartError):
        async with Layer.merge(Layer.scoped(Stubborn), Layer.scoped(Broken)).build():
            pass

    assert log == ["open stubborn", "closing stubborn", "closed stubborn"]


async def test_cancelling_a_start_closes_everything_and_stays_a_cancellation() -> None:
    class Endless(Part):
        seconds = 30.0

        def __init__(self, pool: Pool) -> None:
            super().__init__()

    app = App(Layer.scoped(Endless).provide(Layer.scoped(Pool)))
    starting = asyncio.create_task(app.start())
    await logged("opening endless")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert log == ["opening pool", "open pool", "opening endless", "closing pool", "closed pool"]
    assert app.state == "closed"


async def test_a_timeout_around_a_start_is_a_timeout() -> None:
    class Endless(Part):
        seconds = 30.0

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), Layer.scoped(Endless).build():
            pass


async def test_cancelling_twice_does_not_stop_the_cleaning_up() -> None:
    class Endless(Part):
        seconds = 30.0

        def __init__(self, slow: Slow) -> None:
            super().__init__()

    app = App(Layer.scoped(Endless).provide(Layer.scoped(Slow)))
    starting = asyncio.create_task(app.start())
    await logged("opening endless")
    starting.cancel()
    await logged("closing slow")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert log[-1] == "closed slow"


async def test_every_teardown_error_is_reported_and_stops_nothing() -> None:
    class Bad(Part):
        async def __aexit__(self, *exc_info: object) -> None:
            await super().__aexit__(*exc_info)
            raise RuntimeError(f"{self.name} broke")

    class First(Bad):
        pass

    class Second(Bad):
        def __init__(self, first: First, pool: Pool) -> None:
            super().__init__()

    app = Layer.scoped(Second).provide(Layer.scoped(First), Layer.scoped(Pool))
    with pytest.raises(ExceptionGroup) as caught:
        async with app.build():
            pass

    assert [str(error) for error in caught.value.exceptions] == ["second broke", "first broke"]
    assert "while closing second, declared at " in caught.value.exceptions[0].__notes__[0]
    assert "closed pool" in log


async def test_opening_and_closing_happen_in_one_task() -> None:
    tasks: list[Any] = []

    @contextlib.asynccontextmanager
    async def open_pool() -> AsyncIterator[Pool]:
        tasks.append(asyncio.current_task())
        yield Pool()
        tasks.append(asyncio.current_task())

    async with Layer.scoped(Pool, open_pool).build():
        pass

    assert tasks[0] is tasks[1]
    assert tasks[0] is not asyncio.current_task()


async def test_an_anyio_task_group_works_as_a_resource() -> None:
    async with Layer.scoped(anyio.abc.TaskGroup, anyio.create_task_group).build() as app:
        group = app.get(anyio.abc.TaskGroup)
        done = anyio.Event()
        group.start_soon(asyncio.sleep, 0)

        async def work() -> None:
            done.set()

        group.start_soon(work)
        await done.wait()


async def test_a_task_group_whose_child_fails_reports_it_at_close(caplog: pytest.LogCaptureFixture) -> None:
    app = App(Layer.scoped(anyio.abc.TaskGroup, anyio.create_task_group))
    await app.start()

    async def fail() -> None:
        raise ValueError("child")

    app.get(anyio.abc.TaskGroup).start_soon(fail)
    await asyncio.sleep(0.01)
    assert "layer_ended_by_itself layer='task_group' error='ExceptionGroup'" in caplog.text
    with pytest.raises(ExceptionGroup) as caught:
        await app.close()

    assert caught.group_contains(ValueError, match="child")


async def test_a_contextvar_set_in_a_resource_stays_there() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")
    seen: list[str] = []

    @contextlib.asynccontextmanager
    async def open_pool() -> AsyncIterator[Pool]:
        token = variable.set("inside")
        yield Pool()
        seen.append(variable.get())
        variable.reset(token)

    def make_repo(pool: Pool) -> Repo:
        seen.append(variable.get())
        return Repo(pool)

    layer = Layer.factory(Repo, make_repo).provide(Layer.scoped(Pool, open_pool))
    async with layer.build(Repo):
        assert variable.get() == "outside"

    assert seen == ["outside", "inside"]


async def test_all_forms_of_a_resource_are_opened_and_closed() -> None:
    async def async_generator() -> AsyncIterator[str]:
        log.append("open 1")
        yield "async generator"
        log.append("close 1")

    def generator() -> Iterator[str]:
        log.append("open 2")
        yield "generator"
        log.append("close 2")

    async def awaitable() -> str:
        return "awaitable"

    async def awaitable_manager() -> contextlib.AbstractAsyncContextManager[str]:
        return contextlib.asynccontextmanager(async_generator)()

    def plain() -> str:
        return "plain"

    class Forms(LayerContainer):
        first = providers.Resource(async_generator)
        second = providers.Resource(generator)
        third = providers.Resource(awaitable)
        fourth = providers.Resource(awaitable_manager)
        fifth = providers.Resource(plain)
        sixth = providers.Singleton(awaitable)

    async with App(Forms) as app:
        values = [app.get(name) for name in ("first", "second", "third", "fourth", "fifth", "sixth")]

    assert values == ["async generator", "generator", "awaitable", "async generator", "plain", "awaitable"]
    assert sorted(log) == ["close 1", "close 1", "close 2", "open 1", "open 1", "open 2"]


async def test_a_generator_is_resumed_when_the_body_fails_and_gets_the_error() -> None:
    seen: list[BaseException | None] = []

    async def open_pool() -> Any:
        error = yield Pool()
        seen.append(error)
        log.append("cleaned up")

    with pytest.raises(ValueError, match="body"):
        async with Layer.scoped(Pool, open_pool).build(Pool):
            raise ValueError("body")

    assert log == ["cleaned up"]
    assert [str(error) for error in seen] == ["body"]


async def test_a_context_manager_sees_the_error_of_the_body() -> None:
    seen: list[Any] = []

    class Transaction:
        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *exc_info: object) -> bool:
            seen.append(exc_info[0])
            return True  # swallows nothing: the error belongs to the app

    with pytest.raises(ValueError, match="body"):
        async with Layer.scoped(Transaction).build(Transaction):
            raise ValueError("body")

    assert seen == [ValueError]


async def test_a_generator_that_yields_twice_is_an_error() -> None:
    async def twice() -> AsyncIterator[int]:
        yield 1
        yield 2

    with pytest.raises(ExceptionGroup) as caught:
        async with Layer.scoped(int, twice).build():
            pass

    assert "has to yield once" in str(caught.value.exceptions[0])


async def test_starting_twice_is_refused_and_closing_twice_is_nothing() -> None:
    app = App(Layer.scoped(Pool))
    await app.start()
    with pytest.raises(StateError, match="running and starts only once"):
        await app.start()
    await app.close()
    await app.close()
    with pytest.raises(StateError, match="closed"):
        await app.start()

    assert log.count("closed pool") == 1


async def test_an_app_that_never_started_can_be_closed() -> None:
    app = App(Layer.scoped(Pool))
    await app.close()

    assert log == []


async def test_closing_while_starting_fails_the_start_and_leaves_nothing_open() -> None:
    class Endless(Part):
        seconds = 30.0

        def __init__(self, pool: Pool) -> None:
            super().__init__()

    app = App(Layer.scoped(Endless).provide(Layer.scoped(Pool)))
    starting = asyncio.create_task(app.start())
    await logged("opening endless")
    await app.close()

    assert log[-1] == "closed pool"
    with pytest.raises(StateError, match="closed while it was starting"):
        await starting


async def test_two_closers_both_wait_for_the_end() -> None:
    app = App(Layer.scoped(Slow))
    await app.start()
    await asyncio.gather(app.close(), app.close())

    assert log[-1] == "closed slow"
    assert log.count("closing slow") == 1


async def test_a_service_is_asked_for_only_while_the_app_runs() -> None:
    app = App(Layer.scoped(Pool))
    with pytest.raises(StateError, match="the app is new"):
        app.get(Pool)
    async with app:
        assert isinstance(app.get(Pool), Pool)
    with pytest.raises(StateError, match="the app is closed"):
        app.get(Pool)


async def test_two_runs_of_one_layer_share_nothing() -> None:
    layer = Layer.scoped(Pool)
    async with layer.build(Pool) as first, layer.build(Pool) as second:
        assert first is not second


async def test_launch_runs_until_it_is_cancelled() -> None:
    running = asyncio.create_task(Layer.scoped(Pool).launch())
    await logged("open pool")
    assert log == ["opening pool", "open pool"]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert log[-1] == "closed pool"


async def test_an_app_that_is_forgotten_says_so() -> None:
    apps = [App(Layer.succeed(Pool, Pool()))]
    await apps[0].start()

    def forget() -> None:
        apps.clear()
        gc.collect()

    with pytest.warns(ResourceWarning, match="an app was never closed: <Layer of Pool"):
        forget()


async def test_the_lifecycle_is_logged_at_debug_level(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="agentlayers.layer"):
        async with Layer.scoped(Pool).build():
            pass

    events = [record.agentlayers["event"] for record in caplog.records]  # type: ignore[attr-defined]
    assert events == ["layer_started", "app_started", "layer_stopped", "app_stopped"]
    assert caplog.records[0].agentlayers["layer"] == "pool"  # type: ignore[attr-defined]


async def test_timings_tell_what_each_part_took() -> None:
    app = App(Layer.scoped(Slow))
    async with app:
        pass

    started, stopped = app.timings["slow"]
    assert started >= 0.04
    assert stopped is not None
    assert stopped >= 0.04
