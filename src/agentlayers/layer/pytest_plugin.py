"""
Fixtures for tests of apps made of layers; loads nothing heavy until a test asks for it.

Registered through the ``pytest11`` entry point. An override that a test leaves on is an error of that test.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack
from types import TracebackType
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
def layer_app() -> Iterator[Callable[..., AbstractAsyncContextManager[App]]]:
    """
    Run an app with parts replaced.

    ``async with layer_app(target, Service, pool=FakePool()) as app`` starts it with the fake, and closes it at the end
    of the block. The test fails if it leaves an app running.
    """
    from agentlayers.layer.app import App

    apps: list[App] = []

    def run(target: Any, *wanted: Any, **parts: object) -> _Running:
        apps.append(App(target, *wanted))
        return _Running(apps[-1], parts)

    yield run
    running = [repr(app.target) for app in apps if app.state not in {"new", "closed"}]
    if running:
        pytest.fail(f"apps are still running: {', '.join(running)}", pytrace=False)


class _Running:
    def __init__(self, app: App, parts: dict[str, object]) -> None:
        self._app, self._parts = app, parts

    async def __aenter__(self) -> App:
        with self._app.override(**self._parts):
            await self._app.start()
        return self._app

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._app.close(error)
