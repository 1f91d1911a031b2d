"""What the exit status of ``agentlayers`` says about whose fault it was."""

from __future__ import annotations

from enum import IntEnum

from agentlayers import errors

__all__ = ["ExitStatus", "exit_status_of", "root_fault"]


class ExitStatus(IntEnum):
    """Exit statuses; 2 is what the option parser itself uses for a bad command line."""

    OK = 0
    FAILED = 1
    """The command ran and its answer is no, such as a demo that lost something."""
    CONFIGURATION = 2
    """The operator's input is wrong: an option, a file, an address."""
    ACCESS = 3
    """The server refused the credentials."""
    STORAGE = 4
    """A file or directory could not be used, or holds something never written."""
    NETWORK = 5
    """Nobody answers, or the peer broke the protocol."""
    AGENT = 6
    """The agent or its backend failed."""
    INTERRUPTED = 130


_STATUS_OF = (
    (errors.AccessError, ExitStatus.ACCESS),
    (errors.StorageError, ExitStatus.STORAGE),
    (errors.CryptoError, ExitStatus.STORAGE),
    (errors.TransportError, ExitStatus.NETWORK),
    (errors.ProtocolError, ExitStatus.NETWORK),
    (errors.AgentError, ExitStatus.AGENT),
    (errors.UsageError, ExitStatus.CONFIGURATION),
    (errors.ConfigurationError, ExitStatus.CONFIGURATION),
)


def root_fault(error: errors.AgentLayersError) -> errors.AgentLayersError:
    """
    Return what made a graph fail to start, for whoever asked for the command and not for the graph.

    An error without a known cause is its own.
    """
    cause = error.__cause__
    if isinstance(error, errors.LayerError) and isinstance(cause, errors.AgentLayersError):
        return root_fault(cause)
    return error


def exit_status_of(error: errors.AgentLayersError) -> ExitStatus:
    """Return the exit status for a known fault."""
    return next((status for kind, status in _STATUS_OF if isinstance(error, kind)), ExitStatus.FAILED)
