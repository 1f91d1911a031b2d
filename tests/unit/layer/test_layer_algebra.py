"""What layers mean when they are put together; the list of cases follows Effect's own tests of its layers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentlayers.errors import UsageError
from agentlayers.layer import App, Layer
from agentlayers.layer.errors import (
    DuplicateServiceError,
    LayerStartError,
    LayerValidationError,
    MissingServiceError,
)
from agentlayers.layer.mock import UnimplementedError


class Pool:
    made = 0

    def __init__(self, url: str = "default") -> None:
        type(self).made += 1
        self.url = url

    def fetch(self) -> str:
        return self.url


class Clock:
    def now(self) -> float:
        return 0.0

    def sleep(self) -> None: ...


class Repo:
    def __init__(self, pool: Pool, clock: Clock | None = None) -> None:
        self.pool, self.clock = pool, clock


class Service:
    def __init__(self, repo: Repo, pool: Pool) -> None:
        self.repo, self.pool = repo, pool


@pytest.fixture(autouse=True)
def none_made() -> None:
    Pool.made = 0


async def test_succeed_gives_the_value_itself() -> None:
    pool = Pool()
    async with Layer.succeed(Pool, pool).build(Pool) as built:
        assert built is pool


async def test_factory_calls_once_and_takes_positional_and_named_arguments() -> None:
    async with Layer.factory(Pool, Pool, "there").build() as app:
        assert app.get(Pool).url == "there"
        assert app.get(Pool) is app.get(Pool)
    async with Layer.factory(Pool, Pool, url="named").build(Pool) as pool:
        assert pool.url == "named"


async def test_provide_feeds_and_hides() -> None:
    layer = Layer.factory(Repo).provide(Layer.factory(Pool))
    assert layer.outputs == (Repo,)
    async with layer.build() as app:
        assert app.get(Repo).pool.url == "default"
        with pytest.raises(Exception, match="offers no Pool"):
            app.get(Pool)


async def test_provide_merge_feeds_and_shows() -> None:
    layer = Layer.factory(Repo).provide_merge(Layer.factory(Pool))
    assert layer.outputs == (Repo, Pool)
    async with layer.build() as app:
        assert app.get(Repo).pool is app.get(Pool)


async def test_merge_does_not_feed() -> None:
    with pytest.raises(LayerValidationError) as caught:
        async with Layer.merge(Layer.factory(Repo), Layer.factory(Pool)).build():
            pass

    assert isinstance(caught.value.problems[0], MissingServiceError)


async def test_merge_works_on_the_class_and_on_a_layer() -> None:
    pool, clock = Layer.factory(Pool), Layer.factory(Clock)

    assert Layer.merge(pool, clock).outputs == pool.merge(clock).outputs == (Pool, Clock)
    assert Layer.merge_all(pool, clock).outputs == (Pool, Clock)


async def test_what_is_provided_together_does_not_feed_each_other_but_chains_do() -> None:
    flat = Layer.factory(Service).provide(Layer.factory(Repo), Layer.factory(Pool))
    with pytest.raises(LayerValidationError, match="nothing offers Pool"):
        App(flat).check()

    chained = Layer.factory(Service).provide(Layer.factory(Repo)).provide(Layer.factory(Pool))
    async with chained.build(Service) as service:
        assert service.repo.pool is service.pool
    assert Pool.made == 1


async def test_the_inner_provide_wins() -> None:
    layer = Layer.factory(Repo).provide(Layer.factory(Pool, url="inner")).provide(Layer.factory(Pool, url="outer"))
    async with layer.build(Repo) as repo:
        assert repo.pool.url == "inner"
    assert Pool.made == 1


async def test_an_optional_need_is_wired_when_it_is_there() -> None:
    without = Layer.factory(Repo).provide(Layer.factory(Pool))
    with_clock = without.provide(Layer.factory(Clock))
    async with without.build(Repo) as repo:
        assert repo.clock is None
    async with with_clock.build(Repo) as repo:
        assert isinstance(repo.clock, Clock)


async def test_the_same_value_is_shared_and_equal_values_are_not() -> None:
    pool = Layer.factory(Pool)
    shared = Layer.factory(Service).provide(Layer.factory(Repo).provide(pool), pool)
    async with shared.build(Service) as service:
        assert service.repo.pool is service.pool

    apart = Layer.factory(Service).provide(Layer.factory(Repo).provide(Layer.factory(Pool)), Layer.factory(Pool))
    async with apart.build(Service) as service:
        assert service.repo.pool is not service.pool


async def test_the_same_value_with_other_dependencies_is_not_shared() -> None:
    class A:
        def __init__(self, repo: Repo) -> None:
            self.repo = repo

    class B:
        def __init__(self, repo: Repo) -> None:
            self.repo = repo

    repo = Layer.factory(Repo)
    layer = Layer.merge(
        Layer.factory(A).provide(repo.provide(Layer.factory(Pool, url="a"))),
        Layer.factory(B).provide(repo.provide(Layer.factory(Pool, url="b"))),
    )
    async with layer.build() as app:
        assert (app.get(A).repo.pool.url, app.get(B).repo.pool.url) == ("a", "b")


async def test_fresh_opts_out_of_sharing() -> None:
    pool = Layer.factory(Pool)
    layer = Layer.factory(Service).provide(Layer.factory(Repo).provide(pool.fresh()), pool)
    async with layer.build(Service) as service:
        assert service.repo.pool is not service.pool
    assert Pool.made == 2


async def test_fresh_makes_anew_all_that_the_layer_brings() -> None:
    pool = Layer.factory(Pool)
    repo = Layer.factory(Repo).provide_merge(pool)
    layer = Layer.factory(Service).provide(repo.fresh()).provide(pool)
    async with layer.build(Service) as service:
        assert service.repo.pool is service.pool
    assert Pool.made == 1  # the outer pool is not needed by anything


async def test_a_layer_given_as_an_argument_is_private() -> None:
    pool = Layer.factory(Pool)
    layer = Layer.factory(Service, Service, repo=Layer.factory(Repo, Repo, pool=pool), pool=pool)
    async with layer.build(Service) as service:
        assert service.repo.pool is not service.pool


async def test_layers_inside_lists_become_parts() -> None:
    class Group:
        def __init__(self, pools: list[Pool], named: dict[str, Pool]) -> None:
            self.pools, self.named = pools, named

    layer = Layer.factory(
        Group,
        pools=[Layer.factory(Pool, url="1"), Layer.factory(Pool, url="2")],
        named={"three": Layer.factory(Pool, url="3")},
    )
    async with layer.build(Group) as group:
        assert [pool.url for pool in group.pools] == ["1", "2"]
        assert group.named["three"].url == "3"


async def test_two_offers_of_one_service_side_by_side_are_refused() -> None:
    with pytest.raises(LayerValidationError) as caught:
        App(Layer.merge(Layer.factory(Pool), Layer.factory(Pool))).check()

    assert isinstance(caught.value.problems[0], DuplicateServiceError)
    assert "test_layer_algebra.py" in str(caught.value)
    with pytest.raises(LayerValidationError, match="Pool is provided twice at once"):
        App(Layer.factory(Repo).provide(Layer.factory(Pool), Layer.factory(Pool))).check()


async def test_tap_sees_the_service_before_dependents_are_made() -> None:
    seen: list[str] = []

    async def look(pool: Pool) -> None:
        await asyncio.sleep(0)
        seen.append(f"tap {pool.url}")

    def make(pool: Pool) -> Repo:
        seen.append("repo")
        return Repo(pool)

    async with Layer.factory(Repo, make).provide(Layer.factory(Pool).tap(look)).build(Repo) as repo:
        assert repo.pool.url == "default"

    assert seen == ["tap default", "repo"]


async def test_a_tap_that_fails_fails_the_start() -> None:
    def look(pool: Pool) -> None:
        raise ValueError("not good enough")

    with pytest.raises(LayerStartError, match="not good enough"):
        async with Layer.factory(Pool).tap(look).build():
            pass


async def test_tap_of_several_services_gets_all_of_them() -> None:
    seen: list[Any] = []
    both = Layer.merge(Layer.factory(Pool), Layer.factory(Clock)).tap(lambda pool, clock: seen.extend([pool, clock]))
    async with both.build() as app:
        assert seen == [app.get(Pool), app.get(Clock)]


class RefusedError(Exception):
    pass


def _refuse() -> Pool:
    raise RefusedError("no")


async def test_catch_builds_the_substitute() -> None:
    layer = Layer.factory(Pool, _refuse).catch(lambda error: Layer.factory(Pool, url=f"instead: {error}"))
    async with Layer.factory(Repo).provide(layer).build(Repo) as repo:
        assert repo.pool.url == "instead: no"


async def test_catch_of_a_layer_that_works_changes_nothing() -> None:
    closed: list[str] = []

    async def open_pool(clock: Clock) -> AsyncIterator[Pool]:
        yield Pool(url="first")
        closed.append("pool")

    caught = Layer.scoped(Pool, open_pool).catch(lambda _error: Layer.factory(Pool))
    async with caught.provide(Layer.factory(Clock)).build(Pool) as pool:
        assert pool.url == "first"
        assert closed == []

    assert closed == ["pool"]


async def test_catch_takes_only_the_errors_it_names() -> None:
    layer = Layer.factory(Pool, _refuse).catch(lambda _error: Layer.factory(Pool), errors=OSError)
    with pytest.raises(LayerStartError) as caught:
        async with layer.build():
            pass

    cause: BaseException | None = caught.value
    while isinstance(cause, LayerStartError):
        cause = cause.__cause__
    assert isinstance(cause, RefusedError)


async def test_catch_closes_what_the_failed_layer_had_opened() -> None:
    log: list[str] = []

    async def open_clock() -> AsyncIterator[Clock]:
        log.append("open clock")
        yield Clock()
        log.append("close clock")

    def refuse(clock: Clock) -> Pool:
        raise RefusedError

    def instead(_error: Exception) -> Layer:
        log.append("instead")
        return Layer.factory(Pool)

    async with Layer.factory(Pool, refuse).provide(Layer.scoped(Clock, open_clock)).catch(instead).build(Pool):
        pass

    assert log == ["open clock", "close clock", "instead"]


async def test_the_substitute_may_need_what_the_failed_layer_needed() -> None:
    def refuse(clock: Clock) -> Pool:
        raise RefusedError

    def from_clock(clock: Clock) -> Pool:
        return Pool(url=str(clock.now()))

    layer = Layer.factory(Pool, refuse).catch(lambda _error: Layer.factory(Pool, from_clock))
    async with layer.provide(Layer.factory(Clock)).build(Pool) as pool:
        assert pool.url == "0.0"


async def test_what_catch_guards_is_validated_too() -> None:
    guarded = Layer.factory(Repo).catch(lambda _error: Layer.mock(Repo))
    with pytest.raises(LayerValidationError, match="nothing offers Pool"):
        App(guarded).check()


async def test_suspend_is_written_down_once_and_late() -> None:
    made: list[int] = []

    def make() -> Layer:
        made.append(1)
        return Layer.factory(Pool)

    layer = Layer.suspend(make)
    assert made == []
    async with Layer.factory(Service).provide(Layer.factory(Repo).provide(layer), layer).build(Service) as service:
        assert service.repo.pool is service.pool

    assert made == [1]


async def test_unwrap_chooses_a_layer_while_starting() -> None:
    async def choose(clock: Clock) -> Layer:
        return Layer.factory(Pool, url=f"chosen at {clock.now()}")

    layer = Layer.factory(Repo).provide(Layer.unwrap(Pool, choose)).provide(Layer.factory(Clock))
    async with layer.build(Repo) as repo:
        assert repo.pool.url == "chosen at 0.0"


async def test_what_unwrap_chooses_may_need_what_it_was_given() -> None:
    def timed(clock: Clock) -> Pool:
        return Pool(url=str(clock.now()))

    def choose(clock: Clock) -> Layer:
        return Layer.factory(Pool, timed)

    async with Layer.unwrap(Pool, choose).provide(Layer.factory(Clock)).build(Pool) as pool:
        assert pool.url == "0.0"


async def test_a_mock_has_only_what_it_was_given() -> None:
    async with Layer.mock(Clock, now=lambda: 5.0).build(Clock) as clock:
        assert isinstance(clock, Clock)
        assert clock.now() == 5.0
        with pytest.raises(UnimplementedError, match="the mock of Clock has no 'sleep'"):
            clock.sleep()
        with pytest.raises(AttributeError):
            clock.unheard_of  # type: ignore[attr-defined] # noqa: B018


def test_a_misspelt_attribute_of_a_mock_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'sleep'"):
        Layer.mock(Clock, slep=lambda: None)


def test_what_is_no_layer_is_refused_where_it_is_written() -> None:
    with pytest.raises(UsageError, match="takes layers"):
        Layer.factory(Repo).provide(Pool)  # type: ignore[arg-type]


def test_layers_are_immutable_and_know_where_they_were_written() -> None:
    layer = Layer.factory(Pool)

    with pytest.raises(AttributeError):
        layer.declared_at = None  # type: ignore[misc,assignment]
    assert "test_layer_algebra.py" in str(layer.declared_at)
    assert "Pool" in repr(layer)


class Recipes:
    @staticmethod
    def layer_pool() -> Layer:
        return Layer.factory(Pool)


def test_a_recipe_is_declared_where_it_is_called() -> None:
    here = Layer.factory(Pool).declared_at.line
    layer = Recipes.layer_pool()

    assert layer.declared_at.line == here + 1


async def test_a_chain_of_a_thousand_layers_is_put_together_without_recursion() -> None:
    class Link:
        def __init__(self, before: Any = None) -> None:
            self.before = before

    layer = Layer.factory(Link)
    for _ in range(1000):
        layer = Layer.factory(Link, Link, before=layer)
    async with layer.build(Link) as link:
        length = 0
        while link.before is not None:
            link, length = link.before, length + 1

    assert length == 1000


# -- sharing among apps ---------------------------------------------------------------------------------------


def _counted(log: list[str]) -> Layer:
    async def open_pool() -> AsyncIterator[Pool]:
        log.append("open")
        yield Pool()
        log.append("close")

    return Layer.scoped(Pool, open_pool)


async def test_two_apps_share_a_shared_layer_and_the_last_one_closes_it() -> None:
    log: list[str] = []
    pool = _counted(log).shared()
    first, second = App(Layer.factory(Repo).provide(pool)), App(pool)
    await asyncio.gather(first.start(), second.start())
    assert first.get(Repo).pool is second.get(Pool)
    await first.close()
    assert log == ["open"]
    assert second.get(Pool) is not None
    await second.close()
    assert log == ["open", "close"]
    async with pool.build(Pool):
        assert log == ["open", "close", "open"]
    assert log[-1] == "close"


async def test_a_plain_layer_is_not_shared_between_apps() -> None:
    log: list[str] = []
    pool = _counted(log)
    async with pool.build(Pool) as first, pool.build(Pool) as second:
        assert first is not second
    assert log == ["open", "open", "close", "close"]


async def test_a_shared_layer_that_fails_can_be_tried_again() -> None:
    attempts: list[int] = []

    def make() -> Pool:
        attempts.append(1)
        if len(attempts) == 1:
            raise RefusedError
        return Pool()

    pool = Layer.factory(Pool, make).shared()
    with pytest.raises(LayerStartError):
        await App(pool).start()
    async with pool.build(Pool):
        pass
    assert len(attempts) == 2


async def test_a_shared_layer_has_to_bring_all_it_needs() -> None:
    with pytest.raises(LayerValidationError, match="nothing offers Pool"):
        App(Layer.factory(Repo).shared().provide(Layer.factory(Pool))).check()
