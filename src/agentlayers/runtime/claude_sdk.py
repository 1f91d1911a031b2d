"""
Load claude-agent-sdk when it is needed, and say what to do when it is not there.

It belongs to the extra ``claude``: nothing else imports it, and only here. It is handed on as :obj:`typing.Any`,
so that this package is checked the same with and without it.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from agentlayers.errors import ConfigurationError

__all__ = ["INSTALL_HINT", "claude_sdk_is_installed", "load_claude_sdk", "require_claude_sdk"]

INSTALL_HINT: Final = "pip install 'agentlayers[claude]'"


def claude_sdk_is_installed() -> bool:
    """Look whether claude-agent-sdk is installed, without loading it."""
    return find_spec("claude_agent_sdk") is not None


def require_claude_sdk() -> None:
    """
    Refuse to go on without claude-agent-sdk.

    Raises:
        ConfigurationError: It is not.
    """
    if not claude_sdk_is_installed():
        raise ConfigurationError(f"the claude backend needs claude-agent-sdk, which is not installed: {INSTALL_HINT}")


def load_claude_sdk() -> Any:
    """
    Load claude-agent-sdk; takes a noticeable time the first time.

    Raises:
        ConfigurationError: It is not installed.
    """
    require_claude_sdk()
    return import_module("claude_agent_sdk")
