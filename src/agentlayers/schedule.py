"""
When to try again, as a value.

A schedule says how long to wait before attempt 1, 2, 3...; it reads no clock and owns no
randomness, so the same schedule with the same random source gives the same delays.

A schedule is written the same way in Python and as text, in a file or in a variable of the environment. The text is
taken apart, never evaluated.
"""

from __future__ import annotations

import abc
import ast
import inspect
import random as random_module
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from agentlayers.errors import SettingsError
from agentlayers.limits import RECONNECT_BASE_SECONDS, SCHEDULE_CHARACTERS_MAX
from agentlayers.settings import parse_seconds

__all__ = ["Schedule", "exponential", "fixed"]

_JITTER_LOWEST: Final = 0.5
_EXPONENT_MAX: Final = 60
"""Beyond any cap in use, and far from overflowing a float."""

_FACTOR: Final = 2.0
"""How much longer each pause is than the one before, if nobody says."""


class Schedule(abc.ABC):
    """
    How long to wait before each further attempt.

    Its ``repr`` is the text that :meth:`from_text` reads.

    >>> exponential("100 millis").capped("1 s").limited(5).delays()
    [0.1, 0.2, 0.4, 0.8, 1.0]

    """

    @staticmethod
    def from_text(text: str) -> Schedule:
        """
        Read a schedule as it is written in Python: ``exponential("100ms").jittered().capped("30s")``.

        It is taken apart, never evaluated: only ``exponential`` and ``fixed``, the steps of a schedule, and plain texts
        and numbers may stand in it.

        Raises:
            SettingsError: Anything else, with the place of the first thing that is wrong.

        >>> Schedule.from_text('fixed("5s").limited(10)') == fixed(5).limited(10)
        True

        """
        try:
            return _read(text)
        except _TextError as error:
            expected = f"a schedule such as {_EXAMPLE} ({error})"
            raise SettingsError(setting="schedule", value=_shortened(text), expected=expected) from None

    def to_text(self) -> str:
        """Write it as :meth:`from_text` reads it; what a class of your own gives here, no file can say."""
        return repr(self)

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
            SettingsError: No whole number, or a negative one.
        """
        if isinstance(attempts_max, bool) or not isinstance(attempts_max, int) or attempts_max < 0:
            raise SettingsError(setting="limited", value=attempts_max, expected="a whole number, 0 or more")
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


@dataclass(frozen=True, slots=True, repr=False)
class _Exponential(Schedule):
    base_seconds: float
    factor: float

    def __repr__(self) -> str:
        base = _duration(self.base_seconds)
        if self.factor == 1:
            return f"fixed({base})"
        return f"exponential({base})" if self.factor == _FACTOR else f"exponential({base}, factor={self.factor!r})"

    def delay_seconds(self, attempt: int, random: random_module.Random) -> float:  # noqa: ARG002
        return float(self.base_seconds * self.factor ** min(attempt - 1, _EXPONENT_MAX))


@dataclass(frozen=True, slots=True, repr=False)
class _Jittered(Schedule):
    inner: Schedule

    def __repr__(self) -> str:
        # Caps below the jitter are shown behind it, where people write them (see `capped`).
        below: Schedule = self.inner
        caps = ""
        while isinstance(below, _Capped):
            caps = below.step + caps
            below = below.inner
        return f"{below!r}.jittered(){caps}"

    def delay_seconds(self, attempt: int, random: random_module.Random) -> float | None:
        delay = self.inner.delay_seconds(attempt, random)
        return None if delay is None else delay * random.uniform(_JITTER_LOWEST, 1.0)

    def capped(self, longest: str | float) -> Schedule:
        # The cap goes below the jitter: capping jittered delays would make them all equal again.
        return _Jittered(self.inner.capped(longest))


@dataclass(frozen=True, slots=True, repr=False)
class _Capped(Schedule):
    inner: Schedule
    seconds_max: float

    def __repr__(self) -> str:
        return f"{self.inner!r}{self.step}"

    @property
    def step(self) -> str:
        return f".capped({_duration(self.seconds_max)})"

    def delay_seconds(self, attempt: int, random: random_module.Random) -> float | None:
        delay = self.inner.delay_seconds(attempt, random)
        return None if delay is None else min(delay, self.seconds_max)


@dataclass(frozen=True, slots=True, repr=False)
class _Limited(Schedule):
    inner: Schedule
    attempts_max: int

    def __repr__(self) -> str:
        return f"{self.inner!r}.limited({self.attempts_max})"

    def delay_seconds(self, attempt: int, random: random_module.Random) -> float | None:
        return None if attempt > self.attempts_max else self.inner.delay_seconds(attempt, random)


def exponential(base: str | float = RECONNECT_BASE_SECONDS, factor: float = _FACTOR) -> Schedule:
    """
    Wait ``base``, then ``factor`` times as long each time.

    >>> exponential().capped("30s").delays(5)
    [0.1, 0.2, 0.4, 0.8, 1.6]

    Raises:
        SettingsError: ``base`` is no positive duration, or ``factor`` is no number from 1 to 10.
    """
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 <= factor <= 10:
        raise SettingsError(setting="factor", value=factor, expected="a number from 1 to 10")
    return _Exponential(_pause(base, setting="exponential"), factor)


def fixed(pause: str | float) -> Schedule:
    """
    Wait the same each time.

    Raises:
        SettingsError: Not a positive duration.
    """
    return _Exponential(_pause(pause, setting="fixed"), 1.0)


def _pause(value: str | float, *, setting: str) -> float:
    seconds = parse_seconds(value, setting=setting)
    if seconds <= 0:
        raise SettingsError(setting=setting, value=value, expected="a pause longer than 0")
    return seconds


# -- as text --------------------------------------------------------------------------------------------
_EXAMPLE: Final = """'exponential("100ms").jittered().capped("30s")'"""
_BEGINNINGS: Final[Mapping[str, Callable[..., Schedule]]] = {"exponential": exponential, "fixed": fixed}
_STEPS: Final[Mapping[str, Callable[..., Schedule]]] = {
    "jittered": Schedule.jittered,
    "capped": Schedule.capped,
    "limited": Schedule.limited,
}


class _TextError(Exception):
    """What is wrong with a text; says nothing of what stands there, since a variable of the environment may."""

    def __init__(self, column: int, reason: str) -> None:
        super().__init__(f"at character {column + 1}: {reason}")


def _shortened(text: object) -> object:
    return f"{text[:40]}..." if isinstance(text, str) and len(text) > SCHEDULE_CHARACTERS_MAX else text


def _read(text: object) -> Schedule:
    if not isinstance(text, str) or len(text) > SCHEDULE_CHARACTERS_MAX:
        raise _TextError(0, f"a text of at most {SCHEDULE_CHARACTERS_MAX} characters is wanted")
    try:
        # One line, because a long one may be broken in a file, and places are told by the character.
        parsed: ast.expr = ast.parse(" ".join(text.split()), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _TextError((getattr(error, "offset", None) or 1) - 1, "this cannot be read") from None
    calls: list[ast.Call] = []
    while isinstance(parsed, ast.Call):
        calls.append(parsed)
        parsed = parsed.func.value if isinstance(parsed.func, ast.Attribute) else parsed.func
    if not calls or calls[-1].func is not parsed:
        _refuse_beginning(parsed)
    made = _called(_BEGINNINGS, calls.pop())
    while calls:
        made = _called(_STEPS, calls.pop(), made)
    return made


def _refuse_beginning(found: ast.expr) -> NoReturn:
    raise _TextError(found.col_offset, f"it begins with {_usages(_BEGINNINGS)}")


def _called(known: Mapping[str, Callable[..., Schedule]], call: ast.Call, before: Schedule | None = None) -> Schedule:
    """Do one call of the chain, on the schedule before it if there is one."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    begin = (function.end_col_offset or 0) - len(name)
    if name not in known:
        raise _TextError(begin, f"it {'goes on' if before else 'begins'} with {_usages(known)}")
    make = known[name] if before is None else getattr(before, name)
    arguments = [_literal(one) for one in call.args]
    named = {one.arg or "": _literal(one.value) for one in call.keywords}
    if len(named) < len(call.keywords) or not _takes(make, *arguments, **named):
        raise _TextError(begin, f"it is written {_usages({name: make})}")
    try:
        return make(*arguments, **named)
    except SettingsError as error:
        raise _TextError(begin, f"{error.setting} takes {error.expected}") from None


def _takes(make: Callable[..., Schedule], *arguments: Any, **named: Any) -> bool:
    try:
        inspect.signature(make).bind(*arguments, **named)
    except TypeError:
        return False
    return True


def _literal(node: ast.expr) -> Any:
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _TextError(node.col_offset, "only plain texts and numbers may stand here")
    return value


def _usages(known: Mapping[str, Callable[..., Schedule]]) -> str:
    """List calls with the names of their parameters."""
    shown = [
        f"{name}({', '.join(one for one in inspect.signature(make).parameters if one != 'self')})"
        for name, make in known.items()
    ]
    return " or ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def _duration(seconds: float) -> str:
    """Write a duration as people do where that is exact, otherwise as a number of seconds."""
    number, unit = (seconds, "s") if seconds >= 1 else (seconds * 1000, "ms")
    text = f"{number:g}{unit}"
    if 0.001 <= number < 1_000_000 and parse_seconds(text) == seconds:
        return f"'{text}'"
    return repr(seconds)
