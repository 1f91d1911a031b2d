"""The graph as data; the three spellings of one app give the same one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self

import pytest
from dependency_injector import providers

from agentlayers.layer import App, Catalogue, Graph, Layer, LayerContainer, graph_of, load_layers, resource, singleton
from agentlayers.layer.secret import mask_text


class Transport:
    pass


class WebSocket(Transport):
    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url


class Offline(Transport):
    pass


class Policy:
    pass


class LastWins(Policy):
    pass


class Sync:
    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None: ...


class Journal:
    def __init__(self, directory: str) -> None:
        self.directory = directory


class Store:
    def __init__(self, journal: Journal, policy: Policy, sync: Sync | None = None) -> None:
        self.journal, self.policy, self.sync = journal, policy, sync


class Runtime:
    def __init__(self, chat: Store, mode: str = "fast") -> None:
        self.chat, self.mode = chat, mode


class Base(LayerContainer):
    config = providers.Configuration(default={"directory": "here"})
    journal: providers.Provider[Journal] = providers.Singleton(Journal, directory=config.directory)
    policy: providers.Provider[Policy] = providers.Singleton(Policy)
    transport: providers.Provider[Transport] = providers.Singleton(Offline)
    sync: providers.Provider[Sync] = providers.Resource(Sync)
    chat: providers.Provider[Store] = providers.Singleton(Store)
    runtime: providers.Provider[Runtime] = providers.Singleton(Runtime)

    catalogue = Catalogue(
        policy={"last_wins": singleton(LastWins)},
        transport={"websocket": singleton(WebSocket), "offline": singleton(Offline)},
        sync={"default": resource(Sync)},
        chat={"journaled": singleton(Store)},
        runtime={"default": singleton(Runtime)},
    )


class AsContainer(Base):
    policy = providers.Singleton(LastWins)
    chat = providers.Singleton(
        Store, sync=providers.Resource(Sync, transport=providers.Singleton(WebSocket, url="ws://x", token="s3cret"))
    )


AS_LAYERS = Base.layer(
    (Runtime,),
    chat=Layer.factory(Store).provide(
        Layer.scoped(Sync).provide(Layer.factory(Transport, WebSocket, "ws://x", token="s3cret"))
    ),
).provide(Layer.factory(Policy, LastWins))

AS_YAML = load_layers(
    """
policy: last_wins
chat: {journaled: {sync: {default: {transport: {websocket: {url: "ws://x", token: "${TOKEN}"}}}}}}
""",
    container=Base,
    environment={"TOKEN": "s3cret"},
)


def test_the_three_spellings_give_one_graph() -> None:
    container, layers, yaml = graph_of(AsContainer), graph_of(AS_LAYERS), graph_of(AS_YAML)

    assert layers.difference(container) == ""
    assert yaml.difference(container) == ""
    assert container == layers == yaml
    assert container != graph_of(Base)


def test_parts_inside_a_slot_are_named_after_it() -> None:
    nodes = graph_of(AsContainer).nodes

    assert list(nodes) == [
        "config",
        "journal",
        "policy",
        "transport",
        "sync",
        "chat",
        "chat.sync",
        "chat.sync.transport",
        "runtime",
    ]
    assert str(nodes["chat.sync"].arguments["transport"]) == "chat.sync.transport"
    assert str(nodes["journal"].arguments["directory"]) == "config.directory"


async def test_the_three_spellings_run_alike() -> None:
    for target in (AsContainer, AS_LAYERS, AS_YAML):
        async with App(target, Runtime, "sync") as app:
            runtime: Any = app.get(Runtime)
            assert runtime.chat.sync.transport.url == "ws://x"
            assert isinstance(app.get("sync").transport, Offline)
            assert runtime.chat.sync is not app.get("sync")


def test_where_it_was_declared_does_not_count_but_is_kept() -> None:
    container, layers, yaml = graph_of(AsContainer), graph_of(AS_LAYERS), graph_of(AS_YAML)

    places = [str(graph.nodes["chat"].declared_at) for graph in (container, layers, yaml)]
    assert len(set(places)) == 3
    assert places[0].rpartition(":")[0].endswith("test_layer_graph.py")
    assert places[1].rpartition(":")[0].endswith("test_layer_graph.py")
    assert places[2] == "<text>:3:1"


def test_other_arguments_are_another_graph() -> None:
    class Other(AsContainer):
        runtime = providers.Singleton(Runtime, mode="slow")

    difference = graph_of(Other).difference(graph_of(AsContainer))
    assert difference.startswith("runtime:")
    assert "slow" in difference


def test_the_drawings_name_every_part_and_mask_secrets() -> None:
    graph = graph_of(AsContainer)
    text, mermaid, data = graph.to_text(), graph.to_mermaid(), json.loads(graph.to_json())

    assert 'token = "***"' in text
    assert "s3cret" not in text + mermaid + graph.to_json() + repr(graph) + repr(graph.nodes)
    assert "runtime: singleton" in text
    assert "    chat = -> chat" in text
    assert mermaid.startswith("flowchart TD")
    assert "-->|transport|" in mermaid
    by_name = {node["name"]: node for node in data["nodes"]}
    assert by_name["chat.sync"]["kind"] == "resource"
    assert by_name["runtime"]["arguments"] == {"chat": {"ref": "chat"}}


def test_secrets_inside_addresses_are_masked_too() -> None:
    text = graph_of(Layer.factory(Transport, WebSocket, url="ws://me:hunter2@host/log?token=hunter3&x=1")).to_text()

    assert "ws://me:***@host/log?token=***&x=1" in text
    assert "hunter" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("db://me:hun@ter2@host/x", "db://me:***@host/x"),
        ("redis://:hunter#2@host/0", "redis://:***@host/0"),
        ("ws://me:hunter2@host?mail=a@b", "ws://me:***@host?mail=a@b"),
        ("https://host/x#access_token=hunter2;n=1", "https://host/x#access_token=***;n=1"),
        ("https://host/x?X-Signature=hunter2&apikey=hunter2&n=1", "https://host/x?X-Signature=***&apikey=***&n=1"),
        ("host=db user=me password=hunter2 port=1", "host=db user=me password=*** port=1"),
        ("http://host:80/path@here", "http://host:80/path@here"),
        ("plain = text", "plain = text"),
    ],
)
def test_texts_are_masked_where_a_secret_stands(text: str, shown: str) -> None:
    assert mask_text(text) == shown


class Credentials:
    def __init__(self, word: str) -> None:
        self.word = word

    def __repr__(self) -> str:
        return f"Credentials({self.word})"


@dataclass(frozen=True)
class Login:
    word: str


def _policy(**_given: object) -> Policy:
    return Policy()


def test_the_inside_of_an_object_is_compared_and_never_shown() -> None:
    def of(word: str) -> Graph:
        given: dict[str, Any] = {"first": Credentials(word), "second": [Login(word)], "tokens": {"me": word}, "n": 4711}
        return graph_of(Layer.factory(Policy, _policy, **given))

    graph, other = of("hunter2"), of("hunter3")
    written = graph.to_text() + graph.to_json() + repr(graph.nodes) + graph.difference(other)

    assert graph == of("hunter2")
    assert graph != other
    assert "hunter" not in written + str(graph.masked().nodes["policy"].arguments)
    assert graph.masked().nodes["policy"].arguments["tokens"] == {"me": "***"}
    assert "Credentials>" in written
    assert "Login>" in written


def test_values_of_variables_are_shown_by_name() -> None:
    graph = graph_of(Layer.factory(Transport, WebSocket, url="ws://internal.example/4711", token="x"))
    masked = graph.masked({"HOST": "internal.example", "SHORT": "4", "NOTHING": ""})

    assert masked.nodes["transport"].arguments["url"] == "ws://${HOST}/4711"
    assert masked.nodes["transport"].arguments["token"] == "***"
    assert masked.to_text() == masked.masked().to_text()
    assert graph.nodes["transport"].arguments["url"] == "ws://internal.example/4711"


def test_a_graph_of_layers_names_parts_after_their_services() -> None:
    pool = Layer.factory(Journal, directory="d")
    graph = graph_of(Layer.factory(Store).provide(pool, Layer.factory(Policy)))

    assert list(graph.nodes) == ["store", "journal", "policy"]


def test_a_wrong_graph_can_still_be_drawn() -> None:
    assert "store" in graph_of(Layer.factory(Store)).to_text()


def test_aliases_are_drawn_as_such() -> None:
    class Aliased(LayerContainer):
        first = providers.Singleton(Policy)
        second = first

    nodes = graph_of(Aliased).nodes
    assert (nodes["first"].kind, nodes["second"].kind) == ("singleton", "alias")
    assert str(nodes["second"].arguments["of"]) == "first"
