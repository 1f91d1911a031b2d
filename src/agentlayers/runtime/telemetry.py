"""
The part that tells a monitoring system what queries do; what is told is never what is said.

This module knows no monitoring system: see :mod:`agentlayers.runtime.open_telemetry`. Where nothing is wired and
nothing switched on there is no :class:`QueryTelemetry`, and a message costs one comparison more.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

from agentlayers.runtime.tap import MessageTap, Receipt

if TYPE_CHECKING:
    from agentlayers.layer import Layer

__all__ = ["QueryTelemetry", "Telemetry", "find_telemetry", "open_telemetry_is_installed"]


class QueryTelemetry(MessageTap, abc.ABC):
    """Watches one query from its submission to its end; as a tap it sees its messages."""

    @abc.abstractmethod
    def queued(self) -> None:
        """Note that it waits for a slot."""

    @abc.abstractmethod
    def granted(self) -> None:
        """Note that it has a slot."""

    @abc.abstractmethod
    def current(self) -> AbstractContextManager[object]:
        """Let what is done in the block count as part of the query."""

    @abc.abstractmethod
    def started(self) -> None:
        """Note that its agent runs."""

    @abc.abstractmethod
    def refused(self, error: BaseException) -> None:
        """Note that it got no slot, or that its agent did not start."""

    @abc.abstractmethod
    def recording(self, receipts: Sequence[Receipt]) -> None:
        """Note that a message is on its way to the disk; each receipt tells when it got there."""

    @abc.abstractmethod
    def gone(self, state: str, error: Exception | None) -> None:
        """Note that nothing of its agent is left."""


class Telemetry:
    """
    Tells nobody anything; the base of those that do, and the default of the container's slot ``telemetry``.

    Attributes:
        is_on: It watches queries.
    """

    is_on: ClassVar[bool] = False

    def query(self, query_id: str) -> QueryTelemetry:
        """
        Begin to watch a query that is being submitted.

        Raises:
            NotImplementedError: It is not on, so nobody asks this.
        """
        raise NotImplementedError(query_id)

    @staticmethod
    def layer_open_telemetry(*, metrics: bool = True, tracing: bool = True) -> Layer:
        """
        Tell OpenTelemetry (extra ``otel``), through the providers the process has set up.

        Args:
            metrics: Count and measure.
            tracing: Make spans.

        Raises:
            ConfigurationError: The extra is not installed.
        """
        from agentlayers.layer import Layer
        from agentlayers.runtime.open_telemetry import OpenTelemetry

        return Layer.factory(Telemetry, OpenTelemetry, metrics=metrics, tracing=tracing)


def open_telemetry_is_installed() -> bool:
    """Look whether opentelemetry-api is installed, without loading it."""
    try:
        return find_spec("opentelemetry.metrics") is not None
    except ModuleNotFoundError:
        return False


def find_telemetry(given: Telemetry | None, *, metrics: bool, tracing: bool) -> Telemetry | None:
    """
    Choose who is told: who is given; else OpenTelemetry, if it is switched on and installed; else nobody.

    Args:
        given: From the graph or the caller.
        metrics: Counting and measuring is switched on.
        tracing: Making spans is switched on.
    """
    if given is not None and given.is_on:
        return given
    if not (metrics or tracing) or not open_telemetry_is_installed():
        return None
    from agentlayers.runtime.open_telemetry import OpenTelemetry

    return OpenTelemetry(metrics=metrics, tracing=tracing)
