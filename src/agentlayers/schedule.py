"""
When to try again, as a value.

A schedule says how long to wait before attempt 1, 2, 3...; it reads no clock and owns no
randomness, so the same schedule with the same random source gives the same delays.
"""

from __future__ import annotations

import abc
import random as random_module
from dataclasses import dataclass
from typing import Final

from agentlayers.errors import SettingsError
from agentlayers.limits import RECONNECT_BASE_SECONDS
from agentlayers.settings import parse_seconds

__all__ = ["Schedule", "exponential", "fixed"]

_JITTER_LOWEST: Final = 0.5
_EXPONENT_MAX: Final = 60
"""Beyond any cap in use, and far from overflowing a float."""


class Schedule(abc.ABC):
    """
    How long to wait before each further attempt.

    >>> exponential("100 millis").capped("1 s").limited(5).delays()
    [0.1, 0.2, 0.4, 0.8, 1.0]

    """

    @abc.abstractmethod
    def delay_seconds(self, attempt: int, random: random_module.Random) -> float | None:
        """
        Return the pause before an attempt, or :obj:`None` to give up.

        Args:
            attempt: 1 after the first failure, then counting up.
            random: Where jitter comes from.
        """

    def jittered(self) -> Schedule:
        """
        Shorten each pause to a random part of it, between half and the whole.

        It never lengthens one, so a cap holds wherever it stands in the chain, and clients that
        lost one server at one moment still spread out once they have reached the cap.
        """
        return _Jittered(self)

    def capped(self, longest: str | float) -> Schedule:
        """
        Wait at most this long.

        Raises:
            SettingsError: Not a duration.
        """
        return _Capped(self, parse_seconds(longest, setting="capped"))

    def limited(self, attempts_max: int) -> Schedule:
        """
        Give up after so many attempts.

        Raises:
            SettingsError: Negative.
        """
        if attempts_max < 0:
            raise SettingsError(setting="limited", value=attempts_max, expected="0 or more")
        return _Limited(self, attempts_max)

    def delays(self, count: int = 32, random: random_module.Random | None = None) -> list[float]:
        """List the first ``count`` pauses, or fewer if the schedule gives up before."""
        source = random or random_module.Random(0)
        found: list[float] = []
        for attempt in range(1, count + 1):
            delay = self.delay_seconds(attempt, source)
            if delay is None:
                break
            found.append(delay)
        return found


@dataclass(frozen=True, slots=True)
class _Exponential(Schedule):
    base_seconds: float
    factor: float

    def delay_seconds(self, attempt: int, random: random_module.Random) -> float:  # noqa: ARG002
        return float(self.base_seconds * self.factor ** min(attempt - 1, _EXPONENT_MAX))


@dataclass(frozen=True, slots=True)
class _Jittered(Schedule):
    inner: Schedule

    def delay_seconds(self, attempt: int, random: random_module.Random) -> float | None:
        delay = self.inner.delay_seconds(attempt, random)
        return None if delay is None else delay * random.uniform(_JITTER_LOWEST, 1.0)

    def capped(self, longest: str | float) -> Schedule:
        # The cap goes below the jitter: capping jittered delays would make them all equal again.
        return _Jittered(self.inner.capped(longest))


@dataclass(frozen=True, slots=True)
class _Capped(Schedule):
    inner: Schedule
    seconds_max: float

    def delay_seconds(self, attempt: int, random: random_module.Random) -> float | None:
        delay = self.inner.delay_seconds(attempt, random)
        return None if delay is None else min(delay, self.seconds_max)


@dataclass(frozen=True, slots=True)
class _Limited(Schedule):
    inner: Schedule
    attempts_max: int

    def delay_seconds(self, attempt: int, random: random_module.Random) -> float | None:
        return None if attempt > self.attempts_max else self.inner.delay_seconds(attempt, random)


def exponential(base: str | float = RECONNECT_BASE_SECONDS, factor: float = 2.0) -> Schedule:
    """
    Wait ``base``, then ``factor`` times as long each time.

    >>> exponential().capped("30s").delays(5)
    [0.1, 0.2, 0.4, 0.8, 1.6]

    Raises:
        SettingsError: ``base`` is no positive duration, or ``factor`` is below 1 or above 10.
    """
    seconds = parse_seconds(base, setting="exponential")
    if seconds <= 0:
        raise SettingsError(setting="exponential", value=base, expected="a pause longer than 0")
    if not 1 <= factor <= 10:
        raise SettingsError(setting="factor", value=factor, expected="a number from 1 to 10")
    return _Exponential(seconds, factor)


def fixed(pause: str | float) -> Schedule:
    """
    Wait the same each time.

    Raises:
        SettingsError: Not a positive duration.
    """
    return exponential(pause, factor=1.0)
