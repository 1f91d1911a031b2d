"""The JSON Schema of a container accepts what the loader accepts and points at what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest
import yaml
from dependency_injector import providers

from agentlayers.layer import Catalogue, LayerContainer, load_layers, schema_of, singleton

jsonschema = pytest.importorskip("jsonschema")


class Strategy:
    """How old entries go."""


class ByAge(Strategy):
    """Drop what is old."""

    def __init__(self, max_age: str | float, unit: Literal["s", "ms"] = "s") -> None: ...


class Composite(Strategy):
    def __init__(self, *strategies: Strategy) -> None: ...


class AllOf(Strategy):
    def __init__(self, strategies: Sequence[Strategy], flags: dict[str, bool] | None = None, size: int = 1) -> None: ...


class Base(LayerContainer):
    """A container."""

    config = providers.Configuration()
    name: providers.Provider[str] = providers.Object("x")
    strategy: providers.Provider[Strategy] = providers.Singleton(ByAge, max_age=1)

    catalogue = Catalogue(
        strategy={"by_age": singleton(ByAge), "composite": singleton(Composite), "all_of": singleton(AllOf)}
    )


SCHEMA = schema_of(Base)


@pytest.mark.parametrize(
    "text",
    [
        "strategy: by_age",
        "strategy: {by_age: 3}",
        "strategy: {by_age: {max_age: 30 days, unit: ms}}",
        "strategy: {max_age: 5}",
        "strategy: {composite: [{by_age: 1}, {composite: [{by_age: 2}]}]}",
        "strategy: {all_of: {strategies: [{by_age: 1}], flags: {a: true}, size: 3}}",
        'strategy: {all_of: {strategies: [], size: "${SIZE:-3}"}}',
        "strategy: {by_age: {ref: config.age}}",
        "name: y\nconfig: {anything: [1]}",
        "extends: local",
    ],
)
def test_what_the_loader_takes_is_valid(text: str) -> None:
    jsonschema.validate(yaml.safe_load(text), SCHEMA)
    if not text.startswith("extends"):
        load_layers(text + "\n", container=Base, environment={})


@pytest.mark.parametrize(
    "text",
    [
        "stategy: by_age",
        "strategy: by_agee",
        "strategy: {by_age: {max_agee: 3}}",
        "strategy: {all_of: {strategies: [], flags: {a: 3}}}",
        "strategy: {all_of: {strategies: [by_agee]}}",
        "strategy: {all_of: {strategies: [], size: many}}",
        "name: [a]",
        "config: 3",
    ],
)
def test_what_the_loader_refuses_is_invalid(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), SCHEMA)
    with pytest.raises(Exception, match="problem"):
        load_layers(text + "\n", container=Base, environment={})


def test_the_schema_is_a_schema_and_describes() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    text = str(SCHEMA)
    assert SCHEMA["title"] == "Base"
    assert "Drop what is old." in text


def test_a_key_that_cannot_be_is_refused_by_both() -> None:
    document: Any = {"strategy": {"by_age": {}, "composite": []}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)
