"""``agentlayers identity new``: make one."""

from __future__ import annotations

from agentlayers.cli.identity.arguments import Place, identity_path, show_identity

__all__ = ["new"]


def new(place: Place) -> None:
    """
    Make a new identity, in a file that only its owner can read.

    A file that exists is never overwritten, because what was sealed with its key would be lost. Replicas that shall
    share their journals need the same identity: carry the file over, or use 'identity export' and 'identity import'.

    For instance:

      mkdir -m 700 ./replica && agentlayers identity new ./replica
    """
    from agentlayers.eventlog.identity import Identity

    path, identity = identity_path(place), Identity.generate()
    identity.save(path)
    show_identity(path, identity)
