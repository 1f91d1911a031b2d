"""
Settings of the runtime and of its supervisor, in code or from the environment.

Names and defaults are those of the TypeScript reference, read with the prefix ``AGENTLAYERS`` and, where
that is not set, ``AGENTSDK``: an environment made for the reference works here unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from agentlayers.errors import SettingsError
from agentlayers.schedule import Schedule, exponential
from agentlayers.settings import environment_value, parse_bool, parse_seconds

__all__ = ["QueueStrategy", "RuntimeSettings", "SupervisorSettings"]

RETRY_SECONDS_MIN: Final = 0.001
"""Before a retry whose base is set to nothing: the loop gets its turn in between."""

QueueStrategy = Literal["suspend", "dropping", "sliding"]
"""What happens to what does not fit: wait, refuse the newest, or displace the oldest."""


def _seconds(value: Any) -> Any:
    if isinstance(value, str | int | float):
        try:
            return parse_seconds(value)
        except SettingsError as error:
            raise ValueError(f"expected {error.expected}") from error
    return value


Seconds = Annotated[float, BeforeValidator(_seconds)]


def _schedule(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return Schedule.from_text(value)
        except SettingsError as error:
            raise ValueError(f"expected {error.expected}") from error
    return value


ScheduleSetting = Annotated[Schedule, BeforeValidator(_schedule)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    variables: ClassVar[tuple[str, ...]] = ()
    """Fields that may be set by a variable of the environment."""

    @classmethod
    def of(cls, value: Self | Mapping[str, Any] | None) -> Self:
        """
        Take settings as they come: ready, as a mapping (YAML), or none for the defaults.

        Raises:
            SettingsError: An unknown name or an impossible value, named with what would be right.
        """
        if isinstance(value, cls):
            return value
        try:
            return cls.model_validate({} if value is None else dict(value))
        except ValidationError as error:
            raise _settings_error(error, "") from error

    @classmethod
    def from_env(
        cls,
        environment: Mapping[str, str] | None = None,
        *,
        prefix: str = "AGENTLAYERS",
        defaults: Mapping[str, Any] | None = None,
    ) -> Self:
        """
        Read the settings from the environment.

        Args:
            environment: Instead of the process environment.
            prefix: Of the variables; ``AGENTSDK`` is accepted beside it.
            defaults: What counts where the environment says nothing, such as what a YAML file says.

        Raises:
            SettingsError: A variable or a default has a value that cannot be used.
        """
        source = os.environ if environment is None else environment
        under = cls.of(defaults)
        given = {name: getattr(under, name) for name in under.model_fields_set}
        for field in cls.variables:
            text = environment_value(field.upper(), source, prefix=prefix)
            if text is not None:
                ours = f"{prefix}_{field.upper()}"
                variable = ours if source.get(ours) else f"AGENTSDK_{field.upper()}"
                given[field] = cls._read(field, text, variable)
        return cls.model_validate(given)

    @classmethod
    def _read(cls, field: str, text: str, variable: str) -> Any:
        value: Any = text
        if cls.model_fields[field].annotation is bool:
            value = parse_bool(text, setting=variable)
        try:
            return getattr(cls.model_validate({field: value}), field)
        except ValidationError as error:
            expected = _settings_error(error, "").expected
            raise SettingsError(setting=variable, value=text, expected=expected) from error


def _settings_error(error: ValidationError, prefix: str) -> SettingsError:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    expected = first["msg"].removeprefix("Value error, ").removeprefix("expected ")
    if first["type"] == "extra_forbidden":
        expected = "no such setting"
    return SettingsError(setting=prefix + name, value=first.get("input"), expected=expected)


class SupervisorSettings(_Settings):
    """
    How many queries run at once, and what happens to the others.

    Attributes:
        concurrency_limit: Queries that run at the same time.
        pending_queue_capacity: Queries that may wait; 0 is no queue: with ``suspend`` a query waits for a slot
            itself, otherwise it is refused when none is free.
        pending_queue_strategy: What happens when the queue is full: ``suspend`` lets the caller wait for room,
            ``dropping`` refuses the new query, ``sliding`` displaces the one that waited longest (which is told).
        max_pending_time: Seconds a query may wait for a slot, from its submission; :obj:`None` is for ever.
        emit_events: Publish what happens to queries (see ``QuerySupervisor.events``).
        event_buffer_capacity: Events kept for a subscriber that does not read.
        event_buffer_strategy: What happens to events when that buffer is full; ``suspend`` makes queries wait.
        metrics_enabled: Count durations of queries (see ``QuerySupervisor.metrics``), and tell OpenTelemetry what
            queries do if the extra ``otel`` is installed.
        tracing_enabled: Log the start and end of each query with its id, and make OpenTelemetry spans.
        interrupt_grace_seconds: How long an interrupted query may take to say its last messages.
    """

    concurrency_limit: int = Field(default=4, ge=1)
    pending_queue_capacity: int = Field(default=64, ge=0)
    pending_queue_strategy: QueueStrategy = "suspend"
    max_pending_time: Seconds | None = 30.0
    emit_events: bool = False
    event_buffer_capacity: int = Field(default=256, ge=1)
    event_buffer_strategy: QueueStrategy = "sliding"
    metrics_enabled: bool = False
    tracing_enabled: bool = False
    interrupt_grace_seconds: Seconds = 2.0

    variables: ClassVar[tuple[str, ...]] = (
        "concurrency_limit", "pending_queue_capacity", "pending_queue_strategy", "max_pending_time",
        "emit_events", "event_buffer_capacity", "event_buffer_strategy", "metrics_enabled", "tracing_enabled",
    )  # fmt: skip


class RuntimeSettings(_Settings):
    """
    What every query of a runtime has in common.

    Attributes:
        default_options: Options that a call may override (see ``QueryOptions``).
        query_timeout: Seconds a query may take; :obj:`None` is for ever. Past it the query is interrupted and
            its iteration raises ``QueryTimeoutError``.
        first_message_timeout: The same, for the time until the first message.
        retry_max_retries: How often a query whose start failed is started again; never once it runs.
        retry_base_delay: Seconds before the first retry; doubles with each.
        retry_max_delay: Longest pause between two starts.
        retry_schedule: When to start again, instead of the three above; also as text (``Schedule.from_text``).
        record_input: Keep the prompts in the chat history.
        record_output: Keep what the agent says.
        record_partial: Keep partial messages (``stream_event``) too.
        record_strict: A message that cannot be recorded ends the iteration with the store's error.
        record_wait_seconds: How long a message may wait for its commit before it is yielded all the same;
            :obj:`None` is the library's bound (``limits.RECORD_WAIT_SECONDS_MAX``).
        audit_strict: A hook whose audit entry cannot be written blocks the tool.
        audit_hook_outcomes: Note every hook event.
        audit_permission_decisions: Note who permitted and who refused a tool.
        audit_matcher: Note only tools whose whole name matches this regular expression.
        audit_timeout: Seconds for an audit hook; past it the tool is blocked, as for any hook.
    """

    default_options: dict[str, Any] = Field(default_factory=dict)
    query_timeout: Seconds | None = None
    first_message_timeout: Seconds | None = None
    retry_max_retries: int = Field(default=0, ge=0)
    retry_base_delay: Seconds = 1.0
    retry_max_delay: Seconds = 30.0
    retry_schedule: ScheduleSetting | None = None
    record_input: bool = True
    record_output: bool = True
    record_partial: bool = False
    record_strict: bool = False
    record_wait_seconds: Seconds | None = None
    audit_strict: bool = False
    audit_hook_outcomes: bool = True
    audit_permission_decisions: bool = True
    audit_matcher: str | None = None
    audit_timeout: Seconds | None = None

    variables: ClassVar[tuple[str, ...]] = (
        "query_timeout", "first_message_timeout", "retry_max_retries", "retry_base_delay", "retry_schedule",
    )  # fmt: skip

    @property
    def retries(self) -> Schedule:
        """When a query whose start failed is started again; many that failed at one moment do not come back at one."""
        if self.retry_schedule is not None:
            return self.retry_schedule
        base = max(self.retry_base_delay, RETRY_SECONDS_MIN)
        return exponential(base).jittered().capped(self.retry_max_delay).limited(self.retry_max_retries)
