"""Options of a query: merging and checking."""

from typing import Any

import pytest

from agentlayers.errors import UsageError
from agentlayers.runtime.hooks import HookMatcher
from agentlayers.runtime.options import QueryOptions, merge_options


def test_the_call_wins_and_maps_are_merged() -> None:
    base = {"model": "a", "env": {"A": "1", "B": "1"}, "allowed_tools": ["x"]}
    call = {"model": "b", "env": {"B": "2"}, "allowed_tools": ["y"], "agents": {"z": 1}}

    assert {
        "model": "b",
        "env": {"A": "1", "B": "2"},
        "allowed_tools": ["y"],
        "agents": {"z": 1},
    } == merge_options(base, call)


def test_hooks_are_concatenated_with_the_defaults_first() -> None:
    first, second = HookMatcher("a"), HookMatcher("b")

    merged = merge_options({"hooks": {"Stop": [first]}}, {"hooks": {"Stop": [second]}})

    assert {"Stop": [first, second]} == merged["hooks"]


def test_merging_leaves_the_defaults_alone() -> None:
    base: dict[str, Any] = {"env": {"A": "1"}, "hooks": {"Stop": [HookMatcher("a")]}}

    merge_options(base, {"env": {"B": "2"}, "hooks": {"Stop": [HookMatcher("b")]}})

    assert {"A": "1"} == base["env"]
    assert 1 == len(base["hooks"]["Stop"])


def test_an_unknown_option_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="unknown query option 'modle'; did you mean 'model'"):
        QueryOptions.from_mapping({"modle": "x"})


def test_options_of_the_backend_are_kept_apart() -> None:
    options = QueryOptions.from_mapping({"fork_session": True, "model": "m"}, extra_options=frozenset({"fork_session"}))

    assert ({"fork_session": True}, "m") == (options.extra, options.model)


def test_none_means_the_default() -> None:
    options = QueryOptions.from_mapping({"hooks": None, "env": None, "allowed_tools": None})

    assert ({}, {}, ()) == (options.hooks, options.env, options.allowed_tools)


@pytest.mark.parametrize(
    "options",
    [
        {"permission_mode": "always"},
        {"session_id": ""},
        {"resume": 7},
        {"allowed_tools": "write_file"},
        {"max_turns": 0},
        {"max_turns": True},
        {"hooks": {"Stop": [1]}},
    ],
)
def test_impossible_values_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        QueryOptions.from_mapping(options)
