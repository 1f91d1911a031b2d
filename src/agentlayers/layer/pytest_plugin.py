"""
Fixtures for tests of apps made of layers; loads nothing heavy until a test asks for it.

Registered through the ``pytest11`` entry point. An override that a test leaves on is an error of that test.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from agentlayers.layer.app import App

__all__ = ["layer_app", "layer_overrides", "pytest_configure", "pytest_runtest_teardown"]

Override = Callable[..., None]


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "layer_overrides(target, **parts): replace parts of a layer or container in this test",
    )


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Fail a test that left an override on, and take it off for the next one."""
    module = sys.modules.get("agentlayers.layer.override")
    if module is None:
        return
    left = module.ambient_overrides()
    if left:
        module.clear_overrides()
        names = ", ".join(
            f"{override.key} at {override.origin}" for _target, overrides in left for override in overrides
        )
        pytest.fail(f"{item.name} left overrides on: {names}; use 'with target.override(...)'", pytrace=False)


@pytest.fixture
def layer_overrides(request: pytest.FixtureRequest) -> Iterator[Override]:
    """
    Replace parts of layers, containers or apps until the test ends.

    Call it as ``layer_overrides(target, part=replacement)``. Markers of the same name are applied first, outermost
    first.
    """
    with ExitStack() as stack:

        def override(target: Any, /, *overrides: Any, **by_name: object) -> None:
            stack.enter_context(target.override(*overrides, **by_name))

        for marker in reversed(list(request.node.iter_markers("layer_overrides"))):
            override(*marker.args, **marker.kwargs)
        yield override


@pytest.fixture
def layer_app(layer_overrides: Override) -> Iterator[Callable[..., AbstractAsyncContextManager[App]]]:
    """
    Run an app with parts replaced: ``async with layer_app(target, Service, pool=FakePool()) as app``.

    The test fails if it leaves an app running.
    """
    from agentlayers.layer.app import App

    apps: list[App] = []

    @asynccontextmanager
    async def run(target: Any, *wanted: Any, **parts: object) -> AsyncIterator[App]:
        app = App(target, *wanted)
        apps.append(app)
        with app.override(**parts):
            await app.start()
        async with app.closing():
            yield app

    yield run
    running = [repr(app.target) for app in apps if app.state not in {"new", "closed"}]
    if running:
        pytest.fail(f"apps are still running: {', '.join(running)}", pytrace=False)
