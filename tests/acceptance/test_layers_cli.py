"""``agentlayers check``, ``graph`` and ``schema`` as an operator and a build machine meet them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

PRESETS = ("local", "memory", "server", "synced", "synced-tcp")
SVG = "{http://www.w3.org/2000/svg}"

SHOP = """
from dependency_injector import providers
from agentlayers.layer import Catalogue, LayerContainer, resource, singleton

class Pool:
    def __init__(self, url: str, size: int = 4) -> None:
        raise AssertionError("a check builds nothing")

class Orders:
    def __init__(self, pool: Pool, api_token: str = "") -> None:
        raise AssertionError("a check builds nothing")

class ShopContainer(LayerContainer):
    pool: providers.Provider[Pool] = providers.Resource(Pool, url="db://local")
    orders: providers.Provider[Orders] = providers.Singleton(Orders)
    catalogue = Catalogue(pool={"postgres": resource(Pool)}, orders={"default": singleton(Orders)})

class BrokenContainer(ShopContainer):
    pool: providers.Provider[Pool] = providers.Dependency(instance_of=Pool)

class CircularContainer(LayerContainer):
    one = providers.Singleton(dict)
    two = providers.Singleton(dict, one=one)
    one.add_kwargs(two=two)
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A project of an operator's own."""
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def run(here: Path, *arguments: str, status: int = 0, **env: str) -> str:
    """Run a command and give what it printed; on a bad day that is standard error."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SYNC_")}
    outcome = subprocess.run(
        [sys.executable, "-m", "agentlayers", *arguments],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**inherited, "COLUMNS": "200", **env},
    )
    assert outcome.returncode == status, outcome.stdout + outcome.stderr
    assert "Traceback" not in outcome.stderr
    return outcome.stdout or outcome.stderr


# -- check ----------------------------------------------------------------------------------------------------------
def test_every_preset_is_good_and_the_answer_says_what_was_checked(here: Path) -> None:
    text = run(here, "check", *PRESETS, SYNC_URL="ws://127.0.0.1:9/event-log")

    lines = text.splitlines()
    assert [line.partition(" ")[0] for line in lines[:-1]] == list(PRESETS)
    assert all(" good (" in line for line in lines[:-1])
    assert "ServerContainer" in lines[2]
    assert lines[-1] == "checked 5 graphs: 5 good"


def test_all_problems_of_all_files_are_listed_with_their_places(here: Path) -> None:
    (here / "one.yaml").write_text("extends: local\njournal: sqlit\ncompaction: {by_age: {age_maximum: 3 days}}\n")
    (here / "two.yaml").write_text("extends: local\n\njurnal: memory\n")
    text = run(here, "check", "one.yaml", "memory", "two.yaml", status=2)

    assert re.search(r"^  one\.yaml:2:10: journal: .*'sqlit'.*did you mean 'sqlite'", text, re.MULTILINE)
    assert re.search(r"^  one\.yaml:3:\d+: .*'age_maximum'", text, re.MULTILINE)
    assert re.search(r"^  two\.yaml:3:1: .*'jurnal'.*did you mean 'journal'", text, re.MULTILINE)
    assert "memory (preset memory.yaml): good" in text
    assert text.splitlines()[-1] == "checked 3 graphs: 1 good, 2 not (3 problems)"


def test_what_would_be_refused_only_at_a_run_is_found_with_its_place(here: Path) -> None:
    (here / "flags.yaml").write_text(
        "extends: memory\n"
        "sync:\n"
        "  stores:\n"
        "    artifacts: lazy\n"
        "    artifact_content: on_demand\n"
        "    chat_history: true\n"
    )
    (here / "store.yaml").write_text("extends: memory\nsync: {stores: {audit_log: true,\n  chat_history: on_demand}}\n")
    (here / "url.yaml").write_text(
        "extends: memory\n"
        "transport: {websocket: {url: 'wss://user:secret-word@h'}}\n"
        "audit_log:\n"
        "  journaled_with_sync_websocket: {url: 'ftp://h'}\n"
    )
    text = run(here, "check", "flags.yaml", "store.yaml", "url.yaml", status=2)

    assert "  flags.yaml:4:16: stores.artifacts: expected bool or 'on_demand', got 'lazy' (text)\n" in text
    assert "  store.yaml:3:17: stores.chat_history: 'on_demand' cannot be used; expected true or false;" in text
    assert "  url.yaml:2:30: url: the given value cannot be used; expected a WebSocket address such as" in text
    assert "  url.yaml:4:40: url: 'ftp://h' cannot be used; expected a WebSocket address such as" in text
    assert "secret-word" not in text
    assert text.splitlines()[-1] == "checked 3 graphs: 0 good, 3 not (4 problems)"


def test_a_file_that_does_not_exist_does_not_hide_the_others(here: Path) -> None:
    (here / "two.yaml").write_text("jurnal: memory\n")
    text = run(here, "check", "absent.yaml", "two.yaml", "locl", status=2)

    assert "absent.yaml: 1 problem" in text
    assert "two.yaml:1:1" in text
    assert "did you mean 'local'" in text


def test_a_variable_that_is_not_set_is_a_problem_unless_any_environment_will_do(here: Path) -> None:
    (here / "port.yaml").write_text('container: server\nserver: {listen: {port: "${SYNC_PORT}"}}\n')
    strict = run(here, "check", "synced", "port.yaml", status=2)
    lenient = run(here, "check", "--any-environment", "synced", "port.yaml")

    assert "SYNC_URL is not set" in strict
    assert "port.yaml:2:25: the environment variable SYNC_PORT is not set" in strict
    assert "not set: SYNC_URL" in lenient
    assert "not set: SYNC_PORT" in lenient


def test_any_environment_finds_something_for_a_number_beside_a_schedule(here: Path) -> None:
    (here / "retry.yaml").write_text(
        'extends: local\nsync:\n  schedule: "${WAITS}"\n  interval_seconds: "${SECONDS}"\n'
    )

    assert "not set: WAITS, SECONDS" in run(here, "check", "--any-environment", "retry.yaml")


def test_a_schedule_is_checked_and_shown(here: Path) -> None:
    (here / "good.yaml").write_text("extends: memory\nsync:\n  schedule: exponential(0.1).jittered().capped(30)\n")
    (here / "bad.yaml").write_text("extends: memory\nsync:\n  schedule: exponential(0.1).jitered()\n")

    assert "schedule = \"exponential('100ms').jittered().capped('30s')\"" in run(here, "graph", "good.yaml")
    assert "bad.yaml:3:13: schedule: 'exponential(0.1).jitered()' cannot be used; expected a schedule such as" in run(
        here, "check", "bad.yaml", status=2
    )


def test_any_environment_hides_no_other_problem(here: Path) -> None:
    (here / "bad.yaml").write_text("extends: synced\nidentity: fil\n")
    text = run(here, "check", "--any-environment", "bad.yaml", status=2)

    assert "bad.yaml:2:11" in text
    assert "SYNC_URL" not in text


def test_a_container_of_the_users_own_is_checked_without_building_anything(here: Path) -> None:
    (here / "prod.yaml").write_text("pool: {postgres: {url: db://prod, size: many}}\n")
    good = run(here, "check", "--container", "shop:ShopContainer")
    bad = run(here, "check", "prod.yaml", "--container", "shop:ShopContainer", status=2)

    assert "ShopContainer: good" in good
    assert "prod.yaml:1:41: size: expected int, got 'many'" in bad


def test_problems_of_a_graph_show_the_path_and_the_page(here: Path) -> None:
    text = run(here, "check", "--container", "shop:BrokenContainer", status=2)

    assert re.search(r"shop\.py:\d+: ", text)
    assert "pool" in text
    assert "see docs/reference/layer-errors.md#" in text


def test_a_circle_is_reported_and_drawn(here: Path) -> None:
    text = run(here, "check", "--container", "shop:CircularContainer", status=2)

    assert "one" in text
    assert "two" in text
    assert "#cycleerror" in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nonsense", "package.module:Class"),
        ("no_such_module:Container", "ModuleNotFoundError"),
        ("shop:Absent", "has no such name"),
        ("shop:Pool", "LayerContainer"),
    ],
)
def test_a_container_that_cannot_be_had_is_refused(here: Path, name: str, expected: str) -> None:
    text = run(here, "check", "--container", name, status=2)

    assert text.startswith("error: --container")
    assert expected in text


def test_nothing_to_check_is_a_bad_command_line(here: Path) -> None:
    assert "name a file or a preset" in run(here, "check", status=2)


def test_import_paths_are_taken_from_allowed_packages_only(here: Path) -> None:
    (here / "paths.yaml").write_text("pool: {'shop:Pool': {url: 'db://x', size: 9}}\n")
    options = ("paths.yaml", "--container", "shop:ShopContainer")

    assert "may not be imported here" in run(here, "check", *options, status=2)
    assert "paths.yaml: good" in run(here, "check", *options, "--allow-imports", "shop")
    assert "size = 9" in run(here, "graph", *options, "--allow-imports", "shop")


# -- graph ----------------------------------------------------------------------------------------------------------
def test_the_text_names_each_part_with_what_it_needs(here: Path) -> None:
    text = run(here, "graph", "local")

    assert "journal: resource agentlayers.runtime.containers.sqlite_journal" in text
    assert "    journal = -> journal" in text


def test_json_and_mermaid_have_the_same_parts_as_the_picture(here: Path) -> None:
    nodes = json.loads(run(here, "graph", "local", "--format", "json"))["nodes"]
    mermaid = run(here, "graph", "local", "--format", "mermaid")
    run(here, "graph", "local", "--format", "svg", "--output", "local.svg")
    picture = ET.fromstring((here / "local.svg").read_text("utf-8"))

    names = [node["name"] for node in nodes]
    drawn = [texts[0].text for group in picture.iter(f"{SVG}g") if (texts := group.findall(f"{SVG}text"))]
    assert "chat_history" in names
    assert sorted(names) == sorted(str(name) for name in drawn)
    assert all(f'"{name}<br/>' in mermaid for name in names)
    pairs = {
        (node["name"], value["ref"].partition(".")[0])
        for node in nodes
        for value in node["arguments"].values()
        if isinstance(value, dict) and "ref" in value
    }
    assert len(pairs) == len(list(picture.iter(f"{SVG}path"))) - 1  # the tip of the arrows


def test_parts_of_the_picture_do_not_overlap_and_stand_above_what_they_need(here: Path) -> None:
    picture = ET.fromstring(run(here, "graph", "local", "-f", "svg"))
    boxes: dict[str, tuple[float, float, float]] = {}
    for group in picture.iter(f"{SVG}g"):
        rect, text = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        assert rect is not None
        assert text is not None
        boxes[str(text.text)] = (float(rect.attrib["x"]), float(rect.attrib["y"]), float(rect.attrib["width"]))
    by_row: dict[float, list[tuple[float, float]]] = {}
    for x, y, width in boxes.values():
        by_row.setdefault(y, []).append((x, x + width))
    for row in by_row.values():
        row.sort()
        assert all(right <= left for (_, right), (left, _) in pairwise(row))
    width = float(picture.attrib["width"])
    assert all(x >= 0 and x + wide <= width for x, _, wide in boxes.values())
    titles = [title.text or "" for path in picture.iter(f"{SVG}path") for title in path.findall(f"{SVG}title")]
    for title in titles:
        dependent, _, dependency = title.partition(" as ")[0].partition(" needs ")
        assert boxes[dependent][1] < boxes[dependency][1], title


@pytest.mark.parametrize("form", ["text", "json", "mermaid", "svg"])
def test_no_form_shows_a_secret(here: Path, form: str) -> None:
    (here / "prod.yaml").write_text(
        "pool: {postgres: {url: '${DATABASE_URL}'}}\norders: {default: {api_token: in-the-file}}\n"
    )
    (here / "inline.yaml").write_text("pool: {postgres: {url: 'db://me:inline-secret@host/x?token=query-secret'}}\n")
    options = ("--container", "shop:ShopContainer", "--format", form)
    text = run(here, "graph", "prod.yaml", *options, DATABASE_URL="db://me:hunter2@host/x")
    text += run(here, "graph", "inline.yaml", *options)

    for secret in ("hunter2", "in-the-file", "inline-secret", "query-secret"):
        assert secret not in text
    if form in {"text", "json"}:
        assert "${DATABASE_URL}" in text
        assert "db://me:***@host/x?token=***" in text


def test_a_graph_is_drawn_without_its_variables(here: Path) -> None:
    (here / "port.yaml").write_text('container: server\nserver: {listen: {port: "${SYNC_PORT}"}}\n')

    assert 'url = "${SYNC_URL}"' in run(here, "graph", "synced")
    assert 'port = "${SYNC_PORT}"' in run(here, "graph", "port.yaml")


@pytest.mark.parametrize("form", ["text", "json", "mermaid", "svg"])
def test_a_graph_that_is_wrong_is_drawn_all_the_same(here: Path, form: str) -> None:
    text = run(here, "graph", "--container", "shop:CircularContainer", "--format", form)

    assert "one" in text
    assert "two" in text


def test_a_file_that_cannot_be_read_is_an_error_with_its_place(here: Path) -> None:
    (here / "bad.yaml").write_text("journal: [\n")
    text = run(here, "graph", "bad.yaml", status=2)

    assert text.startswith("error: ")
    assert "bad.yaml:" in text


# -- schema ---------------------------------------------------------------------------------------------------------
def test_the_schema_accepts_the_presets_and_refuses_a_misspelt_slot(here: Path) -> None:
    jsonschema: Any = pytest.importorskip("jsonschema")
    import yaml

    from agentlayers.layer import find_preset

    for container, presets in (("agent_runtime", ("local", "memory", "synced", "synced-tcp")), ("server", ("server",))):
        schema = json.loads(run(here, "schema", "--container", container))
        for preset in presets:
            jsonschema.validate(yaml.safe_load(find_preset(preset).read_text("utf-8")), schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"jurnal": "memory"}, schema)


def test_the_schema_of_a_users_own_container_goes_to_a_file(here: Path) -> None:
    run(here, "schema", "--container", "shop:ShopContainer", "--output", "shop.json")
    schema = json.loads((here / "shop.json").read_text("utf-8"))

    assert {"pool", "orders"} <= set(schema["properties"])
