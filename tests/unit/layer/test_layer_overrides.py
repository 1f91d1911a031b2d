"""Overrides: for a test, for this task, checked, and never starting what they replace."""

from __future__ import annotations

import asyncio
from importlib.metadata import entry_points
from typing import Any, Self

import pytest
from dependency_injector import providers

from agentlayers.layer import App, Layer, LayerContainer
from agentlayers.layer.errors import (
    LayerValidationError,
    OverrideTypeError,
    UnknownNameError,
    UnusedOverrideError,
)

pytest_plugins = ["pytester"]

opened: list[str] = []


class Vault:
    async def __aenter__(self) -> Self:
        opened.append("vault")
        return self

    async def __aexit__(self, *exc_info: object) -> None: ...


class Pool:
    name = "real"

    def __init__(self, vault: Vault) -> None: ...

    async def __aenter__(self) -> Self:
        opened.append("pool")
        return self

    async def __aexit__(self, *exc_info: object) -> None: ...


class FakePool(Pool):
    name = "fake"

    def __init__(self) -> None: ...


class Repo:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool


class Application(LayerContainer):
    vault = providers.Resource(Vault)
    pool: providers.Provider[Pool] = providers.Resource(Pool)
    repo = providers.Singleton(Repo)


LAYER = Layer.factory(Repo).provide(Layer.scoped(Pool).provide(Layer.scoped(Vault)))


@pytest.fixture(autouse=True)
def nothing_opened() -> None:
    opened.clear()


async def test_a_replaced_part_and_what_only_it_needs_never_start() -> None:
    with Application.override(pool=FakePool()):
        async with Application.build(Repo) as repo:
            assert repo.pool.name == "fake"
    assert opened == []

    with LAYER.override(pool=FakePool()):
        async with LAYER.build(Repo) as repo:
            assert repo.pool.name == "fake"
    assert opened == []

    app = App(Application, Repo)
    with app.override(pool=FakePool()):
        await app.start()
    assert app.get(Repo).pool.name == "fake"
    await app.close()
    assert opened == []


async def test_after_the_block_the_real_part_is_back() -> None:
    with Application.override(pool=FakePool()):
        pass
    async with Application.build(Repo) as repo:
        assert repo.pool.name == "real"


async def test_overrides_take_values_layers_and_providers_by_name_and_by_type() -> None:
    class Opened(FakePool):
        async def __aenter__(self) -> Self:
            opened.append("fake")
            return self

    for value in (FakePool(), Layer.factory(Pool, FakePool), providers.Singleton(FakePool)):
        with Application.override({Pool: value}):
            async with Application.build(Repo) as repo:
                assert repo.pool.name == "fake"
    with LAYER.override({Pool: Layer.scoped(Pool, Opened)}):
        async with LAYER.build(Repo) as repo:
            assert isinstance(repo.pool, Opened)
    assert opened == ["fake"]


async def test_the_innermost_of_nested_overrides_counts() -> None:
    outer, inner = FakePool(), FakePool()
    with Application.override(pool=outer):
        with Application.override(pool=inner):
            async with Application.build(Repo) as repo:
                assert repo.pool is inner
        async with Application.build(Repo) as repo:
            assert repo.pool is outer


async def test_concurrent_tasks_see_their_own_overrides_only() -> None:
    async def run(fake: FakePool | None) -> Pool:
        if fake is None:
            async with Application.build(Repo) as repo:
                await asyncio.sleep(0.01)
                return repo.pool
        with Application.override(pool=fake):
            await asyncio.sleep(0)
            async with Application.build(Repo) as repo:
                await asyncio.sleep(0.01)
                return repo.pool

    fakes = [FakePool() for _ in range(5)]
    pools = await asyncio.gather(*(run(fake) for fake in [*fakes, None]))

    assert pools[:5] == fakes
    assert pools[5].name == "real"


async def test_an_override_of_a_base_container_counts_for_its_subclasses() -> None:
    class Sub(Application):
        pass

    with Application.override(pool=FakePool()):
        async with Sub.build(Repo) as repo:
            assert repo.pool.name == "fake"
        async with Sub.layer((Repo,)).build(Repo) as repo:
            assert repo.pool.name == "fake"


async def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    for target in (Application, LAYER):
        with target.override(poool=FakePool()), pytest.raises(LayerValidationError) as caught:
            App(target).check()
        assert isinstance(caught.value.problems[0], UnknownNameError)
        assert "did you mean 'pool'?" in str(caught.value)
        assert "test_layer_overrides.py" in str(caught.value)


async def test_a_wrong_type_is_refused() -> None:
    for value in (3, Layer.factory(Vault)):
        with LAYER.override(pool=value), pytest.raises(LayerValidationError) as caught:
            App(LAYER).check()
        assert isinstance(caught.value.problems[0], OverrideTypeError)
        with Application.override(pool=value), pytest.raises(LayerValidationError, match="pool"):
            App(Application).check()


async def test_a_mock_of_the_service_passes() -> None:
    with Application.override(pool=Layer.mock(Pool, name="mocked")):
        async with Application.build(Repo) as repo:
            assert repo.pool.name == "mocked"


async def test_an_override_that_nothing_needs_is_refused() -> None:
    for target in (Application, LAYER):
        with target.override(pool=FakePool(), vault=Vault()), pytest.raises(LayerValidationError) as caught:
            App(target, Repo).check()
        assert isinstance(caught.value.problems[0], UnusedOverrideError)
        assert "the override of vault is not used" in str(caught.value)


async def test_an_inline_part_can_be_replaced_by_its_path() -> None:
    class Inline(LayerContainer):
        repo = providers.Singleton(Repo, pool=providers.Resource(Pool, vault=providers.Resource(Vault)))

    app = App(Inline)
    with app.override({"repo.pool": FakePool()}):
        await app.start()
    assert app.get("repo").pool.name == "fake"
    await app.close()


async def test_configuration_is_overridden_with_a_mapping() -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

    class Configured(LayerContainer):
        config = providers.Configuration(default={"name": "usual", "other": 1})
        named = providers.Singleton(Named, name=config.name)

    app = App(Configured)
    with app.override(config={"name": "changed"}):
        await app.start()
    assert app.get("named").name == "changed"
    await app.close()


async def test_dependency_injector_s_own_override_still_works() -> None:
    class Base(LayerContainer):
        value = providers.Object(1)

    class Over(LayerContainer):
        value = providers.Object(2)

    Base.override(Over)
    try:
        async with App(Base) as app:
            assert app.get("value") == 2
    finally:
        Base.reset_override()
    async with App(Base) as app:
        assert app.get("value") == 1


PLUGIN_TESTS = """
import pytest
from agentlayers.layer import Layer

class Pool:
    name = "real"

class Fake(Pool):
    name = "fake"

LAYER = Layer.factory(Pool)
KEPT = []

async def test_first(layer_overrides):
    layer_overrides(LAYER, pool=Fake())
    async with LAYER.build(Pool) as pool:
        assert pool.name == "fake"

async def test_second():
    async with LAYER.build(Pool) as pool:
        assert pool.name == "real"

@pytest.mark.layer_overrides(LAYER, pool=Fake())
async def test_third(layer_overrides):
    async with LAYER.build(Pool) as pool:
        assert pool.name == "fake"

async def test_fourth(layer_app):
    async with layer_app(LAYER, Pool, pool=Fake()) as app:
        assert app.get(Pool).name == "fake"
    assert app.state == "closed"

def test_fifth_leaves_an_override_on():
    KEPT.append(LAYER.override(pool=Fake()))
    KEPT[0].__enter__()

async def test_sixth_is_not_affected():
    async with LAYER.build(Pool) as pool:
        assert pool.name == "real"

async def test_seventh_leaves_an_app_running(layer_app):
    KEPT.append(layer_app(LAYER))
    await KEPT[-1].__aenter__()
"""


def test_the_plugin_s_fixtures_end_with_the_test_and_leftovers_are_errors(pytester: Any) -> None:
    pytester.makepyfile(PLUGIN_TESTS)
    plugin = [] if _is_registered() else ["-p", "agentlayers.layer.pytest_plugin"]
    result = pytester.runpytest_subprocess(*plugin, "-o", "asyncio_mode=auto", "-p", "no:cacheprovider")

    result.assert_outcomes(passed=7, errors=2)
    result.stdout.fnmatch_lines(
        ["*test_fifth_leaves_an_override_on left overrides on: pool at *", "*apps are still running: <Layer of Pool *"]
    )


def _is_registered() -> bool:
    return any(point.value == "agentlayers.layer.pytest_plugin" for point in entry_points(group="pytest11"))
