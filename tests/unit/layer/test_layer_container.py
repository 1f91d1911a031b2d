"""Declarative containers: what a subclass replaces, every dependent uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dependency_injector import containers, providers

from agentlayers.errors import UsageError
from agentlayers.layer import App, Layer, LayerContainer, graph_of
from agentlayers.layer.errors import AmbiguousServiceError, LayerValidationError


class Pool:
    def __init__(self, url: str = "none") -> None:
        self.url = url


class OtherPool(Pool):
    pass


class CachedPool(Pool):
    def __init__(self, inner: Pool) -> None:
        super().__init__(f"cached {inner.url}")
        self.inner = inner


class Repo:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool


class Service:
    def __init__(self, repo: Repo, pool: Pool) -> None:
        self.repo, self.pool = repo, pool


class Base(LayerContainer):
    config = providers.Configuration(default={"url": "base", "deep": {"size": 3}})
    pool: providers.Provider[Pool] = providers.Singleton(Pool, url=config.url)
    repo: providers.Provider[Repo] = providers.Singleton(Repo, pool=pool)
    service: providers.Provider[Service] = providers.Singleton(Service)


class Replaced(Base):
    pool = providers.Singleton(OtherPool, url=Base.config.url)


class Configured(Replaced):
    config = providers.Configuration(default={"url": "configured"})


class Wrapping(Configured):
    pool = providers.Singleton(CachedPool, inner=Base.pool)


async def test_a_replaced_slot_reaches_explicit_and_wired_dependents() -> None:
    async with Replaced.build(Service) as service:
        assert type(service.pool) is OtherPool
        assert service.repo.pool is service.pool
        assert service.pool.url == "base"


async def test_a_replaced_configuration_reaches_inherited_slots() -> None:
    async with Configured.build(Service) as service:
        assert type(service.pool) is OtherPool
        assert service.pool.url == "configured"


async def test_a_slot_that_refers_to_itself_wraps_its_predecessor() -> None:
    async with Wrapping.build(Service) as service:
        assert isinstance(service.pool, CachedPool)
        assert type(service.pool.inner) is OtherPool
        assert service.pool.url == "cached configured"
        assert service.repo.pool is service.pool


async def test_the_base_is_not_changed_by_its_subclasses() -> None:
    async with Base.build(Service) as service:
        assert type(service.pool) is Pool
        assert service.pool.url == "base"


def test_plain_instances_are_rebound_too() -> None:
    container: Any = Wrapping()

    assert container.repo().pool is container.pool()
    assert container.pool().url == "cached configured"


async def test_several_bases_follow_the_method_resolution_order() -> None:
    class Urls(Base):
        config = providers.Configuration(default={"url": "mixed"})

    class Both(Replaced, Urls):
        pass

    async with Both.build(Service) as service:
        assert type(service.pool) is OtherPool
        assert service.pool.url == "mixed"


def test_slots_that_would_need_each_other_in_a_circle_are_refused_at_once() -> None:
    with pytest.raises(LayerValidationError, match=r"repo -> pool -> repo|pool -> repo -> pool"):

        class Circle(Base):
            pool = providers.Singleton(Pool, url=Base.repo)


async def test_nested_containers_follow_a_replacement() -> None:
    class Database(containers.DeclarativeContainer):
        url = providers.Dependency(instance_of=str)
        pool = providers.Singleton(Pool, url=url)

    class OtherDatabase(containers.DeclarativeContainer):
        url = providers.Dependency(instance_of=str)
        pool = providers.Singleton(OtherPool, url=url)

    class Outer(LayerContainer):
        url = providers.Object("nested")
        database = providers.Container(Database, url=url)
        repo = providers.Singleton(Repo, pool=database.pool)

    class Inner(Outer):
        database: Any = providers.Container(OtherDatabase, url=Outer.url)

    async with Outer.build(Repo) as repo:
        assert (type(repo.pool), repo.pool.url) == (Pool, "nested")
    async with Inner.build(Repo) as repo:
        assert (type(repo.pool), repo.pool.url) == (OtherPool, "nested")


async def test_a_nested_container_of_ours_is_wired_inside() -> None:
    class Database(LayerContainer):
        pool: providers.Provider[Pool] = providers.Singleton(Pool, url="inside")
        repo = providers.Singleton(Repo)

    class Outer(LayerContainer):
        database = providers.Container(Database)
        service = providers.Singleton(Service, repo=database.repo, pool=database.pool)

    async with Outer.build(Service) as service:
        assert service.repo.pool is service.pool
    assert "database.pool" in graph_of(Outer).nodes


def test_a_plain_value_in_place_of_a_slot_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"Wrong.pool is a slot and takes a provider, not Pool; write providers.Object"
    ):

        class Wrong(Base):
            pool = Pool()  # type: ignore[assignment]

    with pytest.raises(UsageError, match=r"not PrimitiveLayer; use it as Container.layer"):

        class AlsoWrong(Base):
            pool = Layer.factory(Pool)  # type: ignore[assignment]


async def test_all_plain_providers_work_inside() -> None:
    class Everything(LayerContainer):
        config = providers.Configuration(default={"mode": "b", "size": "5"})
        number = providers.Object(3)
        pool = providers.Resource(Pool, url="resource")
        call = providers.Callable(lambda pool, size: f"{pool.url}{size}", pool, config.size.as_int())
        listed = providers.List(number, pool.provided.url, "text")
        mapped = providers.Dict(pool=pool, n=number)
        chosen = providers.Selector(config.mode, a=providers.Object("a"), b=pool)
        made = providers.Factory(Repo, pool=pool)
        maker = providers.Object(made.provider)
        needed = providers.Dependency(instance_of=Pool, default=pool)
        upper = pool.provided.url.upper.call()
        aggregate = providers.FactoryAggregate(repo=made)

    async with App(Everything) as app:
        pool = app.get("pool")
        assert app.get("call") == "resource5"
        assert app.get("listed") == [3, "resource", "text"]
        assert app.get("mapped") == {"pool": pool, "n": 3}
        assert app.get("chosen") is pool
        assert app.get("made").pool is pool
        assert app.get("made") is not app.get("made")
        assert app.get("needed") is pool
        assert app.get("upper") == "RESOURCE"


async def test_a_selector_opens_only_the_chosen_branch() -> None:
    opened: list[str] = []

    def branch(name: str) -> Any:
        def open_it() -> Any:
            opened.append(name)
            yield name

        return open_it

    class Choosing(LayerContainer):
        config = providers.Configuration(default={"mode": "b"})
        a = providers.Resource(branch("a"))
        b = providers.Resource(branch("b"))
        chosen = providers.Selector(config.mode, a=a, b=b)

    async with App(Choosing, "chosen") as app:
        assert app.get("chosen") == "b"
    assert opened == ["b"]


async def test_an_undefined_dependency_is_refused_with_its_name() -> None:
    class Needing(LayerContainer):
        pool = providers.Dependency(instance_of=Pool)
        repo = providers.Singleton(Repo, pool=pool)

    with pytest.raises(LayerValidationError, match="pool is not defined: nothing offers a Pool"):
        App(Needing).check()
    async with Needing.layer(pool=Pool("given")).build() as app:
        assert app.get("repo").pool.url == "given"


# -- a container as a layer -----------------------------------------------------------------------------------


async def test_provide_replaces_a_slot_by_service_type() -> None:
    layer = Base.layer(outputs=(Service,)).provide(Layer.factory(Pool, OtherPool, url="provided"))
    async with layer.build(Service) as service:
        assert service.pool.url == "provided"
        assert service.repo.pool is service.pool


async def test_outputs_are_services_or_slot_names() -> None:
    async with Base.layer(("service", Pool)).build() as app:
        assert app.get(Service).pool is app.get(Pool)
    with pytest.raises(LayerValidationError, match="did you mean 'service'"):
        Base.layer(("servce",))
    with pytest.raises(UsageError, match="slot 'config' of Base promises no service"):
        Base.layer(("config",))


async def test_provide_of_a_subclass_replaces_the_slot_of_its_base() -> None:
    layer = Base.layer(outputs=(Service,)).provide(Layer.factory(OtherPool, url="provided"))
    async with layer.build(Service) as service:
        assert type(service.pool) is OtherPool


async def test_slots_are_replaced_by_name_with_layers_providers_and_values() -> None:
    async with Base.layer((Service,), pool=Layer.factory(Pool, url="layer")).build(Service) as service:
        assert service.repo.pool.url == "layer"
    async with Base.layer((Service,), pool=providers.Singleton(OtherPool, url=Base.config.url)).build() as app:
        assert app.get(Service).repo.pool.url == "base"
    given = Pool("value")
    async with Base.layer((Service,), pool=given).build(Service) as service:
        assert service.repo.pool is given


async def test_what_replaces_a_slot_may_need_other_slots() -> None:
    def from_slots(pool: Pool) -> Repo:
        repo = Repo(pool)
        repo.made_here = True  # type: ignore[attr-defined]
        return repo

    by_name = Base.layer((Service,), repo=Layer.factory(Repo, from_slots))
    by_type = Base.layer((Service,)).provide(Layer.factory(Repo, from_slots))
    for layer in (by_name, by_type):
        async with layer.build(Service) as service:
            assert service.repo.made_here  # type: ignore[attr-defined]
            assert service.repo.pool is service.pool
    assert graph_of(by_name) == graph_of(by_type)


async def test_what_a_slot_layer_brings_privately_stays_with_it() -> None:
    layer = Base.layer((Service,), repo=Layer.factory(Repo).provide(Layer.factory(Pool, url="private")))
    async with layer.build(Service) as service:
        assert (service.repo.pool.url, service.pool.url) == ("private", "base")

    class Same(Base):
        repo = providers.Singleton(Repo, pool=providers.Singleton(Pool, url="private"))

    assert graph_of(layer) == graph_of(Same)
    assert "repo.pool" in graph_of(layer).nodes


async def test_a_layer_that_brings_several_services_fills_their_slots() -> None:
    layer = Base.layer((Service,), repo=Layer.factory(Repo).provide_merge(Layer.factory(Pool, url="brought")))
    async with layer.build(Service) as service:
        assert service.pool.url == "brought"
        assert service.repo.pool is service.pool


async def test_an_explicit_slot_wins_over_what_is_provided() -> None:
    layer = Base.layer((Service,), pool=Pool("explicit")).provide(Layer.factory(Pool, url="provided"))
    async with layer.build(Service) as service:
        assert service.pool.url == "explicit"


async def test_two_containers_share_a_layer_value() -> None:
    class First(LayerContainer):
        pool: providers.Provider[Pool] = providers.Singleton(Pool)
        repo: providers.Provider[Repo] = providers.Singleton(Repo)

    class Holder:
        def __init__(self, pool: Pool) -> None:
            self.pool = pool

    class Second(LayerContainer):
        pool: providers.Provider[Pool] = providers.Singleton(Pool)
        holder: providers.Provider[Holder] = providers.Singleton(Holder)

    shared = Layer.factory(Pool, url="shared")
    both = Layer.merge(First.layer((Repo,)), Second.layer((Holder,))).provide(shared)
    async with both.build() as app:
        assert app.get(Repo).pool is app.get(Holder).pool
        assert app.get(Repo).pool.url == "shared"


def test_two_slots_of_one_service_are_filled_by_name_only() -> None:
    class Two(LayerContainer):
        primary: providers.Provider[Pool] = providers.Singleton(Pool, url="primary")
        standby: providers.Provider[Pool] = providers.Singleton(Pool, url="standby")
        repo = providers.Singleton(Repo, pool=primary)

    class Wired(Two):
        repo = providers.Singleton(Repo)

    with pytest.raises(LayerValidationError, match="could fill several slots of Two: primary, standby"):
        App(Two.layer((Repo,)).provide(Layer.factory(Pool))).check()
    with pytest.raises(LayerValidationError) as caught:
        App(Wired).check()
    (problem,) = caught.value.problems
    assert isinstance(problem, AmbiguousServiceError)
    assert problem.origin is not None
    assert f"declared at {problem.origin}" in str(problem)
    written = Path(problem.origin.file).read_text("utf-8").splitlines()[problem.origin.line - 1]
    assert written.strip() == "repo = providers.Singleton(Repo)"


def test_an_unknown_slot_is_refused_with_a_suggestion() -> None:
    with pytest.raises(LayerValidationError, match="Base has no slot 'pol'; did you mean 'pool'"):
        Base.layer(pol=Pool())

    class Clock:
        pass

    with pytest.raises(LayerValidationError, match="Base has no slot for Clock"):
        App(Base.layer((Clock,))).check()


async def test_annotations_of_slots_may_be_evaluated_or_text() -> None:
    namespace: dict[str, Any] = {"__annotations__": {"pool": "providers.Provider[Pool]"}}
    namespace["pool"] = providers.Singleton(OtherPool)
    namespace["repo"] = providers.Singleton(Repo)
    metaclass: Any = type(LayerContainer)
    container: Any = metaclass("Texts", (LayerContainer,), namespace)
    async with container.build(Repo) as repo:
        assert type(repo.pool) is OtherPool
