"""
What the stores keep, for how long, and where.

The names, defaults and floors are those of the reference SDK, so an environment written for it
works here. A value below its floor is refused, in every spelling, where the reference silently
raises it.

One default differs on purpose: ``enabled.audit_log`` is true (the reference has false). Audit is
recorded as soon as an audit store is wired, and it is the one store that syncs by default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import AliasChoices, Field, ValidationError

from agentlayers.errors import SettingsError
from agentlayers.layer import Layer
from agentlayers.settings import environment_value
from agentlayers.storage.setting_types import Flag, Seconds, SettingsModel, Size, settings_error

__all__ = [
    "ArtifactRetention",
    "AuditRetention",
    "ChatRetention",
    "CleanupSchedule",
    "EnabledStores",
    "Pagination",
    "Retention",
    "StorageConfig",
    "SyncTimer",
]

_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR

_Age = Annotated[Seconds | None, Field(validation_alias=AliasChoices("max_age", "max_age_seconds", "maxAge"))]
_Idle = Annotated[Seconds | None, Field(validation_alias=AliasChoices("max_idle", "max_idle_seconds"))]
_Interval = Annotated[Seconds, Field(validation_alias=AliasChoices("interval", "interval_seconds"))]


class EnabledStores(SettingsModel):
    """
    Which stores record at all; a disabled one takes nothing and syncs nothing, but what it holds
    stays readable.

    Attributes:
        chat_history: Record conversations.
        artifacts: Keep tool results and files.
        audit_log: Record tool uses, permission decisions and hooks.
    """

    chat_history: Flag = True
    artifacts: Flag = True
    audit_log: Flag = True


class ChatRetention(SettingsModel):
    """
    How much of each conversation is kept.

    Attributes:
        max_events: Newest messages kept per session; 0 keeps none, :obj:`None` all.
        max_age_seconds: Older messages are dropped; written ``max_age`` outside Python.
    """

    max_events: Annotated[int, Field(ge=0)] | None = 10_000
    max_age_seconds: _Age = 30 * _DAY


class ArtifactRetention(SettingsModel):
    """
    How many artifacts of each session are kept.

    Attributes:
        max_artifacts: Newest artifacts kept per session; 0 keeps none, :obj:`None` all.
        max_artifact_bytes: Newest artifacts are kept while their content fits; one that does not is
            dropped.
        max_age_seconds: Artifacts created earlier are dropped; written ``max_age`` outside Python.
    """

    max_artifacts: Annotated[int, Field(ge=0)] | None = 5_000
    max_artifact_bytes: Annotated[Size, Field(ge=0)] | None = 500_000_000
    max_age_seconds: _Age = 90 * _DAY


class AuditRetention(SettingsModel):
    """
    How much of the audit log is kept.

    Attributes:
        max_entries: Newest entries kept in the journal; 0 keeps none, :obj:`None` all.
        max_age_seconds: Older entries are dropped; written ``max_age`` outside Python.
    """

    max_entries: Annotated[int, Field(ge=0)] | None = 100_000
    max_age_seconds: _Age = 180 * _DAY


class SessionRetention(SettingsModel):
    """
    Which agent sessions are kept so that they can be resumed.

    Attributes:
        max_idle_seconds: A session whose last line is older is dropped whole, with its subagents; written ``max_idle``
            outside Python. :obj:`None`, the default, keeps all: a session that was dropped cannot be resumed here.
    """

    max_idle_seconds: _Idle = None


class Retention(SettingsModel):
    """Retention of each store."""

    chat: ChatRetention = ChatRetention()
    artifacts: ArtifactRetention = ArtifactRetention()
    audit: AuditRetention = AuditRetention()
    agent_sessions: SessionRetention = SessionRetention()


class Pagination(SettingsModel):
    """
    How many items one read returns when the caller names no limit.

    Attributes:
        chat_page_size: Messages.
        artifact_page_size: Artifacts.
        index_page_size: Sessions.
    """

    chat_page_size: Annotated[int, Field(ge=1)] = 100
    artifact_page_size: Annotated[int, Field(ge=1)] = 100
    index_page_size: Annotated[int, Field(ge=1)] = 500


class CleanupSchedule(SettingsModel):
    """
    When retention is enforced.

    Attributes:
        enabled: Run :class:`~agentlayers.storage.cleanup.StorageCleanup` at all.
        interval_seconds: Between two runs, the first one an interval after the start; written
            ``interval`` outside Python. 0 switches the timer off.
        run_on_start: Run once at start, before anything else uses the stores.
    """

    enabled: Flag = True
    interval_seconds: _Interval = _HOUR
    run_on_start: Flag = False


class SyncTimer(SettingsModel):
    """
    How often sync runs although nothing changed.

    Attributes:
        interval_seconds: 0 means no timer: changes are pushed as they are written. Written
            ``interval`` outside Python.
    """

    interval_seconds: _Interval = 0.0


class StorageConfig(SettingsModel):
    """
    Settings of all stores of a replica.

    A bad value raises :class:`~agentlayers.errors.SettingsError`, also from the constructor.

    Attributes:
        directory: Where a replica keeps its files.
        enabled: Which stores record.
        retention: How much they keep.
        pagination: How much one read returns by default.
        cleanup: When retention is enforced.
        sync: Timer of the sync service.
    """

    directory: Path = Path("storage")
    enabled: EnabledStores = EnabledStores()
    retention: Retention = Retention()
    pagination: Pagination = Pagination()
    cleanup: CleanupSchedule = CleanupSchedule()
    sync: SyncTimer = SyncTimer()

    if not TYPE_CHECKING:

        def __init__(self, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise settings_error(error, type(self), setting="storage_config") from error

    @classmethod
    def _validated(cls, settings: dict[str, Any]) -> Self:
        # Not through the constructor: it would name its own path in the error.
        made: Self = cls.__pydantic_validator__.validate_python(settings, self_instance=cls.__new__(cls))
        return made

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any], *, setting: str = "storage_config") -> Self:
        """
        Read settings from a mapping, as YAML gives it.

        Args:
            settings: Nested by section; durations and sizes may be texts.
            setting: Path of the mapping itself, named in errors.

        Raises:
            SettingsError: A name that does not exist or a value that cannot be used.

        >>> config = StorageConfig.from_mapping({"retention": {"chat": {"max_age": "7 days"}}})
        >>> config.retention.chat.max_age_seconds
        604800.0

        """
        try:
            return cls._validated(dict(settings))
        except ValidationError as error:
            raise settings_error(error, cls, setting=setting) from error

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, *, prefix: str = "AGENTLAYERS", **defaults: Any
    ) -> Self:
        """
        Read ``<prefix>_STORAGE_*``; the reference SDK's ``AGENTSDK_STORAGE_*`` counts where ours is
        absent.

        Args:
            environment: Variables to read; the process's own when :obj:`None`.
            prefix: Start of the variables' names.
            **defaults: What counts where the environment says nothing, as for :meth:`from_mapping`.

        Raises:
            SettingsError: Naming the variable that cannot be used.
        """
        environment = os.environ if environment is None else environment
        settings: dict[str, Any] = _copied(defaults)
        if settings:
            cls.from_mapping(settings)  # so that an error below is the environment's
        for variable, path in ENVIRONMENT.items():
            text = environment_value(variable, environment, prefix=prefix)
            if text is not None:
                _set(settings, path, text)
        try:
            return cls._validated(settings)
        except ValidationError as error:
            variable = _variable_of(error, environment, prefix)
            found = settings_error(error, cls, setting="")
            raise SettingsError(setting=variable, value=error.errors()[0]["input"], expected=found.expected) from error

    @classmethod
    def layer_from_env(cls, prefix: str = "AGENTLAYERS") -> Layer:
        """Offer the settings of the environment, read when the graph is built."""
        given = {} if prefix == "AGENTLAYERS" else {"prefix": prefix}
        return Layer.factory(cls, cls.from_environment, **given)

    @classmethod
    def layer_default(cls) -> Layer:
        """Offer the defaults, whatever the environment says."""
        return Layer.succeed(cls, cls())

    @classmethod
    def layer_of(cls, config: Self) -> Layer:
        """Offer these settings."""
        return Layer.succeed(cls, config)

    @classmethod
    def layer_succeed(cls, config: Self) -> Layer:
        """Offer these settings; the same as :meth:`layer_of`, named after ``Layer.succeed``."""
        return cls.layer_of(config)


ENVIRONMENT: Final[Mapping[str, tuple[str, ...]]] = {
    "STORAGE_DIRECTORY": ("directory",),
    "STORAGE_CHAT_ENABLED": ("enabled", "chat_history"),
    "STORAGE_ARTIFACTS_ENABLED": ("enabled", "artifacts"),
    "STORAGE_AUDIT_ENABLED": ("enabled", "audit_log"),
    "STORAGE_CHAT_MAX_EVENTS": ("retention", "chat", "max_events"),
    "STORAGE_CHAT_MAX_AGE": ("retention", "chat", "max_age"),
    "STORAGE_ARTIFACT_MAX_COUNT": ("retention", "artifacts", "max_artifacts"),
    "STORAGE_ARTIFACT_MAX_BYTES": ("retention", "artifacts", "max_artifact_bytes"),
    "STORAGE_ARTIFACT_MAX_AGE": ("retention", "artifacts", "max_age"),
    "STORAGE_AUDIT_MAX_ENTRIES": ("retention", "audit", "max_entries"),
    "STORAGE_AUDIT_MAX_AGE": ("retention", "audit", "max_age"),
    "STORAGE_SESSION_MAX_IDLE": ("retention", "agent_sessions", "max_idle"),
    "STORAGE_CHAT_PAGE_SIZE": ("pagination", "chat_page_size"),
    "STORAGE_ARTIFACT_PAGE_SIZE": ("pagination", "artifact_page_size"),
    "STORAGE_INDEX_PAGE_SIZE": ("pagination", "index_page_size"),
    "STORAGE_CLEANUP_ENABLED": ("cleanup", "enabled"),
    "STORAGE_CLEANUP_INTERVAL": ("cleanup", "interval"),
    "STORAGE_CLEANUP_RUN_ON_START": ("cleanup", "run_on_start"),
    "STORAGE_SYNC_INTERVAL": ("sync", "interval"),
}
"""Variables without their prefix, and the setting each of them is."""


def _copied(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copied(value) if isinstance(value, Mapping) else value for name, value in settings.items()}


def _set(settings: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        settings = settings.setdefault(name, {})
    settings[path[-1]] = value


def _variable_of(error: ValidationError, environment: Mapping[str, str], prefix: str) -> str:
    location = tuple(map(str, error.errors()[0]["loc"]))
    for variable, path in ENVIRONMENT.items():
        if location[: len(path)] == path:
            return f"{prefix}_{variable}" if environment.get(f"{prefix}_{variable}") else f"AGENTSDK_{variable}"
    return ".".join(location)
