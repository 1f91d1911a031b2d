"""
Types of single settings, as people write them: durations, sizes and flags.

Turns the errors of :mod:`agentlayers.settings` and of pydantic into one
:class:`~agentlayers.errors.SettingsError` that names the setting. Reads no environment.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from agentlayers.errors import SettingsError
from agentlayers.settings import parse_bool, parse_bytes, parse_seconds

__all__ = ["Flag", "Seconds", "SettingsModel", "Size", "settings_error"]


def _reading(parse: Callable[[Any], Any]) -> BeforeValidator:
    def read(value: Any) -> Any:
        try:
            return parse(value)
        except SettingsError as error:
            raise PydanticCustomError("setting", "{expected}", {"expected": error.expected}) from error

    return BeforeValidator(read)


Seconds = Annotated[float, _reading(parse_seconds)]
"""A duration: seconds, or a text such as ``30 days``."""

Size = Annotated[int, _reading(parse_bytes)]
"""A size: bytes, or a text such as ``500 MB``."""

Flag = Annotated[bool, _reading(parse_bool)]
"""A boolean: true/yes/on/1 or false/no/off/0."""


class SettingsModel(BaseModel):
    """Settings that cannot change after they were read, and know no other names."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, validate_default=True)


def settings_error(error: ValidationError, model: type[BaseModel], *, setting: str) -> SettingsError:
    """
    Name the first setting that is wrong, and what would be right.

    Args:
        error: What pydantic found.
        model: The model it was found in; its names are suggested for an unknown one.
        setting: Where the model's own mapping stands, such as ``storage_config``; may be empty.
    """
    first = error.errors()[0]
    path = ".".join([setting, *map(str, first["loc"])] if setting else map(str, first["loc"]))
    value = _summary(first["input"])
    if first["type"] == "extra_forbidden":
        return SettingsError(setting=path, value=first["loc"][-1], expected=_known_names(first, model))
    expected = first.get("ctx", {}).get("expected") or _plain(first["msg"])
    return SettingsError(setting=path, value=value, expected=str(expected))


def _summary(value: Any) -> Any:
    # A whole section in an error text would bury the reason.
    return type(value).__name__ if isinstance(value, dict | list | BaseModel) else value


def _plain(message: str) -> str:
    for start in ("Input should be ", "Input is not ", "Value error, "):
        message = message.removeprefix(start)
    return message[:1].lower() + message[1:]


def _known_names(first: ErrorDetails, model: type[BaseModel]) -> str:
    for part in first["loc"][:-1]:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        model = annotation
    names = [name for name, info in model.model_fields.items() for name in _spellings(name, info.validation_alias)]
    close = difflib.get_close_matches(str(first["loc"][-1]), names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"one of the settings {', '.join(names)}{hint}"


def _spellings(name: str, alias: Any) -> list[str]:
    choices = getattr(alias, "choices", None)
    return [str(choices[0])] if choices else [name]
