"""A running app: overrides after the start, request scopes, refresh, health."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import pytest
from dependency_injector import providers

from agentlayers.errors import StateError
from agentlayers.layer import App, Layer, LayerContainer
from agentlayers.layer.errors import LayerStartError, LayerValidationError, ServiceNotFoundError

log: list[str] = []


class Pool:
    def __init__(self, name: str = "real") -> None:
        self.name = name

    async def __aenter__(self) -> Self:
        log.append(f"open {self.name}")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        log.append(f"close {self.name}")

    def health(self) -> str:
        return f"{self.name} is well"


class FakePool(Pool):
    def __init__(self, name: str = "fake") -> None:
        super().__init__(name)


class Clock:
    pass


class Repo:
    def __init__(self, pool: Pool, clock: Clock) -> None:
        self.pool, self.clock = pool, clock


class Worker:
    def __init__(self, repo: Repo) -> None:
        self.repo = repo

    async def __aenter__(self) -> Self:
        log.append(f"open worker of {self.repo.pool.name}")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        log.append(f"close worker of {self.repo.pool.name}")


class Session:
    made = 0

    def __init__(self, pool: Pool) -> None:
        type(self).made += 1
        self.pool = pool


class Transaction:
    def __init__(self, session: Session) -> None:
        self.session = session


class Handler:
    def __init__(self, session: Session, repo: Repo) -> None:
        self.session, self.repo = session, repo


async def open_transaction(session: Session) -> AsyncIterator[Transaction]:
    log.append("begin")
    error = yield Transaction(session)
    log.append("rollback" if error else "commit")


class Application(LayerContainer):
    pool: providers.Provider[Pool] = providers.Resource(Pool)
    clock = providers.Singleton(Clock)
    repo = providers.Singleton(Repo)
    handler = providers.Factory(Handler)
    session: providers.Provider[Session] = providers.ContextLocalSingleton(Session)
    transaction: providers.Provider[Transaction] = providers.ContextLocalResource(open_transaction)


class WithWorker(Application):
    worker = providers.Resource(Worker)


@pytest.fixture(autouse=True)
def nothing_yet() -> None:
    log.clear()
    Session.made = 0


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with App(Application) as running:
        yield running


# -- overrides after the start ----------------------------------------------------------------------------------


async def test_an_override_of_a_running_app_reaches_singletons_that_exist(app: App) -> None:
    real = app.get(Repo)
    fake = FakePool()
    with app.override(pool=fake):
        assert app.get(Pool) is fake
        assert app.get(Repo).pool is fake
        assert app.get(Repo) is app.get(Repo)
        assert app.get("repo") is app.get(Repo)
        assert app.get(Clock) is real.clock
    assert app.get(Repo) is real
    assert app.get(Pool).name == "real"


async def test_a_layer_works_too_and_overrides_nest(app: App) -> None:
    with app.override(pool=Layer.factory(Pool, FakePool, "outer")):
        outer = app.get(Repo)
        assert outer.pool.name == "outer"
        with app.override(clock=Layer.succeed(Clock, clock := Clock())):
            assert app.get(Repo).pool is outer.pool
            assert app.get(Repo).clock is clock
            with app.override(pool=FakePool("inner")):
                assert app.get(Repo).pool.name == "inner"
                assert app.get(Repo).clock is clock
        assert app.get(Repo) is outer


async def test_tasks_do_not_see_each_other_s_overrides(app: App) -> None:
    async def work(name: str) -> set[str]:
        seen = set()
        with app.override(pool=FakePool(name)):
            for _ in range(20):
                await asyncio.sleep(0)
                seen.add(app.get(Repo).pool.name)
        return seen

    async def look() -> set[str]:
        seen = set()
        for _ in range(20):
            await asyncio.sleep(0)
            seen.add(app.get(Repo).pool.name)
        return seen

    results = list(await asyncio.gather(work("a"), work("b"), look(), work("c")))

    assert results == [{"a"}, {"b"}, {"real"}, {"c"}]


async def test_a_task_started_inside_sees_the_override_and_a_thread_does_not(app: App) -> None:
    seen: list[str] = []
    with app.override(pool=FakePool()):
        thread = threading.Thread(target=lambda: seen.append(app.get(Repo).pool.name))
        thread.start()
        thread.join()
        seen.append(await asyncio.create_task(_name_of(app)))
        seen.append(await asyncio.to_thread(lambda: app.get(Repo).pool.name))

    assert seen == ["real", "fake", "fake"]


async def _name_of(app: App) -> str:
    return app.get(Repo).pool.name


async def test_overrides_that_end_out_of_order_end_only_themselves(app: App) -> None:
    first, second = app.override(pool=FakePool("first")), app.override(pool=FakePool("second"))
    with first:
        second.__enter__()
    assert app.get(Repo).pool.name == "second"
    second.__exit__(None, None, None)
    assert app.get(Repo).pool.name == "real"


async def test_what_is_opened_for_an_override_is_closed_with_it() -> None:
    async with App(WithWorker) as app:
        with pytest.raises(StateError, match="worker would have to be opened for this override; write async with"):
            app.override(pool=FakePool()).__enter__()
        log.clear()
        async with app.override(pool=Layer.scoped(Pool, FakePool)):
            assert app.get(Worker).repo.pool.name == "fake"
            assert log == ["open fake", "open worker of fake"]
        assert log[2:] == ["close worker of fake", "close fake"]
        assert app.get(Worker).repo.pool.name == "real"


async def test_closing_the_app_closes_what_an_override_has_open() -> None:
    app = App(WithWorker)
    await app.start()
    override = app.override(pool=Layer.scoped(Pool, FakePool))
    await override.__aenter__()
    log.clear()
    await app.close()

    assert log == ["close worker of fake", "close fake", "close worker of real", "close real"]
    await override.__aexit__(None, None, None)


async def test_configuration_of_a_running_app_is_overridden_with_what_depends_on_it() -> None:
    class Configured(LayerContainer):
        config = providers.Configuration(default={"name": "usual", "other": "kept"})
        pool = providers.Singleton(Pool, name=config.name)
        clock = providers.Singleton(Clock)

    async with App(Configured) as app:
        clock = app.get("clock")
        with app.override(config={"name": "changed"}):
            assert app.get("pool").name == "changed"
            assert app.get("clock") is clock
        assert app.get("pool").name == "usual"


async def test_a_failing_override_leaves_nothing_behind() -> None:
    def refuse() -> Pool:
        raise OSError("no")

    async with App(WithWorker) as app:
        with pytest.raises(LayerStartError):
            await app.override(pool=Layer.scoped(Pool, refuse)).__aenter__()
        assert app.get(Worker).repo.pool.name == "real"


async def test_a_wrong_override_of_a_running_app_is_refused(app: App) -> None:
    with pytest.raises(LayerValidationError, match="did you mean 'pool'"):
        app.override(poool=FakePool()).__enter__()
    with pytest.raises(LayerValidationError, match="expected a Pool, got a Clock"):
        app.override(pool=Clock()).__enter__()


async def test_overrides_at_the_start_stay_when_another_comes_later() -> None:
    with Application.override(pool=FakePool("from the start")):
        app = App(Application)
        await app.start()
    with app.override(clock=Clock()):
        assert app.get(Repo).pool.name == "from the start"
    assert app.get(Repo).pool.name == "from the start"
    await app.close()


async def test_layers_can_be_overridden_while_they_run() -> None:
    layer = Layer.factory(Repo).provide(Layer.scoped(Pool), Layer.factory(Clock))
    async with layer.build() as app:
        clock = app.get(Repo).clock
        with app.override(pool=FakePool()):
            assert app.get(Repo).pool.name == "fake"
            assert app.get(Repo).clock is clock


@pytest.mark.parametrize("seconds", [2.0, pytest.param(20.0, marks=pytest.mark.slow)])
async def test_threads_never_see_each_other_s_fakes(app: App, seconds: float) -> None:
    wrong: list[str] = []
    repos: set[int] = set()
    until = time.monotonic() + seconds

    def work(number: int) -> None:
        name = f"fake {number}"
        while time.monotonic() < until:
            repos.add(id(app.get(Repo)))
            with app.override(pool=FakePool(name)):
                for _ in range(20):
                    seen = app.get(Repo).pool.name
                    if seen != name:
                        wrong.append(f"{name} saw {seen}")
            if app.get(Repo).pool.name != "real":
                wrong.append(f"{name} saw a fake outside")

    def work_in_scope(number: int) -> None:
        while time.monotonic() < until:
            with app.scope() as request:
                if request.get(Handler).session is not request.get(Session):
                    wrong.append("a session of another request")

    threads = [threading.Thread(target=work_in_scope if n > 5 else work, args=(n,)) for n in (0, 2, 4, 5, 6, 7, 8, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)

    assert wrong == []
    assert len(repos) == 1


# -- requests ---------------------------------------------------------------------------------------------------


async def test_a_request_has_one_of_each_and_shares_the_app_s(app: App) -> None:
    with app.scope() as request:
        handler = request.get(Handler)
        assert handler.session is request.get(Session)
        assert request.get("session") is handler.session
        assert request.get(Handler) is not handler
        assert request.get(Handler).session is handler.session
        assert handler.repo is app.get(Repo)
        assert app.get(Session) is handler.session
    with app.scope() as request:
        assert request.get(Session) is not handler.session
    assert Session.made == 2


async def test_a_request_s_part_outside_a_request_is_refused(app: App) -> None:
    with pytest.raises(StateError, match="session belongs to a request"):
        app.get(Handler)
    with app.scope() as request:
        pass
    with pytest.raises(StateError, match="the scope is not open"):
        request.get(Session)
    with request, pytest.raises(StateError, match="open already"):
        request.__enter__()


async def test_concurrent_requests_are_apart(app: App) -> None:
    async def handle() -> tuple[Any, Any]:
        with app.scope() as request:
            first = request.get(Session)
            await asyncio.sleep(0)
            return first, app.get(Session)

    pairs = await asyncio.gather(*(handle() for _ in range(10)))

    assert all(first is second for first, second in pairs)
    assert len({id(first) for first, _ in pairs}) == 10


async def test_a_request_s_resource_is_opened_when_asked_for_and_closed_at_the_end(app: App) -> None:
    async with app.scope(Transaction) as request:
        transaction = request.get(Transaction)
        assert transaction.session is request.get(Session)
        assert log[-1] == "begin"
    assert log[-1] == "commit"
    with pytest.raises(ValueError, match="body"):
        async with app.scope(Transaction):
            raise ValueError("body")
    assert log[-1] == "rollback"


async def test_a_resource_that_was_not_asked_for_is_not_opened(app: App) -> None:
    async with app.scope() as request:
        with pytest.raises(StateError, match=r"transaction has to be opened for the request"):
            request.get(Transaction)
    with pytest.raises(StateError, match="write async with"), app.scope(Transaction):
        pass
    assert "begin" not in log


async def test_a_layer_can_be_the_request(app: App) -> None:
    class Unit:
        def __init__(self, repo: Repo, session: Session) -> None:
            self.repo, self.session = repo, session

    using = Layer.factory(Unit).provide_merge(Layer.factory(Session))
    units = []
    for _ in range(2):
        with app.scope(using=using) as request:
            unit = request.get(Unit)
            assert unit is request.get(Unit)
            assert unit.session is request.get(Session)
            assert unit.repo is app.get(Repo)
            assert request.get("clock") is app.get(Clock)
            units.append(unit)
    assert units[0] is not units[1]


async def test_a_request_layer_may_have_resources(app: App) -> None:
    using = Layer.scoped(Transaction, open_transaction).provide(Layer.factory(Session))
    async with app.scope(Transaction, using=using) as request:
        assert request.get(Transaction).session.pool is app.get(Pool)
    assert log[-2:] == ["begin", "commit"]


async def test_a_request_layer_that_needs_too_much_is_refused(app: App) -> None:
    class Unit:
        def __init__(self, worker: Worker) -> None: ...

    with pytest.raises(LayerValidationError, match="nothing offers Worker"):
        app.scope(using=Layer.factory(Unit))


async def test_a_request_sees_the_override_of_its_task(app: App) -> None:
    with app.override(pool=FakePool()), app.scope() as request:
        assert request.get(Handler).repo.pool.name == "fake"
        assert request.get(Session).pool.name == "fake"
    with app.scope() as request:
        assert request.get(Session).pool.name == "real"


async def test_plain_dependency_injector_calls_see_the_request(app: App) -> None:
    with app.scope() as request:
        assert app.container.handler().session is request.get(Session)


# -- refresh ----------------------------------------------------------------------------------------------------


async def test_refresh_builds_a_part_and_its_dependents_anew() -> None:
    async with App(WithWorker) as app:
        pool, clock, repo = app.get(Pool), app.get(Clock), app.get(Repo)
        log.clear()
        await app.refresh(Pool)
        assert app.get(Pool) is not pool
        assert app.get(Repo) is not repo
        assert app.get(Repo).pool is app.get(Pool)
        assert app.get(Clock) is clock
        assert log == ["open real", "open worker of real", "close worker of real", "close real"]
        log.clear()
    assert log == ["close worker of real", "close real"]


async def test_refresh_of_a_leaf_leaves_the_rest_alone() -> None:
    async with App(WithWorker) as app:
        pool = app.get(Pool)
        log.clear()
        await app.refresh("worker")
        assert app.get(Pool) is pool
        assert log == ["open worker of real", "close worker of real"]


async def test_a_request_under_way_keeps_the_old_parts_until_it_ends(app: App) -> None:
    with app.scope() as request:
        old = request.get(Session).pool
        log.clear()
        refreshing = asyncio.create_task(app.refresh("pool"))
        async with asyncio.timeout(20):
            while app.get(Pool) is old:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)
        assert log == ["open real"]
        assert request.get(Handler).repo.pool is old
        assert app.get(Pool) is not old
        with app.scope() as second:
            assert second.get(Session).pool is app.get(Pool)
    await refreshing
    assert log == ["open real", "close real"]


async def test_a_failed_refresh_leaves_the_old_parts_running() -> None:
    attempts: list[int] = []

    def open_pool() -> Iterator[Pool]:
        attempts.append(1)
        if len(attempts) == 2:
            raise OSError("second time unlucky")
        yield Pool()

    async with Layer.scoped(Pool, open_pool).build() as app:
        pool = app.get(Pool)
        with pytest.raises(LayerStartError, match="second time unlucky"):
            await app.refresh(Pool)
        assert app.get(Pool) is pool
        await app.refresh(Pool)
        assert app.get(Pool) is not pool


async def test_refresh_of_something_unknown_is_refused(app: App) -> None:
    with pytest.raises(ServiceNotFoundError):
        await app.refresh("poool")


async def test_health_asks_those_who_can_say(app: App) -> None:
    assert await app.health() == {"pool": "real is well"}
