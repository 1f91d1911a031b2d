"""Options of a query, as claude-agent-sdk gets them; no command is started here."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from agentlayers.errors import ConfigurationError, UsageError
from agentlayers.runtime.backend import AgentBackend
from agentlayers.runtime.claude import ClaudeBackend
from agentlayers.runtime.claude_hooks import claude_hooks
from agentlayers.runtime.claude_options import CLAUDE_OPTIONS, claude_options
from agentlayers.runtime.claude_sdk import claude_sdk_is_installed, load_claude_sdk
from agentlayers.runtime.containers import AgentRuntimeContainer
from agentlayers.runtime.hooks import HookMatcher
from agentlayers.runtime.options import QueryOptions
from agentlayers.runtime.presets import load_preset

needs_sdk = pytest.mark.skipif(
    not claude_sdk_is_installed(), reason="claude-agent-sdk is not installed: pip install 'agentlayers[claude]'"
)


def made(**options: Any) -> Any:
    checked = QueryOptions.from_mapping(options, extra_options=CLAUDE_OPTIONS)
    return claude_options(load_claude_sdk(), checked, env={}, session_store=None, stderr=lambda line: None)


@needs_sdk
def test_every_option_of_the_sdk_can_be_given() -> None:
    """A new release of the SDK with new options shows here."""
    known = {field.name for field in fields(load_claude_sdk().ClaudeAgentOptions)}
    own = {field.name for field in fields(QueryOptions)} - {"extra"}

    assert known == own | CLAUDE_OPTIONS | {"debug_stderr"}  # which the SDK ignores


@needs_sdk
def test_options_arrive_and_unset_ones_keep_the_defaults_of_the_sdk(tmp_path: Path) -> None:
    options = made(model="m", cwd=tmp_path, max_turns=3, effort="low", disallowed_tools=("Bash",))

    assert ("m", str(tmp_path), 3, "low", ["Bash"]) == (
        options.model, options.cwd, options.max_turns, options.effort, options.disallowed_tools,
    )  # fmt: skip
    default = load_claude_sdk().ClaudeAgentOptions()
    changed = {field.name for field in fields(default) if getattr(options, field.name) != getattr(default, field.name)}
    assert {"model", "cwd", "max_turns", "effort", "disallowed_tools", "max_buffer_size", "stderr"} == changed


@needs_sdk
def test_a_resumed_session_keeps_its_name_unless_it_is_forked() -> None:
    one, other = "5b3e0a0e-0000-4000-8000-000000000000", "5b3e0a0e-0000-4000-8000-000000000001"

    assert (None, one) == (made(resume=one, session_id=other).session_id, made(resume=one).resume)
    assert other == made(resume=one, session_id=other, fork_session=True).session_id


@needs_sdk
@pytest.mark.parametrize(
    ("event", "matcher", "passed"),
    [
        ("PreToolUse", "Bash|Write", "Bash|Write"),
        ("PreToolUse", "Wri.*", "^(?:Wri.*)$"),
        ("PreToolUse", "*", "*"),
        ("PreToolUse", None, None),
        ("SubagentStart", "resear.*", "resear.*"),
    ],
)
def test_matchers_fit_the_whole_tool_name_as_everywhere(event: str, matcher: str | None, passed: str | None) -> None:
    hooks = claude_hooks(load_claude_sdk(), {event: [HookMatcher(matcher, [], timeout=3, on_failure="block")]})

    assert hooks is not None
    assert (passed, 3, "block") == (hooks[event][0].matcher, hooks[event][0].timeout, hooks[event][0].on_failure)


@needs_sdk
def test_a_wrong_default_option_is_refused_when_the_backend_is_made() -> None:
    with pytest.raises(UsageError, match="did you mean 'cli_path'"):
        ClaudeBackend(options={"cli_pth": "/bin/claude"})


def test_without_the_extra_every_way_to_the_backend_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlayers.runtime.claude_sdk.find_spec", lambda name: None)

    for make in (ClaudeBackend, AgentBackend.layer_claude, load_claude_sdk):
        with pytest.raises(ConfigurationError, match=r"pip install 'agentlayers\[claude\]'"):
            make()


async def test_without_the_extra_a_graph_with_claude_says_so_when_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("agentlayers.runtime.claude_sdk.find_spec", lambda name: None)
    file = tmp_path / "app.yaml"
    file.write_text("journal: memory\nagent_backend: claude\n")

    with pytest.raises(ConfigurationError, match=r"pip install 'agentlayers\[claude\]'"):
        async with load_preset(file).build():
            pass


def test_the_container_does_not_load_the_sdk() -> None:
    """The extra stays optional, and its half second is paid by those who use it."""
    code = (
        "import sys, agentlayers.runtime.containers, agentlayers.runtime.claude\n"
        "print([name for name in sys.modules if name.startswith(('claude_agent_sdk', 'mcp'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)

    assert "[]" == done.stdout.strip()
    assert AgentRuntimeContainer is not None
