"""
One library in one process: builds the six-node graph, resolves it many times, prints figures as JSON.

    python tests/bench/layer_contenders.py NAME SCALE

Config -> Pool (opened and closed) -> Repo -> ServiceA, ServiceB -> App. Config and Pool live as long as the app;
the other four are made for each request. ``bench_layers.py`` runs this file once for each library and round.
Libraries are imported by name, because none of them is a dependency of this project. Times are processor time of
this process, so that a busy machine disturbs them less.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any


class Config:
    def __init__(self) -> None:
        self.url = "db://local"


class Pool:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.is_open = True


class Repo:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool


class ServiceA:
    def __init__(self, repo: Repo) -> None:
        self.repo = repo


class ServiceB:
    def __init__(self, repo: Repo) -> None:
        self.repo = repo


class App:
    def __init__(self, a: ServiceA, b: ServiceB) -> None:
        self.a, self.b = a, b


def open_pool(config: Config) -> Iterator[Pool]:
    pool = Pool(config)
    yield pool
    pool.is_open = False


async def open_pool_async(config: Config) -> AsyncIterator[Pool]:
    pool = Pool(config)
    yield pool
    pool.is_open = False


@dataclass
class Contender:
    """
    How one library does each step.

    Attributes:
        build: Declares the graph and makes the container.
        open: Gives the first App (and so the pool) of a container just built.
        close: Closes the pool.
        warm: Resolves the pool so many times.
        request: Makes so many Apps, each in a scope of its own where the library has scopes.
        makes: How many objects one request makes: 4 with a shared Repo, 5 without.
    """

    build: Callable[[], Any]
    open: Callable[[Any], Awaitable[App]]
    close: Callable[[Any], Awaitable[None]]
    warm: Callable[[Any, int], Awaitable[None]]
    request: Callable[[Any, int], Awaitable[None]]
    makes: int = 4


def by_hand() -> Contender:
    def build() -> dict[str, Any]:
        return {}

    def request_app(pool: Pool) -> App:
        repo = Repo(pool)
        return App(ServiceA(repo), ServiceB(repo))

    async def opened(held: dict[str, Any]) -> App:
        held["pool"] = Pool(Config())
        return request_app(held["pool"])

    async def close(held: dict[str, Any]) -> None:
        held["pool"].is_open = False

    async def warm(held: dict[str, Any], count: int) -> None:
        for _ in range(count):
            held["pool"]

    async def request(held: dict[str, Any], count: int) -> None:
        pool = held["pool"]
        for _ in range(count):
            request_app(pool)

    return Contender(build, opened, close, warm, request)


# -- agentlayers -------------------------------------------------------------------------------------------------------
def _ours(*, scoped: bool) -> Callable[[], Any]:
    layer = import_module("agentlayers.layer")
    containers = import_module("agentlayers.layer.container")
    providers = import_module("dependency_injector.providers")
    once_a_request = providers.ContextLocalSingleton if scoped else providers.Factory

    def build() -> Any:
        class Container(containers.LayerContainer):  # type: ignore[name-defined, misc]
            config: Any = providers.Singleton(Config)
            pool: Any = providers.Resource(open_pool_async)
            repo: Any = once_a_request(Repo)
            a: Any = providers.Factory(ServiceA)
            b: Any = providers.Factory(ServiceB)
            app: Any = providers.Factory(App)

        return layer.App(Container)

    return build


async def _our_open(app: Any) -> App:
    await app.start()
    made: App = app.get(App)
    return made


async def _our_close(app: Any) -> None:
    await app.close()


async def _our_warm(app: Any, count: int) -> None:
    get = app.get
    for _ in range(count):
        get(Pool)


def agentlayers_get() -> Contender:
    """Factories without a scope, as dependency-injector has them."""

    async def request(app: Any, count: int) -> None:
        get = app.get
        for _ in range(count):
            get(App)

    return Contender(_ours(scoped=False), _our_open, _our_close, _our_warm, request, makes=5)


def agentlayers_scope() -> Contender:
    """A scope for each request, one Repo in it."""

    async def opened(app: Any) -> App:
        await app.start()
        with app.scope() as scope:
            made: App = scope.get(App)
            return made

    async def request(app: Any, count: int) -> None:
        for _ in range(count):
            with app.scope() as scope:
                scope.get(App)

    return Contender(_ours(scoped=True), opened, _our_close, _our_warm, request)


def agentlayers_async_scope() -> Contender:
    """The same, for requests that may open something."""

    async def request(app: Any, count: int) -> None:
        for _ in range(count):
            async with app.scope() as scope:
                scope.get(App)

    contender = agentlayers_scope()
    contender.request = request
    return contender


# -- dependency-injector -----------------------------------------------------------------------------------------------
def _di(pool: Callable[..., Any]) -> Callable[[], Any]:
    containers = import_module("dependency_injector.containers")
    providers = import_module("dependency_injector.providers")

    def build() -> Any:
        class Container(containers.DeclarativeContainer):  # type: ignore[name-defined, misc]
            config = providers.Singleton(Config)
            pool_ = providers.Resource(pool, config=config)
            repo = providers.Factory(Repo, pool=pool_)
            a = providers.Factory(ServiceA, repo=repo)
            b = providers.Factory(ServiceB, repo=repo)
            app = providers.Factory(App, a=a, b=b)

        return Container()

    return build


def di_sync() -> Contender:
    async def opened(container: Any) -> App:
        container.init_resources()
        made: App = container.app()
        return made

    async def close(container: Any) -> None:
        container.shutdown_resources()

    async def warm(container: Any, count: int) -> None:
        pool = container.pool_
        for _ in range(count):
            pool()

    async def request(container: Any, count: int) -> None:
        app = container.app
        for _ in range(count):
            app()

    return Contender(_di(open_pool), opened, close, warm, request, makes=5)


def di_async() -> Contender:
    async def opened(container: Any) -> App:
        await container.init_resources()
        made: App = await container.app()
        return made

    async def close(container: Any) -> None:
        await container.shutdown_resources()

    async def warm(container: Any, count: int) -> None:
        pool = container.pool_
        for _ in range(count):
            await pool()

    async def request(container: Any, count: int) -> None:
        app = container.app
        for _ in range(count):
            await app()

    return Contender(_di(open_pool_async), opened, close, warm, request, makes=5)


# -- dishka ------------------------------------------------------------------------------------------------------------
def _dishka_provider(dishka: Any, pool: Callable[..., Any]) -> Any:
    provider = dishka.Provider()
    provider.provide(Config, scope=dishka.Scope.APP)
    provider.provide(pool, scope=dishka.Scope.APP)
    for made in (Repo, ServiceA, ServiceB, App):
        provider.provide(made, scope=dishka.Scope.REQUEST)
    return provider


def dishka_sync() -> Contender:
    dishka = import_module("dishka")

    def build() -> Any:
        return dishka.make_container(_dishka_provider(dishka, open_pool))

    async def opened(container: Any) -> App:
        with container() as scope:
            made: App = scope.get(App)
            return made

    async def close(container: Any) -> None:
        container.close()

    async def warm(container: Any, count: int) -> None:
        get = container.get
        for _ in range(count):
            get(Pool)

    async def request(container: Any, count: int) -> None:
        for _ in range(count):
            with container() as scope:
                scope.get(App)

    return Contender(build, opened, close, warm, request)


def dishka_async() -> Contender:
    dishka = import_module("dishka")

    def build() -> Any:
        return dishka.make_async_container(_dishka_provider(dishka, open_pool_async))

    async def opened(container: Any) -> App:
        async with container() as scope:
            made: App = await scope.get(App)
            return made

    async def close(container: Any) -> None:
        await container.close()

    async def warm(container: Any, count: int) -> None:
        get = container.get
        for _ in range(count):
            await get(Pool)

    async def request(container: Any, count: int) -> None:
        for _ in range(count):
            async with container() as scope:
                await scope.get(App)

    return Contender(build, opened, close, warm, request)


# -- wireup ------------------------------------------------------------------------------------------------------------
def _wireup_parts(wireup: Any, pool: Callable[..., Any]) -> list[Any]:
    """Make subclasses and copies, because wireup marks what it registers."""
    injectable = wireup.injectable
    once = [injectable(Config), injectable(pool)]
    return [*once, *(injectable(made, lifetime="scoped") for made in (Repo, ServiceA, ServiceB, App))]


def wireup_sync() -> Contender:
    wireup = import_module("wireup")

    def build() -> Any:
        return wireup.create_sync_container(injectables=_wireup_parts(wireup, open_pool))

    async def opened(container: Any) -> App:
        with container.enter_scope() as scope:
            made: App = scope.get(App)
            return made

    async def close(container: Any) -> None:
        container.close()

    async def warm(container: Any, count: int) -> None:
        get = container.get
        for _ in range(count):
            get(Pool)

    async def request(container: Any, count: int) -> None:
        for _ in range(count):
            with container.enter_scope() as scope:
                scope.get(App)

    return Contender(build, opened, close, warm, request)


def wireup_async() -> Contender:
    wireup = import_module("wireup")

    def build() -> Any:
        return wireup.create_async_container(injectables=_wireup_parts(wireup, open_pool_async))

    async def opened(container: Any) -> App:
        async with container.enter_scope() as scope:
            made: App = await scope.get(App)
            return made

    async def close(container: Any) -> None:
        await container.close()

    async def warm(container: Any, count: int) -> None:
        get = container.get
        for _ in range(count):
            await get(Pool)

    async def request(container: Any, count: int) -> None:
        for _ in range(count):
            async with container.enter_scope() as scope:
                await scope.get(App)

    return Contender(build, opened, close, warm, request)


# -- that-depends, modern-di, svcs -------------------------------------------------------------------------------------
def that_depends() -> Contender:
    library = import_module("that_depends")
    providers = library.providers

    def build() -> Any:
        class Container(library.BaseContainer):  # type: ignore[name-defined, misc]
            config = providers.Singleton(Config)
            pool = providers.Resource(open_pool_async, config=config.cast)
            repo = providers.Factory(Repo, pool=pool.cast)
            a = providers.Factory(ServiceA, repo=repo.cast)
            b = providers.Factory(ServiceB, repo=repo.cast)
            app = providers.Factory(App, a=a.cast, b=b.cast)

        return Container

    async def opened(container: Any) -> App:
        made: App = await container.app.resolve()
        return made

    async def close(container: Any) -> None:
        await container.tear_down()

    async def warm(container: Any, count: int) -> None:
        resolve = container.pool.resolve
        for _ in range(count):
            await resolve()

    async def request(container: Any, count: int) -> None:
        for _ in range(count):
            async with library.container_context(container):
                await container.app.resolve()

    return Contender(build, opened, close, warm, request, makes=5)


def modern_di() -> Contender:
    library = import_module("modern_di")
    providers, scopes = library.providers, library.Scope

    def shut(pool: Pool) -> None:
        pool.is_open = False

    def build() -> Any:
        class Graph(library.Group):  # type: ignore[name-defined, misc]
            config = providers.Factory(Config, scope=scopes.APP, cache=True)
            pool = providers.Factory(Pool, scope=scopes.APP, cache=providers.CacheSettings(finalizer=shut))
            repo = providers.Factory(Repo, scope=scopes.REQUEST, cache=True)
            a = providers.Factory(ServiceA, scope=scopes.REQUEST)
            b = providers.Factory(ServiceB, scope=scopes.REQUEST)
            app = providers.Factory(App, scope=scopes.REQUEST)

        container = library.Container(groups=[Graph])
        container.validate()
        container.open()
        return container

    async def opened(container: Any) -> App:
        async with container.build_child_container(scope=scopes.REQUEST) as scope:
            made: App = scope.resolve(App)
            return made

    async def close(container: Any) -> None:
        await container.close_async()

    async def warm(container: Any, count: int) -> None:
        resolve = container.resolve
        for _ in range(count):
            resolve(Pool)

    async def request(container: Any, count: int) -> None:
        for _ in range(count):
            async with container.build_child_container(scope=scopes.REQUEST) as scope:
                scope.resolve(App)

    return Contender(build, opened, close, warm, request)


def svcs() -> Contender:
    library = import_module("svcs")

    async def make_app(svcs_container: Any) -> App:
        return App(await svcs_container.aget(ServiceA), await svcs_container.aget(ServiceB))

    async def make_a(svcs_container: Any) -> ServiceA:
        return ServiceA(await svcs_container.aget(Repo))

    async def make_b(svcs_container: Any) -> ServiceB:
        return ServiceB(await svcs_container.aget(Repo))

    def make_repo(svcs_container: Any) -> Repo:
        return Repo(svcs_container.get(Pool))

    def build() -> Any:
        registry = library.Registry()
        config = Config()
        pool = Pool(config)
        registry.register_value(Config, config)
        registry.register_value(Pool, pool, on_registry_close=lambda: setattr(pool, "is_open", False))
        for service, make in ((Repo, make_repo), (ServiceA, make_a), (ServiceB, make_b), (App, make_app)):
            registry.register_factory(service, make)
        return registry

    async def opened(registry: Any) -> App:
        async with library.Container(registry) as scope:
            made: App = await scope.aget(App)
            return made

    async def close(registry: Any) -> None:
        await registry.aclose()

    async def warm(registry: Any, count: int) -> None:
        async with library.Container(registry) as scope:
            get = scope.aget
            for _ in range(count):
                await get(Pool)

    async def request(registry: Any, count: int) -> None:
        for _ in range(count):
            async with library.Container(registry) as scope:
                await scope.aget(App)

    return Contender(build, opened, close, warm, request)


CONTENDERS: dict[str, tuple[str, Callable[[], Contender]]] = {
    "by hand": ("", by_hand),
    "agentlayers get": ("agentlayers.layer", agentlayers_get),
    "agentlayers scope": ("agentlayers.layer", agentlayers_scope),
    "agentlayers async scope": ("agentlayers.layer", agentlayers_async_scope),
    "dependency-injector sync": ("dependency_injector", di_sync),
    "dependency-injector async": ("dependency_injector", di_async),
    "dishka sync": ("dishka", dishka_sync),
    "dishka async": ("dishka", dishka_async),
    "wireup sync": ("wireup", wireup_sync),
    "wireup async": ("wireup", wireup_async),
    "that-depends async": ("that_depends", that_depends),
    "modern-di": ("modern_di", modern_di),
    "svcs async": ("svcs", svcs),
}
"""What is compared, and the package each needs."""

IMPORTS = {
    "agentlayers.layer": ("agentlayers.layer.app", "agentlayers.layer.container"),
    "dependency_injector": ("dependency_injector.containers", "dependency_injector.providers"),
    "that_depends": ("that_depends",),
}
"""What an application has to import to wire something, where it is more than the package itself."""


def rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def check(app: App, contender: Contender) -> Pool:
    """A contender that makes something else is not a contender."""
    assert isinstance(app, App)
    assert (app.a.repo is app.b.repo) == (contender.makes == 4)
    pool = app.a.repo.pool
    assert pool.is_open
    assert pool is app.b.repo.pool
    return pool


async def rate(work: Callable[[Any, int], Awaitable[None]], held: Any, count: int) -> float:
    await work(held, max(1, count // 20))
    begun = time.process_time()
    await work(held, count)
    return count / (time.process_time() - begun) / 1000


async def calibrated(work: Callable[[Any, int], Awaitable[None]], held: Any, seconds: float) -> float:
    """Give thousands per second, over about so many seconds."""
    return await rate(work, held, max(100, int(1000 * seconds * await rate(work, held, 200))))


async def measure(contender: Contender, scale: float) -> dict[str, float]:
    builds, colds = [], []
    for _ in range(max(3, int(30 * scale))):
        begun = time.process_time()
        held = contender.build()
        built = time.process_time()
        app = await contender.open(held)
        opened = time.process_time()
        builds.append(built - begun)
        colds.append(opened - built)
        pool = check(app, contender)
        await contender.close(held)
        assert not pool.is_open
    held = contender.build()
    await contender.open(held)
    figures = {
        "build_us": statistics.median(builds) * 1e6,
        "cold_us": statistics.median(colds) * 1e6,
        "warm_k_per_s": await calibrated(contender.warm, held, 0.4 * scale),
        "request_k_per_s": await calibrated(contender.request, held, scale),
        "objects_per_request": contender.makes,
    }
    await contender.close(held)
    return figures


# -- a chain -----------------------------------------------------------------------------------------------------------
async def measure_chain(length: int, rounds: int) -> dict[str, float]:
    """Start and stop a chain of resources, each needing the one before."""
    layers = import_module("agentlayers.layer")

    async def link(before: object = None) -> AsyncIterator[Any]:
        yield object()

    kinds: list[type[Any]] = [type(f"Link{number}", (), {}) for number in range(length)]
    layer = layers.Layer.scoped(kinds[0], link)
    for kind in kinds[1:]:
        layer = layers.Layer.scoped(kind, link, before=layer)
    plans, starts, stops = [], [], []
    for _ in range(rounds):
        app = layers.App(layer)
        begun = time.process_time()
        layers.App(layer).check()
        planned = time.process_time()
        await app.start()
        started = time.process_time()
        await app.close()
        stops.append(time.process_time() - started)
        starts.append(started - planned)
        plans.append(planned - begun)
    names = ("check_ms", "start_ms", "stop_ms")
    figures = zip(names, (plans, starts, stops), strict=True)
    return {name: statistics.median(values) * 1000 for name, values in figures}


def main() -> None:
    name, scale = sys.argv[1], float(sys.argv[2])
    if name == "chain":
        print(json.dumps(asyncio.run(measure_chain(400, max(2, int(10 * scale))))))
        return
    package, make = CONTENDERS[name]
    begun = time.process_time()
    for module in IMPORTS.get(package, (package,) if package else ()):
        import_module(module)
    imported = time.process_time() - begun
    figures = asyncio.run(measure(make(), scale))
    print(json.dumps({"import_ms": imported * 1000, **figures, "rss_mb": rss_mb()}))


if __name__ == "__main__":
    main()
