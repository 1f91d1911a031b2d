"""YAML: plain data in, a container class out, every error with its line and column."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
from dependency_injector import providers
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlayers.errors import UsageError
from agentlayers.layer import (
    App,
    Catalogue,
    Layer,
    LayerContainer,
    catalogue_from_entry_points,
    find_preset,
    graph_of,
    import_path,
    load_layers,
    recipe,
    request,
    request_resource,
    resource,
    singleton,
    to_yaml,
    value,
)
from agentlayers.layer.errors import (
    LayerSchemaError,
    LayerValidationError,
    LifetimeLeakError,
    NotInCatalogueError,
    PresetNotFoundError,
)
from agentlayers.layer.yaml_tree import NODES_MAX


class Strategy:
    pass


class ByAge(Strategy):
    def __init__(self, max_age: str | float) -> None:
        self.max_age = max_age


class ByCount(Strategy):
    def __init__(self, max_count: int) -> None:
        self.max_count = max_count


class Composite(Strategy):
    def __init__(self, *strategies: Strategy) -> None:
        self.strategies = strategies


class AllOf(Strategy):
    def __init__(self, strategies: Sequence[Strategy], named: Mapping[str, Strategy] | None = None) -> None:
        self.strategies, self.named = strategies, named


class Pool:
    def __init__(self, url: str, token: str | None = None, size: int = 1, ratio: float = 0.5) -> None:
        self.url, self.token, self.size, self.ratio = url, token, size, ratio

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None: ...


class Store:
    def __init__(self, pool: Pool, strategy: Strategy | None = None, flags: dict[str, bool] | None = None) -> None:
        self.pool, self.strategy, self.flags = pool, strategy, flags


class MemoryStore(Store):
    def __init__(self) -> None: ...


def layer_store_with_pool(url: str) -> Layer:
    return Layer.factory(Store, Store).provide(Layer.scoped(Pool, Pool, url=url))


SHARED = ByAge(0.0)


class Base(LayerContainer):
    config = providers.Configuration(default={"url": "default", "deep": {"a": 1, "b": 2}})
    name: providers.Provider[str] = providers.Object("app")
    pool: providers.Provider[Pool] = providers.Resource(Pool, url=config.url)
    strategy: providers.Provider[Strategy] = providers.Singleton(ByAge, max_age="30 days")
    store: providers.Provider[Store] = providers.Singleton(Store)

    catalogue = Catalogue(
        pool={"network": resource(Pool)},
        strategy={
            "by_age": ByAge,
            "by_count": singleton(ByCount),
            "composite": singleton(Composite),
            "all_of": singleton(AllOf),
            "shared": value(SHARED),
        },
        store={
            "default": singleton(Store),
            "memory": singleton(MemoryStore),
            "own_pool": recipe(layer_store_with_pool),
        },
    )


def load(text: str, **environment: str) -> type[LayerContainer]:
    return load_layers(text + "\n", container=Base, environment=environment)


def errors_of(text: str, **environment: str) -> list[str]:
    with pytest.raises(LayerValidationError) as caught:
        load(text, **environment)
    return [str(problem) for problem in caught.value.problems]


class Session:
    def __init__(self, pool: Pool, limit: int = 1) -> None:
        self.pool, self.limit = pool, limit


class Transaction:
    state = "new"

    def __init__(self, session: Session) -> None:
        self.session = session

    async def __aenter__(self) -> Self:
        self.state = "open"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.state = "closed"


class WithRequests(Base):
    session: providers.Provider[Session] = providers.Dependency(instance_of=Session)
    transaction: providers.Provider[Transaction] = providers.Dependency(instance_of=Transaction)

    catalogue = Catalogue(
        Base.catalogue,
        session={"usual": request(Session), "one": singleton(Session)},
        transaction={"usual": request_resource(Transaction)},
    )


# -- what can be written --------------------------------------------------------------------------------------


async def test_every_form_of_a_slot() -> None:
    forms = {
        "store: memory": MemoryStore,
        "store: {memory: }": MemoryStore,
        "store: default": Store,
        "strategy: shared": ByAge,
    }
    for text, kind in forms.items():
        slot = text.partition(":")[0]
        async with App(load(text), slot) as app:
            assert type(app.get(slot)) is kind


async def test_named_positional_and_single_arguments() -> None:
    for text in ("{network: {url: x}}", "{network: [x]}", "{network: x}"):
        async with load(f"pool: {text}").build(Pool) as pool:
            assert pool.url == "x"


async def test_parameters_alone_change_the_current_implementation() -> None:
    made = load("pool: {size: 7}\nstore: {flags: {audit: true, chat: false}}")
    async with made.build(Store) as store:
        assert (store.pool.url, store.pool.size) == ("default", 7)
        assert store.flags == {"audit": True, "chat": False}


async def test_configuration_is_merged() -> None:
    made = load("config: {url: changed, deep: {a: 5}}")
    async with App(made) as app:
        assert app.get(Pool).url == "changed"
        assert app.get("config")["deep"] == {"a": 5, "b": 2}


async def test_a_plain_value_fills_a_slot_of_a_plain_type() -> None:
    async with App(load("name: other"), "name") as app:
        assert app.get("name") == "other"


async def test_expressions_nest_in_arguments() -> None:
    text = """
strategy:
  composite:
    - by_age: 30 days
    - by_count: {max_count: 5}
    - all_of:
        strategies: [shared, {by_count: 1}]
        named: {one: {by_count: 2}}
"""
    async with App(load(text), Strategy) as app:
        first, second, third = app.get(Strategy).strategies  # type: ignore[attr-defined]
        assert (first.max_age, second.max_count) == ("30 days", 5)
        assert third.strategies[0] is SHARED
        assert third.strategies[1].max_count == 1
        assert third.named["one"].max_count == 2


async def test_references_go_to_slots_attributes_and_configuration() -> None:
    made = load("config: {urls: {a: from config}}\npool: {network: {url: {ref: config.urls.a}, token: {ref: name}}}")
    async with made.build(Pool) as pool:
        assert (pool.url, pool.token) == ("from config", "app")
    made = load("strategy: {by_age: {ref: pool.url}}")
    async with App(made, Strategy) as app:
        assert app.get(Strategy).max_age == "default"  # type: ignore[attr-defined]


async def test_a_recipe_brings_its_own_parts() -> None:
    made = load("store: {own_pool: private}")
    async with App(made) as app:
        assert app.get(Store).pool.url == "private"
        assert app.get(Pool).url == "default"
        assert isinstance(app.get(Store).strategy, ByAge)
    assert "store.pool" in graph_of(made).nodes


async def test_a_catalogue_offers_what_lives_for_a_request() -> None:
    text = "pool: {network: x}\nsession: {usual: {limit: 2}}\ntransaction: usual\n"
    made = load_layers(text, container=WithRequests)
    async with App(made) as app:
        async with app.scope(Transaction) as request_:
            transaction = request_.get(Transaction)
            assert transaction.state == "open"
            assert transaction.session is request_.get(Session)
            assert (transaction.session.limit, transaction.session.pool) == (2, app.get(Pool))
        assert transaction.state == "closed"
        with app.scope() as request_:
            assert request_.get(Session) is not transaction.session

    kinds = {name: node.kind for name, node in graph_of(made).nodes.items()}
    assert (kinds["session"], kinds["transaction"]) == ("request", "request")
    again = load_layers(to_yaml(made), container=WithRequests)
    assert graph_of(again).difference(graph_of(made)) == ""
    changed = load_layers("session: {limit: 3}\n", container=made)
    assert graph_of(changed).nodes["session"].kind == "request"


def test_a_request_s_part_is_written_by_a_name_of_its_own_lifetime() -> None:
    class OneForAll(WithRequests):
        session = providers.Singleton(Session)
        transaction = providers.ContextLocalResource(Transaction)

    written = to_yaml(OneForAll, base=Base)
    assert "session: one" in written
    assert "transaction: usual" in written

    class Unnamed(WithRequests):
        transaction = providers.ContextLocalSingleton(Transaction)

    with pytest.raises(LayerValidationError, match="is in no catalogue as a request"):
        to_yaml(Unnamed)


def test_a_leak_of_a_request_s_part_is_found_in_yaml_too() -> None:
    text = "pool: {network: x}\nsession: usual\ntransaction: usual\n"

    class Holder:
        def __init__(self, session: Session) -> None: ...

    class Leaking(WithRequests):
        holder = providers.Singleton(Holder, WithRequests.session)

    with pytest.raises(LayerValidationError) as caught:
        App(load_layers(text, container=Leaking)).check()
    assert isinstance(caught.value.problems[0], LifetimeLeakError)


async def test_a_file_replaces_slots_and_dependents_follow() -> None:
    async with load("pool: {network: other}").build(Store) as store:
        assert store.pool.url == "other"


async def test_variables_are_filled_in_after_parsing() -> None:
    made = load(
        'pool: {network: {url: "${URL}", token: "${TOKEN:-none}", size: "${SIZE}", ratio: "${RATIO:-2}"}}',
        URL="x\ny: injected",
        SIZE="5",
    )
    async with made.build(Pool) as pool:
        assert pool.url == "x\ny: injected"
        assert (pool.token, pool.size, pool.ratio) == ("none", 5, 2)
    block = load("pool:\n  network:\n    url: $${HOME}\n    token: ${T}\n    size: ${N}\n", T="12345", N="3")
    async with block.build(Pool) as pool:
        assert (pool.url, pool.token, pool.size) == ("${HOME}", "12345", 3)


async def test_aliases_and_merge_keys_work_within_bounds() -> None:
    text = """
pool: &pool
  network: {url: a, size: 2}
strategy: {all_of: {strategies: [&one {by_count: 1}, *one]}}
store:
  default:
    flags: {<<: {audit: true}, chat: false}
"""
    async with load(text).build(Store) as store:
        assert [s.max_count for s in store.strategy.strategies] == [1, 1]  # type: ignore[union-attr]
        assert store.flags == {"audit": True, "chat": False}


class FakePoint:
    def __init__(self, name: str, target: Any) -> None:
        self.name, self.load = name, lambda: target


async def test_a_catalogue_is_extended_by_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [FakePoint("strategy.counted", ByCount), FakePoint("pool.other", resource(Pool))]
    monkeypatch.setattr(import_path, "entry_points", lambda group: points if group == "g" else [])
    catalogue = catalogue_from_entry_points("g")
    made = load_layers("strategy: {counted: 3}\npool: {other: x}\n", container=Base, catalogue=catalogue)
    async with made.build(Store) as store:
        assert store.strategy.max_count == 3  # type: ignore[union-attr]
    points.append(FakePoint("nonsense", ByCount))
    with pytest.raises(UsageError, match=r"is not named slot\.name"):
        catalogue_from_entry_points("g")


async def test_import_paths_need_permission() -> None:
    path = f"{__name__}:ByCount"
    assert "may not be imported here (allowed: none)" in errors_of(f'strategy: {{"{path}": 3}}')[0]
    assert "may not be imported" in errors_of("strategy: os:getpid")[0]
    allowed = [__name__.partition(".")[0]]
    made = load_layers(f'strategy: {{"{path}": 3}}\n', container=Base, allow_imports=allowed)
    async with App(made, Strategy) as app:
        assert app.get(Strategy).max_count == 3  # type: ignore[attr-defined]
    with pytest.raises(LayerValidationError, match="cannot be imported"):
        load_layers(f"strategy: {path}er\n", container=Base, allow_imports=allowed)
    with pytest.raises(LayerValidationError, match="has no parameter 'max_cont'; did you mean 'max_count'"):
        load_layers(f'strategy: {{"{path}": {{max_cont: 3}}}}\n', container=Base, allow_imports=allowed)


# -- extends and presets ------------------------------------------------------------------------------------


async def test_extends_overlays_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("pool: {network: {url: base, size: 3}}\nstrategy: {by_count: 1}\n")
    (tmp_path / "middle.yaml").write_text("extends: base.yaml\npool: {size: 4}\n")
    (tmp_path / "top.yaml").write_text("extends: ./middle.yaml\nstrategy: {by_count: 9}\n")
    made = load_layers(tmp_path / "top.yaml", container=Base)
    async with made.build(Store) as store:
        assert (store.pool.url, store.pool.size) == ("base", 4)
        assert store.strategy.max_count == 9  # type: ignore[union-attr]


async def test_presets_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("pool: {network: small}\n")
    made = load_layers("small", container=Base, presets=[tmp_path])
    async with made.build(Pool) as pool:
        assert pool.url == "small"
    made = load_layers("extends: small\nname: x\n", container=Base, presets=[tmp_path])
    async with made.build(Pool) as pool:
        assert pool.url == "small"
    with pytest.raises(PresetNotFoundError, match="no preset 'smal'; did you mean 'small'"):
        find_preset("smal", [tmp_path])
    with pytest.raises(PresetNotFoundError):
        find_preset("../small", [tmp_path])


def test_files_that_extend_each_other_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(LayerValidationError, match=r"b\.yaml:1:10: .*a\.yaml -> b\.yaml -> a\.yaml"):
        load_layers(tmp_path / "a.yaml", container=Base)


def test_errors_of_an_extended_file_name_that_file(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("\nplool: 3\n")
    (tmp_path / "top.yaml").write_text("extends: base.yaml\nstratgy: shared\n")
    with pytest.raises(LayerValidationError) as caught:
        load_layers(tmp_path / "top.yaml", container=Base)

    text = str(caught.value)
    assert "base.yaml:2:1: there is no slot 'plool'" in text
    assert "top.yaml:2:1: there is no slot 'stratgy'; did you mean 'strategy'?" in text


def test_a_file_may_name_its_container() -> None:
    class Other(LayerContainer):
        thing = providers.Object(1)

    made = load_layers("container: other\nthing: 2\n", container=Base, containers={"other": Other, "base": Base})
    assert issubclass(made, Other)
    with pytest.raises(LayerValidationError, match=r"1:12: container: there is no container 'othr'; did you mean"):
        load_layers("container: othr\nthing: 2\n", container=Base, containers={"other": Other})


def test_a_missing_or_unreadable_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PresetNotFoundError, match="there is no file"):
        load_layers(tmp_path / "absent.yaml", container=Base)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PresetNotFoundError, match=r"cannot read .*binary.yaml: it is not UTF-8"):
        load_layers(tmp_path / "binary.yaml", container=Base)


def test_an_empty_file_is_the_container_itself() -> None:
    assert graph_of(load("# nothing")) == graph_of(Base)


# -- what is refused ------------------------------------------------------------------------------------------


def test_all_errors_of_a_file_come_together_with_line_and_column() -> None:
    text = """poool: x
pool:
  network: {ur: x, size: many}
strategy: {by_ag: 3}
store: memry
"""
    assert errors_of(text) == [
        "<text>:1:1: there is no slot 'poool'; did you mean 'pool'?",
        "<text>:3:13: Pool has no parameter 'ur'; did you mean 'url'?",
        "<text>:3:26: size: expected int, got 'many' (text)",
        "<text>:4:12: strategy: 'by_ag' is neither an implementation nor a parameter of ByAge; did you mean 'by_age'?",
        "<text>:5:8: store: no implementation 'memry'; did you mean 'memory'?",
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("pool: {network: x}\npool: {network: y}", "<text>:2:1: the key 'pool' is there twice, first at line 1"),
        ("pool: {network: {url: a, url: b}}", "<text>:1:26: the key 'url' is there twice, first at line 1"),
        ("- a\n- b", "<text>:1:1: a file of layers is a mapping of slots"),
        ("pool: [\n", "<text>:"),
        ("pool: !!python/object/apply:os.system [ls]", "<text>:1:7: the tag"),
        ("name: !thing x", "<text>:1:7: the tag '!thing' is not allowed"),
        ("? [a]\n: b", "<text>:1:3: a key has to be a text"),
        ("store: {default: {pool: {ref: pol}}}", "<text>:1:31: ref: there is no slot 'pol'; did you mean 'pool'?"),
        ("strategy: {composite: [{by_agee: 1}]}", "<text>:1:24: strategies: no implementation 'by_agee'"),
        ("strategy: {composite: [sharde]}", "<text>:1:24: strategies: no implementation 'sharde'; did you mean"),
        ("strategy: {shared: 3}", "<text>:1:20: shared is a ready value and takes no arguments"),
        ("strategy: {by_count: [1, 2]}", "<text>:1:26: ByCount takes 1 positional arguments, not 2"),
        ("strategy: {by_age: 1, by_count: 2}", "<text>:1:11: strategy: 'by_age' is an implementation and stands alone"),
        ("store: {own_pool: {ur: x}}", "<text>:1:20: layer_store_with_pool has no parameter 'ur'"),
        ("config: 3", "<text>:1:9: configuration takes a mapping"),
        ("store: {default: {flags: 3}}", "<text>:1:26: flags: expected dict"),
        ("extends: [a]", "<text>:1:10: extends takes the name of a preset or a file"),
        ("extends: nowhere", "<text>:1:10: extends: no preset 'nowhere'"),
        ('pool: {network: "${URL"}', "<text>:1:17: '${URL' has an unclosed or misnamed variable"),
        ("name: 2020-01-01\nnam: x", "<text>:2:1: there is no slot 'nam'"),
        ("pool: {<<: 3}", "<text>:1:12: what is merged with << has to be a mapping"),
    ],
)
def test_what_is_refused(text: str, error: str) -> None:
    assert any(problem.startswith(error) for problem in errors_of(text)), errors_of(text)


def test_an_absent_variable_names_itself_and_its_line() -> None:
    (problem,) = errors_of('name: x\npool: {network: "${SYNC_URL}"}')

    assert problem.startswith("<text>:2:17: the environment variable SYNC_URL is not set")
    assert "${SYNC_URL:-default}" in problem


@pytest.mark.parametrize(
    "text",
    [
        'pool: {network: {url: x, size: "${UNSET}"}}',
        "pool:\n  network:\n    url: x\n    size: ${UNSET}",
        'strategy: "${UNSET}"',
        'store: {default: {pool: "${UNSET}"}}',
        'store: {default: {flags: "${UNSET}"}}',
        'config: "${UNSET}"',
        'extends: "${UNSET}"',
        'container: "${UNSET}"',
        'strategy: {composite: ["${UNSET}"]}',
    ],
)
def test_an_absent_variable_is_the_only_problem_at_its_place(text: str) -> None:
    (problem,) = errors_of(text)

    assert "the environment variable UNSET is not set" in problem


def test_an_absent_variable_hides_nothing_elsewhere() -> None:
    problems = errors_of('pool: {network: {url: "${UNSET}", size: many}}')

    assert len(problems) == 2
    assert "UNSET" in problems[0]
    assert "size: expected int" in problems[1]


def test_a_secret_from_the_environment_is_never_shown() -> None:
    text = 'pool: {network: {url: x, token: "${TOKEN}", size: "${TOKEN}"}}\nstrategy: "${TOKEN}"'
    problems = "\n".join(errors_of(text, TOKEN="hunter2"))

    assert "size: expected int, got '${TOKEN}'" in problems
    assert "hunter2" not in problems
    made = load('pool: {network: {url: x, token: "${TOKEN}"}}', TOKEN="hunter2")
    graph = graph_of(made)
    assert "hunter2" not in graph.to_text() + graph.to_json() + graph.to_mermaid() + graph.difference(graph_of(Base))
    assert 'token = "***"' in graph.to_text()


def test_aliases_cannot_blow_up() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    problems = errors_of("\n".join(lines))

    assert any(f"more than {NODES_MAX} values" in problem for problem in problems)
    assert len(problems) < 20


def test_merge_keys_cannot_blow_up() -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 5)}]}}" for n in range(1, 25)]
    problems = errors_of("\n".join(lines))

    assert any("once aliases are expanded" in problem for problem in problems)


def test_an_alias_inside_itself_is_refused() -> None:
    problems = errors_of("name: &a [*a]")

    assert any("more than" in problem for problem in problems)


def test_a_huge_text_is_refused() -> None:
    assert "more than" in errors_of("# " + "x" * 2_000_000)[0]


def test_a_hint_for_variables_in_flow_style() -> None:
    assert "needs quotes" in errors_of("pool: {network: ${URL:-x}}")[0]


def test_problems_are_schema_errors_with_an_origin() -> None:
    with pytest.raises(LayerValidationError) as caught:
        load("name: x\nnme: y")
    (problem,) = caught.value.problems

    assert isinstance(problem, LayerSchemaError)
    assert problem.origin is not None
    assert (problem.origin.line, problem.origin.column) == (2, 1)


def test_a_missing_argument_points_at_the_line_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text("name: x\npool: network\n")
    made = load_layers(tmp_path / "app.yaml", container=Base)
    with pytest.raises(LayerValidationError) as caught:
        App(made).check()

    assert re.search(r"declared at .*app\.yaml:2:1", str(caught.value))
    assert "Pool needs 'url'" in str(caught.value)


# -- and back -------------------------------------------------------------------------------------------------


def test_a_python_container_is_written_as_yaml_and_read_back() -> None:
    class Written(Base):
        config = providers.Configuration(default={"url": "w$$", "deep": {"a": 1, "b": 3}})
        pool = providers.Resource(Pool, url=Base.config.url, token="t$t", size=3)
        strategy = providers.Singleton(
            Composite,
            providers.Singleton(ByAge, max_age=5.5),
            providers.Singleton(ByCount, 3),
            providers.Object(SHARED),
        )
        store = providers.Singleton(Store, pool=Base.pool, flags={"a": True})

    text = to_yaml(Written, show_secrets=True)
    again = load_layers(text, container=Base, environment={})

    assert graph_of(again).difference(graph_of(Written)) == ""
    assert "name" not in to_yaml(Written, base=Base)


def test_a_layer_made_from_a_container_is_written_too() -> None:
    layer = Base.layer(
        (Store,), store=Layer.factory(Store).provide(Layer.scoped(Pool, url="own", token="t")), name="other"
    ).provide(Layer.factory(Strategy, ByCount, 4))
    text = to_yaml(layer, base=Base)
    again = load_layers(text, container=Base, environment={"STORE_TOKEN": "t"})

    assert graph_of(again).difference(graph_of(layer)) == ""
    assert text == (
        "name: other\nstrategy:\n  by_count:\n    max_count: 4\n"
        "store:\n  default:\n    pool:\n      network:\n        url: own\n        token: ${STORE_TOKEN}\n"
    )
    with pytest.raises(UsageError, match="only a layer made from a container can be written"):
        to_yaml(Layer.factory(ByAge, max_age=1))


def test_secrets_are_written_as_variables() -> None:
    class Written(Base):
        pool = providers.Resource(Pool, url="x", token="s3cret")

    assert "s3cret" not in to_yaml(Written)
    made = load_layers(to_yaml(Written), container=Base, environment={"POOL_TOKEN": "s3cret"})
    assert graph_of(made) == graph_of(Written)


def test_what_is_in_no_catalogue_says_so() -> None:
    class Unnamed(Base):
        strategy = providers.Singleton(lambda: ByAge(1))
        name: Any = providers.Object(object())
        store = providers.Singleton(Store, flags={"ref": True})

    with pytest.raises(LayerValidationError) as caught:
        to_yaml(Unnamed)

    assert [type(problem) for problem in caught.value.problems] == [NotInCatalogueError] * 3
    assert "strategy: " in str(caught.value)
    assert "is in no catalogue as a singleton" in str(caught.value)


_simple = st.one_of(
    st.builds(lambda age: providers.Singleton(ByAge, max_age=age), st.sampled_from(["1 day", 5, 0.5, "${X}", "yes"])),
    st.builds(lambda count: providers.Singleton(ByCount, count), st.integers(-2, 3)),
    st.just(providers.Object(SHARED)),
)
_strategies = st.recursive(
    _simple,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: providers.Singleton(Composite, *parts)),
        st.lists(inner, max_size=3).map(
            lambda parts: providers.Singleton(AllOf, strategies=providers.List(*parts) if parts else [])
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(
    strategy=_strategies,
    url=st.sampled_from(["ws://x", "${URL}", "3", "null", "a: b\nc: d", "", "#"]),
    token=st.sampled_from([None, "t", "true"]),
    flags=st.dictionaries(st.sampled_from(["a", "b", "<<"]), st.booleans(), max_size=2),
)
def test_python_to_yaml_to_python_is_the_same_graph(strategy: Any, url: str, token: Any, flags: Any) -> None:
    class Written(Base):
        pool = providers.Resource(Pool, url=url, token=token)
        store = providers.Singleton(Store, flags=flags)

    Written.strategy = strategy
    again = load_layers(to_yaml(Written, show_secrets=True), container=Base, environment={})

    assert graph_of(again).difference(graph_of(Written)) == ""
