"""``agentlayers demo``, told in :mod:`.story`, judged in :mod:`.report`."""

from agentlayers.cli.demo.command import command

__all__ = ["command"]
