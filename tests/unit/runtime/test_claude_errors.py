"""What the ``claude`` command and its SDK complain about, in our words."""

from __future__ import annotations

from typing import Any

import pytest

from agentlayers.errors import AgentLayersError, BackendError, StateError, UsageError
from agentlayers.runtime.claude_errors import ClaudeCommandNotFoundError, ClaudeExitError, translate_error


class ClaudeSDKError(Exception):
    """Named as the SDK's, whose errors are told by name so that it need not be loaded."""


class CLINotFoundError(ClaudeSDKError):
    """As the SDK's."""


class ProcessError(ClaudeSDKError):
    """As the SDK's."""

    def __init__(self, text: str, exit_code: int | None = None, data: Any = None) -> None:
        super().__init__(text)
        self.exit_code, self.data = exit_code, data


class ResultError(ProcessError):
    """As the SDK's."""


class CLIConnectionError(ClaudeSDKError, ValueError):
    """As the SDK's, with a base that must not mislead."""


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (CLINotFoundError("not at: /x\nsecond line"), ClaudeCommandNotFoundError, r"\(not at: /x\); it comes with pip"),
        (ProcessError("failed", 1), ClaudeExitError, "ended with exit status 1: first | last"),
        (ProcessError("failed", -9), ClaudeExitError, "was killed by SIGKILL"),
        (ProcessError("failed", -99), ClaudeExitError, "was killed by signal 99"),
        (ProcessError("failed"), ClaudeExitError, "ended without a result"),
        (ResultError("x", 1, {"errors": ["no such session", 3]}), ClaudeExitError, "status 1: no such session$"),
        (ResultError("x", 1, {"result": "told"}), ClaudeExitError, "status 1: told$"),
        (ResultError("x", 1), ClaudeExitError, r"status 1: first \| last$"),
        (CLIConnectionError("no connection"), BackendError, r"claude-agent-sdk: no connection \(first \| last\)"),
        (ValueError("conflicting"), UsageError, "refuses the options: conflicting"),
        (RuntimeError(""), BackendError, "claude-agent-sdk: RuntimeError"),
    ],
)
def test_an_error_says_what_happened(error: Exception, kind: type[AgentLayersError], text: str) -> None:
    with pytest.raises(kind, match=text) as raised:
        raise translate_error(error, stderr=["first", " ", "last"])

    assert kind is type(raised.value)


def test_our_own_errors_stay_what_they_are() -> None:
    error = StateError("closed")

    assert error is translate_error(error)
