"""
Read scripts from YAML; every error has its line and says what would be right.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from agentlayers.errors import ScriptError, SettingsError
from agentlayers.runtime.script import (
    CallTool,
    Delay,
    Fail,
    Interrupt,
    Say,
    Script,
    Step,
    Think,
    Turn,
)
from agentlayers.runtime.tools import TOOL_NAMES
from agentlayers.settings import parse_seconds

__all__ = ["load_script", "parse_script"]

SCRIPT_BYTES_MAX: Final = 4 * 1024 * 1024
"""A script is written by hand; a larger file is the wrong file."""


def load_script(path: Path) -> Script:
    """
    Read a script file.

    Raises:
        ScriptError: It cannot be read, is not YAML, or not a script.
    """
    try:
        if path.stat().st_size > SCRIPT_BYTES_MAX:
            raise ScriptError(f"{path}: larger than {SCRIPT_BYTES_MAX} bytes, so hardly a script")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ScriptError(f"{path}: cannot read the script: {reason}") from error
    return parse_script(text, source=str(path))


def parse_script(text: str, *, source: str = "script") -> Script:
    """
    Read a script from YAML text.

    Raises:
        ScriptError: Not YAML, or not a script.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise ScriptError(f"{where}: not YAML: {getattr(error, 'problem', None) or error}") from error
    if node is None:
        raise ScriptError(f"{source}: empty; a script has 'turns:' with a list of turns")
    try:
        return _Reader(source).script(node)
    except RecursionError as error:
        raise ScriptError(f"{source}: nested too deeply, or an alias that holds itself") from error


class _Reader:
    def __init__(self, source: str) -> None:
        self._source = source

    def script(self, node: yaml.Node) -> Script:
        known = {"turns": self._turns, "model": self._text}
        values = self._fields(node, known, "a script", required="turns")
        return Script(values["turns"], model=values.get("model", "scripted-1"), source=self._source)

    def _turns(self, node: yaml.Node) -> list[Turn]:
        return [self._turn(item) for item in self._items(node, "turns")]

    def _turn(self, node: yaml.Node) -> Turn:
        known = {"when": self._text, "repeat": self._flag, "steps": self._steps}
        values = self._fields(node, known, "a turn", required="steps")
        return Turn(values["steps"], when=values.get("when"), repeat=values.get("repeat", False))

    def _steps(self, node: yaml.Node) -> list[Step]:
        return [self._step(item) for item in self._items(node, "steps")]

    def _step(self, node: yaml.Node) -> Step:
        """A step is named by its first key; ``tool`` and ``fail`` take a second one."""
        kinds: dict[str, Callable[[yaml.Node], Any]] = {
            "say": self._text, "think": self._text, "tool": self._tool_name, "delay": self._seconds,
            "fail": self._text, "interrupt": self._flag, "input": self._value, "crash": self._flag,
        }  # fmt: skip
        values = self._fields(node, kinds, "a step")
        makers: dict[str, tuple[str, Callable[[], Step]]] = {
            "say": ("", lambda: Say(values["say"])),
            "think": ("", lambda: Think(values["think"])),
            "tool": (
                "input",
                lambda: CallTool(values["tool"], self._arguments(node, values.get("input", {}))),
            ),
            "delay": ("", lambda: Delay(values["delay"])),
            "fail": ("crash", lambda: Fail(values["fail"], crash=values.get("crash", False))),
            "interrupt": ("", Interrupt),
        }
        named = [name for name in makers if name in values]
        if len(named) != 1:
            raise self._error(
                node,
                f"a step is exactly one of {', '.join(makers)}; this one has {named or 'none'}",
            )
        companion, make = makers[named[0]]
        for name in values:
            if name not in {named[0], companion}:
                raise self._error(node, f"{name!r} does not belong to a {named[0]!r} step")
        return make()

    def _arguments(self, node: yaml.Node, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self._error(node, "'input' must be a mapping of the tool's arguments")
        return value

    def _tool_name(self, node: yaml.Node) -> str:
        name = self._text(node)
        if name not in TOOL_NAMES:
            raise self._error(node, f"no tool {name!r}{_hint(name, list(TOOL_NAMES))}")
        return name

    def _seconds(self, node: yaml.Node) -> float:
        try:
            return parse_seconds(self._value(node), setting="delay")
        except SettingsError as error:
            raise self._error(node, str(error)) from error

    def _text(self, node: yaml.Node) -> str:
        value = self._value(node)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self._error(node, f"expected a text, got {_kind(node)}")
        return value if isinstance(value, str) else node.value

    def _flag(self, node: yaml.Node) -> bool:
        value = self._value(node)
        if not isinstance(value, bool):
            raise self._error(node, f"expected true or false, got {node.value!r}")
        return value

    def _items(self, node: yaml.Node, name: str) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            raise self._error(node, f"{name!r} must be a list, got {_kind(node)}")
        return list(node.value)

    def _fields(
        self,
        node: yaml.Node,
        known: Mapping[str, Callable[[yaml.Node], Any]],
        what: str,
        *,
        required: str = "",
    ) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, f"{what} must be a mapping with {', '.join(known)}, got {_kind(node)}")
        values: dict[str, Any] = {}
        for key, value in self._pairs(node):
            name = str(key.value)
            if name not in known:
                raise self._error(key, f"{what} has no {name!r}{_hint(name, list(known))}")
            values[name] = known[name](value)
        if required and required not in values:
            raise self._error(node, f"{what} needs {required!r}")
        return values

    def _pairs(self, node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, f"a name must be a text, got {_kind(key)}")
            name = str(key.value)
            if name in seen:
                raise self._error(key, f"{name!r} is written twice")
            seen.add(name)
            yield key, value

    def _value(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return {self._value(key): self._value(value) for key, value in self._pairs(node)}
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item) for item in node.value]
        constructor = yaml.constructor.SafeConstructor()
        try:
            return constructor.construct_object(node)
        except yaml.YAMLError as error:
            raise self._error(node, str(getattr(error, "problem", error))) from error

    def _error(self, node: yaml.Node, problem: str) -> ScriptError:
        mark = node.start_mark
        return ScriptError(f"{self._source}:{mark.line + 1}:{mark.column + 1}: {problem}")


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    return "a list" if isinstance(node, yaml.SequenceNode) else repr(node.value)
