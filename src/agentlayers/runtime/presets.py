"""
Load a graph from YAML: a preset by name, or a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from agentlayers.runtime.containers import AgentRuntimeContainer

__all__ = ["load_preset"]


def load_preset(
    source: str | Path, *, environment: Mapping[str, str] | None = None, **options: Any
) -> type[AgentRuntimeContainer]:
    """
    Load a preset by name (``local``, ``memory``, ``synced``...) or a YAML file by path.

    What the file does not say is the default of
    :class:`~agentlayers.runtime.containers.AgentRuntimeContainer`.

    Args:
        source: Name of a preset that ships with the package, or a path.
        environment: For ``${NAME}`` in the file; the process's own when :obj:`None`.
        **options: For :func:`agentlayers.layer.load_layers`, such as a ``catalogue`` of your own parts.

    Returns:
        A container class: build it, subclass it, or override its slots.

    Raises:
        LayerError: No such preset, or a file that is wrong; all errors at once, with line and column.
    """
    from agentlayers.layer import load_layers
    from agentlayers.runtime.containers import AgentRuntimeContainer

    loaded = load_layers(source, container=AgentRuntimeContainer, environment=environment, **options)
    return cast("type[AgentRuntimeContainer]", loaded)
