"""
Values that a file says as text.

A class takes part by having ``from_text``, called with a text, and ``to_text``, which gives it back: where a parameter
is annotated with it, YAML may give the text, and graphs and written YAML show it.
"""

from __future__ import annotations

import contextlib
from typing import Any

from agentlayers.errors import AgentLayersError, SettingsError
from agentlayers.layer.inspection import service_candidates
from agentlayers.layer.naming import service_label
from agentlayers.layer.yaml_tree import Scalar

__all__ = ["has_text_form", "read_text", "text_kind", "text_of"]


def text_kind(hint: Any) -> Any:
    """Find the class with a text form that a hint allows; :obj:`None` if there is none."""
    return next((kind for kind in service_candidates(hint) if has_text_form(kind)), None)


def has_text_form(kind: Any) -> bool:
    """Tell whether a class can be read from text and written as text."""
    return isinstance(kind, type) and all(callable(getattr(kind, name, None)) for name in ("from_text", "to_text"))


def read_text(value: Scalar, kind: Any) -> Any:
    """
    Read a value of a class from its text.

    A variable that is not set stands for itself while a graph is only looked at, and is left so.

    Raises:
        ValueError: The text is none of that class; says why, and nothing of what a variable holds.
    """
    if value.from_environment and value.text == value.shown:
        return value.text
    try:
        return kind.from_text(value.text)
    except SettingsError as error:
        expected = error.expected
    except (AgentLayersError, ValueError) as error:
        if not value.from_environment:
            raise ValueError(str(error)) from error
        expected = f"a {service_label(kind)} as text"
    what = f"what {value.shown!r} stands for" if value.from_environment else repr(value.shown)
    raise ValueError(f"{what} cannot be used; expected {expected}")


def text_of(value: Any) -> str | None:
    """Write a value as text; :obj:`None` for one without a text form, or whose text would be read as another value."""
    kind: Any = type(value)
    if not has_text_form(kind):
        return None
    with contextlib.suppress(Exception):  # a class of the user's own may refuse its text in any way
        text = value.to_text()
        if isinstance(text, str) and kind.from_text(text) == value:
            return text
    return None
