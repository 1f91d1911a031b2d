"""Scripts in YAML: what they become, and errors with lines."""

from pathlib import Path

import pytest

from agentlayers.errors import ScriptError
from agentlayers.runtime.script import (
    CallTool,
    Delay,
    Fail,
    Interrupt,
    Say,
    Script,
    Think,
    Turn,
    render,
)

WHOLE = """\
model: my-model
turns:
  - when: "*greet*"
    repeat: true
    steps:
      - say: "Hello {prompt}"
      - think: hm
      - tool: run_command
        input: {command: [echo, "1"], timeout: 2 s}
      - tool: list_files
      - delay: 200 millis
      - fail: overloaded
      - interrupt: true
  - steps:
      - fail: gone
        crash: true
      - say: 42
"""


def test_every_step_is_read() -> None:
    script = Script.parse(WHOLE, source="talk.yaml")

    assert (
        Script(
            [
                Turn(
                    [
                        Say("Hello {prompt}"),
                        Think("hm"),
                        CallTool("run_command", {"command": ["echo", "1"], "timeout": "2 s"}),
                        CallTool("list_files", {}),
                        Delay(0.2),
                        Fail("overloaded"),
                        Interrupt(),
                    ],
                    when="*greet*",
                    repeat=True,
                ),
                Turn([Fail("gone", crash=True), Say("42")]),
            ],
            model="my-model",
            source="talk.yaml",
        )
        == script
    )


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "talk.yaml"
    path.write_text("turns: [{steps: [{say: hi}]}]")

    assert Script([Turn([Say("hi")])], source=str(path)) == Script.load(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "t: empty; a script has 'turns:'"),
        ("turns: [", "t:1:9: not YAML"),
        ("- a", "t:1:1: a script must be a mapping with turns, model, got a list"),
        ("model: x", "t:1:1: a script needs 'turns'"),
        ("turns: {}", "t:1:8: 'turns' must be a list, got a mapping"),
        ("trns: []", "t:1:1: a script has no 'trns'; did you mean 'turns'?"),
        ("turns:\n  - say: hi", "t:2:5: a turn has no 'say'"),
        ("turns:\n  - steps:\n    - sya: hi", "t:3:7: a step has no 'sya'; did you mean 'say'?"),
        ("turns:\n  - steps:\n    - say: hi\n      delay: 1", "t:3:7: a step is exactly one of"),
        ("turns:\n  - steps:\n    - input: {}", "t:3:7: a step is exactly one of"),
        (
            "turns:\n  - steps:\n    - say: hi\n      input: {}",
            "t:3:7: 'input' does not belong to a 'say' step",
        ),
        (
            "turns:\n  - steps:\n    - tool: writefile",
            "t:3:13: no tool 'writefile'; did you mean 'write_file'?",
        ),
        (
            "turns:\n  - steps:\n    - tool: list_files\n      input: x",
            "t:3:7: 'input' must be a mapping",
        ),
        ("turns:\n  - steps:\n    - delay: soon", "t:3:14: delay: 'soon' cannot be used"),
        ("turns:\n  - steps:\n    - say: [a]", "t:3:12: expected a text, got a list"),
        ("turns:\n  - steps:\n    - interrupt: 1", "t:3:18: expected true or false, got '1'"),
        ("turns:\n  - steps: []\n    steps: []", "t:3:5: 'steps' is written twice"),
        ("? [a]\n: b", "t:1:3: a name must be a text, got a list"),
        (
            "turns: &a [{steps: [{tool: list_files, input: {x: *a}}]}]",
            "t: nested too deeply, or an alias",
        ),
        (
            "turns: [{steps: [{say: !!python/name:os.system x}]}]",
            "could not determine a constructor",
        ),
    ],
)
def test_errors_have_a_line_and_what_would_be_right(text: str, expected: str) -> None:
    with pytest.raises(ScriptError) as raised:
        Script.parse(text, source="t")

    assert expected in str(raised.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    with pytest.raises(ScriptError, match=r"missing\.yaml: cannot read the script"):
        Script.load(tmp_path / "missing.yaml")
    with pytest.raises(ScriptError, match="not UTF-8 text"):
        Script.load(tmp_path / "binary")


def test_what_a_prompt_says_is_never_filled_in_again() -> None:
    names = {"prompt": "{result}", "result": "secret", "turn": "1"}

    assert "{result}/secret/1/{other}/{" == render("{prompt}/{result}/{turn}/{other}/{", names)
