"""
Everything that can be wrong with a graph, one class for each cause.

A graph is checked whole before anything is opened, and :class:`LayerValidationError` carries all that was found. Each
class names the heading of ``docs/reference/layer-errors.md`` that explains it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar

from agentlayers.errors import LayerError
from agentlayers.layer.origin import Origin
from agentlayers.layer.secret import mask_text

__all__ = [
    "AmbiguousServiceError",
    "CycleError",
    "DuplicateServiceError",
    "LayerSchemaError",
    "LayerStartError",
    "LayerValidationError",
    "LifetimeLeakError",
    "MissingServiceError",
    "NotInCatalogueError",
    "OverrideTypeError",
    "PresetNotFoundError",
    "ServiceNotFoundError",
    "SignatureError",
    "TypeMismatchError",
    "UnknownNameError",
    "UnusedOverrideError",
    "suggestion",
]

DOCS: str = "docs/reference/layer-errors.md"


def suggestion(name: str, known: Iterable[str]) -> str:
    """Give ``; did you mean 'x'?`` for a close name, else the known names, else nothing."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


def draw_path(path: Sequence[str], end: str = "") -> str:
    """
    Draw a dependency path, one step a line.

    >>> print(draw_path(["app (App)", "repo (Repo)"], "pool: Pool  ???"))
      app (App)
      └─> repo (Repo)
          └─> pool: Pool  ???
    """
    steps = [*path, end] if end else list(path)
    lines = []
    for depth, step in enumerate(steps):
        lines.append("  " + ("    " * (depth - 1) + "└─> " if depth else "") + step)
    return "\n".join(lines)


class _ProblemError(LayerError):
    """What all causes share: a sentence, a place, a drawing, a page."""

    def __init__(self, summary: str, *, origin: Origin | None = None, drawing: str = "", hint: str = "") -> None:
        self.summary, self.origin, self.drawing, self.hint = summary, origin, drawing, hint
        lines = [summary]
        if origin is not None:
            lines.append(f"  declared at {origin}")
        if drawing:
            lines.append(drawing)
        if hint:
            lines.append(f"  hint: {hint}")
        super().__init__("\n".join(lines))

    @classmethod
    def docs_link(cls) -> str:
        """Give the page and heading that explain this error."""
        return f"{DOCS}#{cls.__name__.lower()}"


class MissingServiceError(_ProblemError):
    """Something in the graph needs a service that nothing offers."""


class CycleError(_ProblemError):
    """Services need each other in a circle, so none can be built first."""


class DuplicateServiceError(_ProblemError):
    """Two layers side by side offer the same service."""


class AmbiguousServiceError(_ProblemError):
    """Several parts fit one parameter and nothing says which is meant."""


class UnknownNameError(_ProblemError):
    """A slot, part or parameter of that name does not exist."""


class SignatureError(_ProblemError):
    """The arguments given to a constructor are not those it takes."""


class TypeMismatchError(_ProblemError):
    """An argument, or what a slot holds, is of the wrong type."""


class LifetimeLeakError(_ProblemError):
    """Something that lives long holds on to something that lives short."""


class UnusedOverrideError(_ProblemError):
    """An override replaces a part that nothing wanted depends on."""


class OverrideTypeError(_ProblemError):
    """An override is not what its slot promises."""


class NotInCatalogueError(_ProblemError):
    """A graph cannot be written as YAML, because a callable of it has no name there."""


class PresetNotFoundError(_ProblemError):
    """No preset of that name ships with the package, and no such file exists."""


class ServiceNotFoundError(_ProblemError):
    """The running app has no such service."""


class LayerSchemaError(_ProblemError):
    """
    One thing in a YAML file is wrong.

    Attributes:
        origin: File, line and column.
    """

    def __init__(self, summary: str, *, origin: Origin, hint: str = "") -> None:
        super().__init__(f"{origin}: {summary}", hint=hint)
        self.origin = origin


class LayerValidationError(LayerError):
    """
    The graph is wrong; nothing was opened.

    Attributes:
        problems: Each one found, in graph order.
    """

    def __init__(self, problems: Sequence[LayerError], *, what: str = "the graph") -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = f"{what} has {count} problem{'s' if count != 1 else ''}:"
        parts = [f"{number}. {problem}" for number, problem in enumerate(self.problems, 1)]
        links = sorted({p.docs_link() for p in self.problems if isinstance(p, _ProblemError)})
        super().__init__("\n".join([head, *parts, *(f"see {link}" for link in links)]))


class LayerStartError(LayerError):
    """
    A part failed to start; what was open is closed again, and the cause is ``__cause__``.

    The text repeats that of the cause, with passwords and tokens in addresses masked, as are those of the notes about
    other failures. No error of this package holds a secret; for what a resource of your own raises, that is up to it,
    and ``__cause__`` itself is left as it is.

    Attributes:
        name: The part that failed.
        path: From what was asked for down to the part.
        origin: Where the part was declared.
        teardown_errors: What went wrong while the others were closed.
    """

    teardown_errors: tuple[BaseException, ...] = ()

    retryable: ClassVar[bool] = False

    def __init__(self, *, name: str, path: Sequence[str], origin: Origin | None, cause: BaseException) -> None:
        self.name, self.path, self.origin = name, tuple(path), origin
        what = mask_text(str(cause).strip()) or type(cause).__name__
        lines = [f"{name} failed to start: {type(cause).__name__}: {what}"]
        if origin is not None:
            lines.append(f"  declared at {origin}")
        if len(self.path) > 1:
            lines.append(draw_path(self.path))
        super().__init__("\n".join(lines))
