"""
One library in one process: builds the six-node graph, resolves it many times, prints figures as JSON.

    python tests/bench/layer_contenders.py NAME SCALE

Config -> Pool (opened and closed) -> Repo -> ServiceA, ServiceB -> App. Config and Pool live as long as the app;
the other four are made for each request. ``bench_layers.py`` runs this file once for each library and round.
Libraries are imported by name, because none of them is a dependency of this project.
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


# -- agentlayers --------------------------------------------------------------------------------------------------------
def _our_app() -> Any:
    layer = import_module("agentlayers.layer")
    providers = import_module("dependency_injector.providers")

    class Container(layer.LayerContainer):  # type: ignore[name-defined, misc]
        config: Any = providers.Singleton(Config)
        pool: Any = providers.Resource(open_pool_async)
        repo: Any = providers.Factory(Repo)
        a: Any = providers.Factory(ServiceA)
        b: Any = providers.Factory(ServiceB)
        app: Any = providers.Factory(App)

    return layer.App(Container)


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
    import_module("agentlayers.layer").App  # noqa: B018 - loads what building needs

    async def request(app: Any, count: int) -> None:
        get = app.get
        for _ in range(count):
            get(App)

    return Contender(_our_app, _our_open, _our_close, _our_warm, request, makes=5)


# -- dependency-injector ------------------------------------------------------------------------------------------------
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


# -- dishka -------------------------------------------------------------------------------------------------------------
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


# -- wireup -------------------------------------------------------------------------------------------------------------
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


# -- that-depends, modern-di, svcs --------------------------------------------------------------------------------------
def that_depends() -> Contender:
    library = import_module("that_depends")
    providers = library.providers

    def build() -> Any:
        class Container(library.BaseContainer):  # type: ignore[name-defined, misc]
            default_scope = None
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
            async with library.container_context():
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

    async def make_app(scope: Any) -> App:
        return App(await scope.aget(ServiceA), await scope.aget(ServiceB))

    async def make_a(scope: Any) -> ServiceA:
        return ServiceA(await scope.aget(Repo))

    async def make_b(scope: Any) -> ServiceB:
        return ServiceB(await scope.aget(Repo))

    def make_repo(scope: Any) -> Repo:
        return Repo(scope.get(Pool))

    make_repo.__annotations__["svcs_container"] = library.Container
    for make in (make_app, make_a, make_b, make_repo):
        make.__annotations__["scope"] = library.Container

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


