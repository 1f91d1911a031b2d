"""
Scripts for the scripted agent: what it says, which tools it calls, and what goes wrong.

A script is a list of *turns*; a turn answers one prompt with a list of *steps*. In Python these are the
values of this module; in YAML the same, by name (read by :mod:`agentlayers.runtime.script_yaml`)::

    model: scripted-1
    turns:
      - when: "*greet*"              # which prompts; without it, any
        steps:
          - say: "Let me write that down."
          - tool: write_file
            input: {path: note.txt, content: "{prompt}"}
          - tool: run_command
            input: {command: [wc, -c, note.txt]}
          - delay: 200 millis
          - say: "Done: {result}"

In texts, ``{prompt}`` is the prompt, ``{result}`` what the last tool said and ``{turn}`` the number of the turn.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

__all__ = [
    "DEFAULT_SCRIPT",
    "CallTool",
    "Delay",
    "Fail",
    "Interrupt",
    "Say",
    "Script",
    "Step",
    "Think",
    "Turn",
    "render",
]


@final
@dataclass(frozen=True, slots=True)
class Say:
    """
    Say a text: one assistant message.

    Attributes:
        text: May hold ``{prompt}``, ``{result}`` and ``{turn}``.
    """

    text: str


@final
@dataclass(frozen=True, slots=True)
class Think:
    """
    Think aloud: one assistant message with a thinking block.

    Attributes:
        text: May hold ``{prompt}``, ``{result}`` and ``{turn}``.
    """

    text: str


@final
@dataclass(frozen=True, slots=True)
class CallTool:
    """
    Call a tool, for real.

    Attributes:
        name: ``write_file``, ``read_file``, ``list_files`` or ``run_command``.
        input: Its arguments; texts in it, at any depth, may hold ``{prompt}``, ``{result}`` and ``{turn}``.
    """

    name: str
    input: Mapping[str, Any] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Delay:
    """
    Do nothing for a while.

    Attributes:
        seconds: How long.
    """

    seconds: float


@final
@dataclass(frozen=True, slots=True)
class Fail:
    """
    Fail.

    Attributes:
        message: What went wrong.
        crash: Break down as a killed process does (iteration raises ``BackendError``), instead of ending the
            turn with a result that ``is_error``.
    """

    message: str
    crash: bool = False


@final
@dataclass(frozen=True, slots=True)
class Interrupt:
    """End the turn as if its user had interrupted it here."""


Step = Say | Think | CallTool | Delay | Fail | Interrupt


@final
@dataclass(frozen=True, slots=True)
class Turn:
    """
    The answer to one prompt.

    Attributes:
        steps: What happens, in order.
        when: Which prompts it answers, as a shell pattern over the whole text (``*greet*``), in any case;
            :obj:`None` is any prompt.
        repeat: It may answer again; otherwise it answers one prompt of a session.
    """

    steps: Sequence[Step]
    when: str | None = None
    repeat: bool = False

    def answers(self, prompt: str) -> bool:
        """Whether this turn is an answer to the prompt."""
        return self.when is None or fnmatch.fnmatchcase(prompt.lower(), self.when.lower())


@final
@dataclass(frozen=True, slots=True)
class Script:
    """
    What a scripted agent does.

    A prompt is answered by the first turn that fits and is not used up. If none is left, the turn fails and
    says so, because a script that ran out is most often a mistake.

    Attributes:
        turns: The answers.
        model: Named in the messages.
        source: Where it came from, for errors.
    """

    turns: Sequence[Turn]
    model: str = "scripted-1"
    source: str = "script"

    @classmethod
    def say(cls, *texts: str) -> Script:
        """Answer the first prompt with the first text, the second with the second, and so on."""
        return cls([Turn([Say(text)]) for text in texts])

    @classmethod
    def parse(cls, text: str, *, source: str = "script") -> Script:
        """
        Read a script from YAML text.

        Raises:
            ScriptError: Not YAML, or not a script; with the line and what would be right.
        """
        from agentlayers.runtime.script_yaml import parse_script

        return parse_script(text, source=source)

    @classmethod
    def load(cls, path: str | Path) -> Script:
        """
        Read a script from a YAML file.

        Raises:
            ScriptError: The file cannot be read, is not YAML, or not a script.
        """
        from agentlayers.runtime.script_yaml import load_script

        return load_script(Path(path))


DEFAULT_SCRIPT: Final = Script(
    [
        Turn(
            [
                Say("I will write that down."),
                CallTool("write_file", {"path": "note-{turn}.txt", "content": "{prompt}\n"}),
                CallTool("run_command", {"command": ["cat", "note-{turn}.txt"]}),
                Say("Noted: {result}"),
            ],
            when="*note*",
            repeat=True,
        ),
        Turn([Say("You said: {prompt}")], repeat=True),
    ],
    source="built-in script",
)
"""
What a scripted agent does when it is given no script, so that a first run shows something.

A prompt with the word *note* is written to a file and read back by a command; any other one is echoed.
"""


def render(value: Any, names: Mapping[str, str]) -> Any:
    """
    Put ``{prompt}``, ``{result}`` and ``{turn}`` into every text of a value; other braces stay as they are.

    >>> render({"a": ["{prompt}!", 1]}, {"prompt": "hi {result}", "result": "?"})
    {'a': ['hi {result}!', 1]}

    """
    if isinstance(value, str):
        return _fill(value, names)
    if isinstance(value, Mapping):
        return {key: render(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [render(item, names) for item in value]
    return value


def _fill(text: str, names: Mapping[str, str]) -> str:
    # One pass, so that what a prompt says is never filled in again.
    pieces: list[str] = []
    position = 0
    while (start := text.find("{", position)) >= 0:
        end = text.find("}", start)
        name = text[start + 1 : end] if end > 0 else ""
        if name in names:
            pieces += [text[position:start], names[name]]
            position = end + 1
        else:
            pieces.append(text[position : start + 1])
            position = start + 1
    return "".join(pieces) + text[position:]
