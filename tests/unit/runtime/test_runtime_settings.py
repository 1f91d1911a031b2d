"""Settings in code, from mappings and from the environment."""

import pytest

from agentlayers.errors import SettingsError
from agentlayers.runtime.settings import RuntimeSettings, SupervisorSettings
from agentlayers.schedule import fixed


def test_defaults_are_those_of_the_reference() -> None:
    runtime, supervisor = RuntimeSettings(), SupervisorSettings()

    assert (None, None, 0, 1.0) == (
        runtime.query_timeout,
        runtime.first_message_timeout,
        runtime.retry_max_retries,
        runtime.retry_base_delay,
    )
    assert (4, 64, "suspend", 30.0, False, 256, "sliding") == (
        supervisor.concurrency_limit,
        supervisor.pending_queue_capacity,
        supervisor.pending_queue_strategy,
        supervisor.max_pending_time,
        supervisor.emit_events,
        supervisor.event_buffer_capacity,
        supervisor.event_buffer_strategy,
    )


def test_the_environment_is_read_with_either_prefix_and_ours_wins() -> None:
    environment = {
        "AGENTSDK_QUERY_TIMEOUT": "30 seconds",
        "AGENTSDK_RETRY_MAX_RETRIES": "1",
        "AGENTLAYERS_RETRY_MAX_RETRIES": "2",
        "MINE_CONCURRENCY_LIMIT": "9",
        "AGENTSDK_CONCURRENCY_LIMIT": "8",
        "AGENTSDK_EMIT_EVENTS": "yes",
        "AGENTSDK_MAX_PENDING_TIME": "500 millis",
        "AGENTSDK_PENDING_QUEUE_STRATEGY": "sliding",
    }

    runtime = RuntimeSettings.from_env(environment)
    supervisor = SupervisorSettings.from_env(environment)

    assert (30.0, 2) == (runtime.query_timeout, runtime.retry_max_retries)
    assert (8, True, 0.5, "sliding") == (
        supervisor.concurrency_limit,
        supervisor.emit_events,
        supervisor.max_pending_time,
        supervisor.pending_queue_strategy,
    )
    assert 9 == SupervisorSettings.from_env(environment, prefix="MINE").concurrency_limit


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONCURRENCY_LIMIT", "0"),
        ("CONCURRENCY_LIMIT", "many"),
        ("PENDING_QUEUE_STRATEGY", "drop"),
        ("EMIT_EVENTS", "perhaps"),
        ("MAX_PENDING_TIME", "soon"),
        ("EVENT_BUFFER_CAPACITY", "0"),
    ],
)
def test_a_bad_variable_is_named_in_the_error(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as raised:
        SupervisorSettings.from_env({f"AGENTLAYERS_{name}": value})

    assert f"AGENTLAYERS_{name}" in str(raised.value)
    assert repr(value) in str(raised.value)


def test_the_variable_that_was_read_is_the_one_named() -> None:
    with pytest.raises(SettingsError, match="AGENTSDK_CONCURRENCY_LIMIT: 'x'"):
        SupervisorSettings.from_env({"AGENTSDK_CONCURRENCY_LIMIT": "x"})


def test_defaults_count_where_the_environment_says_nothing() -> None:
    settings = SupervisorSettings.from_env(
        {"AGENTLAYERS_CONCURRENCY_LIMIT": "3"}, defaults={"concurrency_limit": 9, "max_pending_time": "1 minute"}
    )

    assert (3, 60.0) == (settings.concurrency_limit, settings.max_pending_time)
    with pytest.raises(SettingsError, match="max_pending_time: 'soon'"):
        SupervisorSettings.from_env({}, defaults={"max_pending_time": "soon"})


def test_a_mapping_is_checked_and_durations_may_be_texts() -> None:
    assert 90.0 == RuntimeSettings.of({"query_timeout": "1 minute 30 seconds"}).query_timeout
    with pytest.raises(SettingsError, match="query_timout"):
        RuntimeSettings.of({"query_timout": 3})
    with pytest.raises(SettingsError, match="retry_base_delay"):
        RuntimeSettings.of({"retry_base_delay": "soon"})


def test_a_schedule_of_retries_may_be_a_text() -> None:
    told = {"AGENTLAYERS_RETRY_SCHEDULE": "fixed('5s').limited(2)", "AGENTLAYERS_RETRY_MAX_RETRIES": "9"}

    assert [5.0, 5.0] == RuntimeSettings.from_env(told).retries.delays()
    assert fixed(1) == RuntimeSettings.of({"retry_schedule": "fixed(1)"}).retries
    assert fixed(1) == RuntimeSettings(retry_schedule=fixed(1)).retries
    with pytest.raises(SettingsError, match=r"^retry_schedule: 'soon' cannot be used; expected a schedule such as"):
        RuntimeSettings.of({"retry_schedule": "soon"})
    with pytest.raises(SettingsError, match=r"^retry_schedule: 5 cannot be used"):
        RuntimeSettings.of({"retry_schedule": 5})
    with pytest.raises(SettingsError, match=r"^AGENTLAYERS_RETRY_SCHEDULE: '5s' cannot be used; expected a schedule"):
        RuntimeSettings.from_env({"AGENTLAYERS_RETRY_SCHEDULE": "5s"})


def test_ready_settings_are_taken_as_they_are() -> None:
    settings = SupervisorSettings(concurrency_limit=2)

    assert SupervisorSettings.of(settings) is settings
