"""
Fixtures for tests of apps made of layers; loads nothing heavy until a test asks for it.

Registered through the ``pytest11`` entry point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

__all__ = ["layer_overrides", "pytest_configure"]


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "layer_overrides(target, **parts): replace parts of a layer or container in this test",
    )


@pytest.fixture
def layer_overrides(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """
    Replace parts of layers, containers or apps until the test ends.

    Call it as ``layer_overrides(target, part=replacement)``. Markers of the same name are applied
    first.
    """
    with ExitStack() as stack:

        def override(target: Any, /, *overrides: Any, **by_name: object) -> None:
            stack.enter_context(target.override(*overrides, **by_name))

        for marker in reversed(list(request.node.iter_markers("layer_overrides"))):
            override(*marker.args, **marker.kwargs)
        yield override
