"""
Every error the package raises, sorted by whose fault it is.

The tree is read from the top: the calling code (:class:`UsageError`), the operator's input
(:class:`ConfigurationError`), the wire (:class:`ProtocolError`), access, cryptography, storage, the
network, the agent. Facts are keyword fields; :meth:`__str__` renders them, so that a caller can branch on
a field and never has to parse a text. Only :attr:`AgentLayersError.code` and a fixed text ever cross the wire.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

__all__ = [
    "AccessError",
    "AgentError",
    "AgentLayersError",
    "AuthenticationError",
    "AuthorizationError",
    "BackendError",
    "ConfigurationError",
    "ConnectError",
    "ConnectionLostError",
    "CryptoError",
    "DecryptionError",
    "ErrorCode",
    "IdentityError",
    "LayerError",
    "LimitExceededError",
    "LocalProtocolError",
    "MalformedMessageError",
    "MigrationError",
    "ProtocolError",
    "QueryPendingCanceledError",
    "QueryPendingTimeoutError",
    "QueryQueueFullError",
    "QueryTimeoutError",
    "RemoteProtocolError",
    "ScriptError",
    "SettingsError",
    "StateError",
    "StorageConflictError",
    "StorageCorruptionError",
    "StorageError",
    "StorageUnavailableError",
    "ToolError",
    "TransportError",
    "UnexpectedMessageError",
    "UnknownEventError",
    "UsageError",
    "VersionMismatchError",
]


class ErrorCode(StrEnum):
    """Stable names of errors, as they travel on the wire and in logs."""

    USAGE = "usage"
    STATE = "state"
    UNKNOWN_EVENT = "unknown_event"
    CONFIGURATION = "configuration"
    SETTINGS = "settings"
    LAYER = "layer"
    IDENTITY = "identity"
    PROTOCOL = "protocol"
    LOCAL_PROTOCOL = "local_protocol"
    REMOTE_PROTOCOL = "remote_protocol"
    MALFORMED_MESSAGE = "malformed_message"
    UNEXPECTED_MESSAGE = "unexpected_message"
    LIMIT_EXCEEDED = "limit_exceeded"
    VERSION_MISMATCH = "version_mismatch"
    ACCESS = "access"
    AUTHENTICATION = "authentication"
    AUTHORIZATION = "authorization"
    CRYPTO = "crypto"
    DECRYPTION = "decryption"
    STORAGE = "storage"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    STORAGE_CONFLICT = "storage_conflict"
    STORAGE_CORRUPTION = "storage_corruption"
    MIGRATION = "migration"
    TRANSPORT = "transport"
    CONNECT = "connect"
    CONNECTION_LOST = "connection_lost"
    AGENT = "agent"
    TOOL = "tool"
    BACKEND = "backend"
    SCRIPT = "script"
    QUERY_QUEUE_FULL = "query_queue_full"
    QUERY_PENDING_TIMEOUT = "query_pending_timeout"
    QUERY_PENDING_CANCELED = "query_pending_canceled"
    QUERY_TIMEOUT = "query_timeout"


class AgentLayersError(Exception):
    """
    Root of everything raised on purpose.

    Attributes:
        code: Stable name; safe to log and to send to a peer.
        retryable: Whether the same call may succeed later without a change by the caller.
        message: What is wrong and what would be right, in one or a few sentences, without secrets.
    """

    code: ClassVar[ErrorCode] = ErrorCode.USAGE
    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message or type(self).__name__


class UsageError(AgentLayersError):
    """The calling code is wrong; retrying never helps."""


class StateError(UsageError):
    """Called in a state that forbids it, such as a closed journal."""

    code = ErrorCode.STATE


class UnknownEventError(UsageError):
    """An event name that its group does not declare."""

    code = ErrorCode.UNKNOWN_EVENT

    def __init__(self, *, event: str, store: str, known: tuple[str, ...]) -> None:
        self.event, self.store, self.known = event, store, known
        super().__init__(f"store {store!r} has no event {event!r}; it knows {', '.join(known) or 'none'}")


class ConfigurationError(AgentLayersError):
    """The operator's input is wrong: a setting, a file, a command-line argument."""

    code = ErrorCode.CONFIGURATION


class SettingsError(ConfigurationError):
    """
    One setting has a value that cannot be used.

    Attributes:
        setting: Its name as the operator wrote it (variable, YAML path or option).
        expected: What would be right.
    """

    code = ErrorCode.SETTINGS

    def __init__(self, *, setting: str, value: object = None, expected: str, secret: bool = False) -> None:
        self.setting, self.expected = setting, expected
        shown = "the given value" if secret else repr(value)
        super().__init__(f"{setting}: {shown} cannot be used; expected {expected}")


class IdentityError(ConfigurationError):
    """An identity file or string that cannot be read as one."""

    code = ErrorCode.IDENTITY


class LayerError(ConfigurationError):
    """A graph that cannot be built. The layer framework derives one class for each cause."""

    code = ErrorCode.LAYER


class ProtocolError(AgentLayersError):
    """A rule of the wire protocol was broken."""

    code = ErrorCode.PROTOCOL


class LocalProtocolError(ProtocolError):
    """Our side asked a session for something its state forbids."""

    code = ErrorCode.LOCAL_PROTOCOL


class RemoteProtocolError(ProtocolError):
    """The peer broke a rule of the wire protocol."""

    code = ErrorCode.REMOTE_PROTOCOL


class MalformedMessageError(RemoteProtocolError):
    """Bytes that are no message: not MessagePack, a missing or ill-typed field, an unknown ``_tag``."""

    code = ErrorCode.MALFORMED_MESSAGE


class UnexpectedMessageError(RemoteProtocolError):
    """A well-formed message that the state of the session forbids."""

    code = ErrorCode.UNEXPECTED_MESSAGE


class LimitExceededError(RemoteProtocolError):
    """
    The peer went past a bound of :mod:`agentlayers.limits`.

    Attributes:
        limit: Name of the bound.
        allowed: Its value.
        declared: What the peer sent or announced.
    """

    code = ErrorCode.LIMIT_EXCEEDED

    def __init__(self, *, limit: str, allowed: int, declared: int) -> None:
        self.limit, self.allowed, self.declared = limit, allowed, declared
        super().__init__(f"{limit}: the peer declared {declared}, at most {allowed} is allowed")


class VersionMismatchError(RemoteProtocolError):
    """The peer announced an extension version this release cannot speak."""

    code = ErrorCode.VERSION_MISMATCH


class AccessError(AgentLayersError):
    """The peer refused us, or we refused it."""

    code = ErrorCode.ACCESS


class AuthenticationError(AccessError):
    """No credentials, or wrong ones."""

    code = ErrorCode.AUTHENTICATION


class AuthorizationError(AccessError):
    """Valid credentials that do not allow this."""

    code = ErrorCode.AUTHORIZATION


class CryptoError(AgentLayersError):
    """Bytes did not verify."""

    code = ErrorCode.CRYPTO


class DecryptionError(CryptoError):
    """A ciphertext that this key does not open, or whose content is not the announced entry."""

    code = ErrorCode.DECRYPTION


class StorageError(AgentLayersError):
    """
    A store could not do what was asked; the driver's error is ``__cause__``.

    Attributes:
        backend: Which storage, such as ``sqlite``.
        operation: What was being done, such as ``open`` or ``write``.
        path: The file or directory, where there is one.
    """

    code = ErrorCode.STORAGE

    def __init__(self, *, backend: str, operation: str, reason: str, path: object = None) -> None:
        self.backend, self.operation, self.reason = backend, operation, reason
        self.path = None if path is None else str(path)
        where = f" {self.path}" if self.path else ""
        super().__init__(f"{backend}: cannot {operation}{where}: {reason}")


class StorageUnavailableError(StorageError):
    """The medium does not answer now: locked, full, gone, or not readable by this user."""

    code = ErrorCode.STORAGE_UNAVAILABLE
    retryable = True


class StorageConflictError(StorageError):
    """Another writer got there first."""

    code = ErrorCode.STORAGE_CONFLICT


class StorageCorruptionError(StorageError):
    """Something was read back that was never written."""

    code = ErrorCode.STORAGE_CORRUPTION


class MigrationError(StorageError):
    """A file that this release cannot open: of a newer schema version, or of another program."""

    code = ErrorCode.MIGRATION


class TransportError(AgentLayersError):
    """The network failed."""

    code = ErrorCode.TRANSPORT
    retryable = True


class ConnectError(TransportError):
    """
    No connection could be made.

    Attributes:
        url: Where to, without credentials.
    """

    code = ErrorCode.CONNECT

    def __init__(self, *, url: str, reason: str) -> None:
        self.url, self.reason = url, reason
        super().__init__(f"cannot connect to {url}: {reason}")


class ConnectionLostError(TransportError):
    """
    An open connection ended.

    Attributes:
        close_code: The peer's WebSocket close code, where there was one.
        reason: The peer's reason, or what happened.
    """

    code = ErrorCode.CONNECTION_LOST

    def __init__(self, *, reason: str, close_code: int | None = None) -> None:
        self.reason, self.close_code = reason, close_code
        shown = f" (close code {close_code})" if close_code is not None else ""
        super().__init__(f"connection lost{shown}: {reason}")


class AgentError(AgentLayersError):
    """The agent, its backend or one of its tools failed."""

    code = ErrorCode.AGENT


class ToolError(AgentError):
    """A tool call failed; the agent is told, the conversation goes on."""

    code = ErrorCode.TOOL


class BackendError(AgentError):
    """The agent's backend could not start or broke down."""

    code = ErrorCode.BACKEND


class ScriptError(BackendError):
    """A script for the scripted backend that cannot be played."""

    code = ErrorCode.SCRIPT


class QueryQueueFullError(AgentError):
    """The pending queue had no room for this query, or a newer query displaced it."""

    code = ErrorCode.QUERY_QUEUE_FULL
    retryable = True

    def __init__(self, *, query_id: str, capacity: int, strategy: str) -> None:
        self.query_id, self.capacity, self.strategy = query_id, capacity, strategy
        super().__init__(
            f"query {query_id}: the pending queue of {capacity} is full (strategy {strategy}); "
            "raise pending_queue_capacity or concurrency_limit, or retry later"
        )


class QueryPendingTimeoutError(AgentError):
    """The query waited longer than ``max_pending_time`` for a free slot."""

    code = ErrorCode.QUERY_PENDING_TIMEOUT
    retryable = True

    def __init__(self, *, query_id: str, timeout_seconds: float) -> None:
        self.query_id, self.timeout_seconds = query_id, timeout_seconds
        super().__init__(f"query {query_id}: no slot became free within {timeout_seconds:g} s")


class QueryPendingCanceledError(AgentError):
    """The query was given up before it started."""

    code = ErrorCode.QUERY_PENDING_CANCELED

    def __init__(self, *, query_id: str) -> None:
        self.query_id = query_id
        super().__init__(f"query {query_id}: given up before it started")


class QueryTimeoutError(AgentError):
    """The query, or its first message, took longer than allowed."""

    code = ErrorCode.QUERY_TIMEOUT

    def __init__(self, *, query_id: str, what: str, timeout_seconds: float) -> None:
        self.query_id, self.what, self.timeout_seconds = query_id, what, timeout_seconds
        super().__init__(f"query {query_id}: no {what} within {timeout_seconds:g} s")
