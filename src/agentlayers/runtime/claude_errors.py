"""What can go wrong with the ``claude`` command, in our words."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

from agentlayers.errors import AgentLayersError, BackendError, ConfigurationError, UsageError
from agentlayers.runtime.claude_sdk import INSTALL_HINT

__all__ = ["ClaudeCommandNotFoundError", "ClaudeExitError", "ClaudeLoginError", "translate_error"]


class ClaudeCommandNotFoundError(ConfigurationError):
    """There is no ``claude`` command to run."""


class ClaudeLoginError(BackendError):
    """The API refused the credentials, or there are none."""


class ClaudeExitError(BackendError):
    """
    The ``claude`` command ended before its work was done.

    Attributes:
        exit_code: Of the command; negative is the signal that killed it, :obj:`None` is unknown.
    """

    def __init__(self, exit_code: int | None, *, reason: str = "") -> None:
        self.exit_code = exit_code
        said = f": {reason}" if reason else ""
        super().__init__(f"the claude command {_how_it_ended(exit_code)}{said}")


def translate_error(error: BaseException, *, stderr: Sequence[str] = ()) -> AgentLayersError:
    """
    Turn an error of claude-agent-sdk into one of ours.

    Args:
        error: What was raised.
        stderr: The last lines the command wrote there; often the only place where the reason stands.
    """
    if isinstance(error, AgentLayersError):
        return error
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "CLINotFoundError" in kinds:
        return ClaudeCommandNotFoundError(
            f"there is no claude command to run ({_first_line(error)}); "
            f"it comes with {INSTALL_HINT}, or set the option cli_path to where it is"
        )
    if "ResultError" in kinds:
        return ClaudeExitError(_exit_code(error), reason=_result_text(error) or _told(stderr))
    if "ProcessError" in kinds:
        return ClaudeExitError(_exit_code(error), reason=_told(stderr))
    if isinstance(error, TypeError | ValueError) and "ClaudeSDKError" not in kinds:
        return UsageError(f"claude-agent-sdk refuses the options: {error}")
    told = _told(stderr)
    return BackendError(f"claude-agent-sdk: {_first_line(error)}" + (f" ({told})" if told else ""))


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is None or exit_code == 0:
        return "ended without a result"
    if exit_code > 0:
        return f"ended with exit status {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"


def _exit_code(error: BaseException) -> int | None:
    code = getattr(error, "exit_code", None)
    return code if isinstance(code, int) else None


def _result_text(error: BaseException) -> str:
    data: Any = getattr(error, "data", None)
    if not isinstance(data, dict):
        return ""
    errors = [text for text in data.get("errors") or () if isinstance(text, str)]
    result = data.get("result")
    return "; ".join(errors) or (result if isinstance(result, str) else "")


def _told(stderr: Sequence[str]) -> str:
    return " | ".join(line.strip() for line in stderr[-5:] if line.strip())


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
