"""Storage settings: names, defaults, floors, spellings, and errors that name the setting."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from agentlayers.errors import SettingsError
from agentlayers.storage.storage_config import ENVIRONMENT, ChatRetention, Retention, StorageConfig

DAY = 86_400.0


def test_defaults_are_those_of_the_reference_with_the_audit_log_on() -> None:
    config = StorageConfig()

    assert config.directory == Path("storage")
    assert (config.enabled.chat_history, config.enabled.artifacts, config.enabled.audit_log) == (
        True,
        True,
        True,
    )
    assert (config.retention.chat.max_events, config.retention.chat.max_age_seconds) == (
        10_000,
        30 * DAY,
    )
    assert config.retention.artifacts.max_artifacts == 5_000
    assert config.retention.artifacts.max_artifact_bytes == 500_000_000
    assert config.retention.artifacts.max_age_seconds == 90 * DAY
    assert (config.retention.audit.max_entries, config.retention.audit.max_age_seconds) == (
        100_000,
        180 * DAY,
    )
    assert config.pagination.model_dump() == {
        "chat_page_size": 100,
        "artifact_page_size": 100,
        "index_page_size": 500,
    }
    assert config.cleanup.model_dump() == {
        "enabled": True,
        "interval_seconds": 3600.0,
        "run_on_start": False,
    }
    assert config.sync.interval_seconds == 0.0


@pytest.mark.parametrize(
    ("variable", "text", "path", "expected"),
    [
        ("STORAGE_DIRECTORY", "/data", "directory", Path("/data")),
        ("STORAGE_CHAT_ENABLED", "no", "enabled.chat_history", False),
        ("STORAGE_ARTIFACTS_ENABLED", "off", "enabled.artifacts", False),
        ("STORAGE_AUDIT_ENABLED", "0", "enabled.audit_log", False),
        ("STORAGE_CHAT_MAX_EVENTS", "5", "retention.chat.max_events", 5),
        ("STORAGE_CHAT_MAX_AGE", "7 days", "retention.chat.max_age_seconds", 7 * DAY),
        ("STORAGE_ARTIFACT_MAX_COUNT", "6", "retention.artifacts.max_artifacts", 6),
        (
            "STORAGE_ARTIFACT_MAX_BYTES",
            "500 MB",
            "retention.artifacts.max_artifact_bytes",
            500_000_000,
        ),
        ("STORAGE_ARTIFACT_MAX_AGE", "1 hour", "retention.artifacts.max_age_seconds", 3600.0),
        ("STORAGE_AUDIT_MAX_ENTRIES", "7", "retention.audit.max_entries", 7),
        ("STORAGE_AUDIT_MAX_AGE", "500 millis", "retention.audit.max_age_seconds", 0.5),
        ("STORAGE_SESSION_MAX_IDLE", "1 day", "retention.agent_sessions.max_idle_seconds", DAY),
        ("STORAGE_CHAT_PAGE_SIZE", "8", "pagination.chat_page_size", 8),
        ("STORAGE_ARTIFACT_PAGE_SIZE", "9", "pagination.artifact_page_size", 9),
        ("STORAGE_INDEX_PAGE_SIZE", "10", "pagination.index_page_size", 10),
        ("STORAGE_CLEANUP_ENABLED", "false", "cleanup.enabled", False),
        ("STORAGE_CLEANUP_INTERVAL", "30 seconds", "cleanup.interval_seconds", 30.0),
        ("STORAGE_CLEANUP_RUN_ON_START", "yes", "cleanup.run_on_start", True),
        ("STORAGE_SYNC_INTERVAL", "5 seconds", "sync.interval_seconds", 5.0),
    ],
)
@pytest.mark.parametrize("prefix", ["AGENTLAYERS", "AGENTSDK"])
def test_every_variable_sets_its_setting(prefix: str, variable: str, text: str, path: str, expected: object) -> None:
    value: object = StorageConfig.from_environment({f"{prefix}_{variable}": text})
    for name in path.split("."):
        value = getattr(value, name)

    assert value == expected
    assert variable in ENVIRONMENT


def test_our_variable_wins_over_that_of_the_reference() -> None:
    environment = {
        "AGENTSDK_STORAGE_CHAT_PAGE_SIZE": "3",
        "AGENTLAYERS_STORAGE_CHAT_PAGE_SIZE": "4",
    }

    assert StorageConfig.from_environment(environment).pagination.chat_page_size == 4


def test_another_prefix_can_be_chosen() -> None:
    config = StorageConfig.from_environment({"MYAPP_STORAGE_CHAT_PAGE_SIZE": "3"}, prefix="MYAPP")

    assert config.pagination.chat_page_size == 3


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("AGENTLAYERS_STORAGE_CHAT_MAX_AGE", "7 dayz", "a duration"),
        ("AGENTSDK_STORAGE_CHAT_MAX_AGE", "soon", "a duration"),
        ("AGENTLAYERS_STORAGE_ARTIFACT_MAX_BYTES", "many", "a size"),
        ("AGENTLAYERS_STORAGE_CHAT_ENABLED", "maybe", "true, yes, on"),
        ("AGENTLAYERS_STORAGE_CHAT_PAGE_SIZE", "0", "greater than or equal to 1"),
        ("AGENTLAYERS_STORAGE_INDEX_PAGE_SIZE", "-3", "greater than or equal to 1"),
        ("AGENTLAYERS_STORAGE_CHAT_MAX_EVENTS", "-1", "greater than or equal to 0"),
        ("AGENTLAYERS_STORAGE_AUDIT_MAX_ENTRIES", "ten", "a valid integer"),
    ],
)
def test_a_bad_variable_is_named_with_what_would_be_right(variable: str, text: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        StorageConfig.from_environment({variable: text})

    assert caught.value.setting == variable
    assert repr(text) in str(caught.value)
    assert expected in caught.value.expected


def test_yaml_may_write_durations_and_sizes_as_text() -> None:
    config = StorageConfig.from_mapping(
        {
            "directory": "data",
            "retention": {
                "chat": {"max_age": "7 days"},
                "artifacts": {"max_artifact_bytes": "1 KiB"},
            },
            "cleanup": {"interval": "10 minutes"},
            "sync": {"interval": 3},
        }
    )

    assert config.retention.chat.max_age_seconds == 7 * DAY
    assert config.retention.artifacts.max_artifact_bytes == 1024
    assert config.cleanup.interval_seconds == 600.0
    assert config.sync.interval_seconds == 3.0


@pytest.mark.parametrize(
    ("settings", "setting", "expected"),
    [
        (
            {"retention": {"chat": {"max_age": "x"}}},
            "storage_config.retention.chat.max_age",
            "a duration",
        ),
        (
            {"retention": {"chat": {"max_evnts": 3}}},
            "storage_config.retention.chat.max_evnts",
            "'max_events'",
        ),
        ({"retentoin": {}}, "storage_config.retentoin", "'retention'"),
        ({"retention": 3}, "storage_config.retention", "dictionary"),
        (
            {"pagination": {"chat_page_size": 0}},
            "storage_config.pagination.chat_page_size",
            "equal to 1",
        ),
    ],
)
def test_a_bad_yaml_setting_is_named_with_its_path(settings: dict[str, object], setting: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        StorageConfig.from_mapping(settings)

    assert caught.value.setting == setting
    assert expected in caught.value.expected


def test_the_path_of_the_mapping_itself_can_be_given() -> None:
    with pytest.raises(SettingsError, match=r"app\.yaml:3\.directory"):
        StorageConfig.from_mapping({"directory": 3}, setting="app.yaml:3")


def test_the_constructor_names_a_bad_setting_too() -> None:
    with pytest.raises(SettingsError, match=r"storage_config\.sync\.interval"):
        StorageConfig(sync={"interval": "never"})  # type: ignore[arg-type]


def test_settings_from_code_are_typed_values_and_frozen() -> None:
    config = StorageConfig(retention=Retention(chat=ChatRetention(max_events=None, max_age_seconds=None)))

    assert config.retention.chat == ChatRetention(max_events=None, max_age_seconds=None)
    assert config == StorageConfig.from_mapping({"retention": {"chat": {"max_events": None, "max_age": None}}})
    with pytest.raises(ValidationError):
        config.directory = Path("elsewhere")


async def test_layers_offer_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = StorageConfig.layer_from_env()
    monkeypatch.setenv("AGENTLAYERS_STORAGE_CHAT_PAGE_SIZE", "7")
    async with layer.build(StorageConfig) as from_env:
        pass
    async with StorageConfig.layer_default().build(StorageConfig) as default:
        pass
    async with StorageConfig.layer_of(from_env).build(StorageConfig) as given:
        pass

    assert from_env.pagination.chat_page_size == 7
    assert default == StorageConfig()
    assert given is from_env
