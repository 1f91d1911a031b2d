"""A class that reads itself from text may be given as text in a file, and is shown and written as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from dependency_injector import providers

from agentlayers.errors import SettingsError
from agentlayers.layer import (
    Catalogue,
    Layer,
    LayerContainer,
    graph_of,
    load_layers,
    recipe,
    schema_of,
    singleton,
    to_yaml,
)
from agentlayers.layer.errors import LayerValidationError


@dataclass(frozen=True)
class Weight:
    """So many grams."""

    grams: int
    note: str = ""

    @staticmethod
    def from_text(text: str) -> Weight:
        """Read grams, such as ``20g``."""
        if not text.endswith("g") or not text[:-1].isdigit():
            raise SettingsError(setting="weight", value=text, expected="grams, such as 20g")
        return Weight(int(text[:-1]))

    def to_text(self) -> str:
        if self.grams < 0:
            raise ValueError("less than nothing")
        return f"{self.grams}g"


class Stubborn(Weight):
    @staticmethod
    def from_text(text: str) -> Weight:
        raise ValueError(f"never {text}")


class Scale:
    def __init__(
        self,
        weight: Weight | None = None,
        *,
        either: Weight | str | None = None,
        most: Weight | int = 0,
        all_of: Sequence[Weight] = (),
        by_name: Mapping[str, Weight] | None = None,
        stubborn: Stubborn | None = None,
    ) -> None:
        self.given = (weight, either, most, all_of, by_name, stubborn)

    @staticmethod
    def layer_with(weight: Weight) -> Layer:
        return Layer.factory(Scale, Scale, weight=weight)


class Shop(LayerContainer):
    scale: providers.Provider[Scale] = providers.Singleton(Scale)

    catalogue = Catalogue(scale={"scale": singleton(Scale), "recipe": recipe(Scale.layer_with)})


def load(text: str, **environment: str) -> type[LayerContainer]:
    return load_layers(text + "\n", container=Shop, environment=environment)


async def given(text: str, **environment: str) -> tuple[Any, ...]:
    async with load(text, **environment).build(Scale) as scale:
        return scale.given


async def test_a_text_becomes_the_value_wherever_a_value_may_stand() -> None:
    written = "scale: {weight: 1g, either: 2g, most: 3g, all_of: [4g], by_name: {a: 5g}}"

    assert (Weight(1), Weight(2), Weight(3), [Weight(4)], {"a": Weight(5)}, None) == await given(written)
    assert Weight(1) == (await given("scale: {recipe: 1g}"))[0]
    assert Weight(1) == (await given("scale: {scale: [1g]}"))[0]


async def test_what_is_no_text_is_taken_as_it_is_where_the_annotation_allows_it() -> None:
    assert 7 == (await given("scale: {most: 7}"))[2]
    assert (None, None) == (await given("scale: {weight: null, either: ~}"))[:2]


async def test_a_text_from_the_environment_is_read_too_and_an_empty_one_is_none() -> None:
    assert Weight(9) == (await given('scale: {weight: "${W}"}', W="9g"))[0]
    assert Weight(9) == (await given('scale: {weight: "${W:-9}g"}'))[0]
    assert (await given('scale: {weight: "${W:-}"}'))[0] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scale:\n  weight: 20kg", "2:11: weight: '20kg' cannot be used; expected grams, such as 20g"),
        ("scale: {either: heavy}", "1:17: either: 'heavy' cannot be used; expected grams, such as 20g"),
        ("scale: {weight: 20}", "1:17: weight: '20' cannot be used; expected grams, such as 20g"),
        ("scale: {recipe: 20}", "1:17: weight: '20' cannot be used; expected grams, such as 20g"),
        ("scale: {by_name: {a: 1g,\n b: 1}}", "2:5: by_name.b: '1' cannot be used; expected grams"),
        ("scale: {most: [1g]}", "1:15: most: expected Weight as text or int, got a list"),
        ("scale: {stubborn: 1g}", "1:19: stubborn: never 1g"),
    ],
)
def test_a_text_that_cannot_be_read_is_told_with_its_line(text: str, said: str) -> None:
    with pytest.raises(LayerValidationError) as refused:
        load(text)

    assert f"<text>:{said}" in str(refused.value)


@pytest.mark.parametrize(("name", "expected"), [("weight", "grams, such as 20g"), ("stubborn", "a Stubborn as text")])
def test_what_a_variable_holds_is_not_told(name: str, expected: str) -> None:
    with pytest.raises(LayerValidationError) as refused:
        load(f'scale: {{{name}: "${{W}}"}}', W="hunter2")

    assert f"{name}: what '${{W}}' stands for cannot be used; expected {expected}" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_variable_that_stands_for_itself_stays_so() -> None:
    made = load('scale: {either: "${W}"}', W="${W}")

    assert "${W}" == graph_of(made).nodes["scale"].arguments["either"]


class Written(Shop):
    scale = providers.Singleton(Scale, Weight(1), either=Weight(2))


def test_a_value_in_python_and_its_text_in_a_file_are_one_graph() -> None:
    text = to_yaml(Written)

    assert "scale:\n  scale:\n    weight: 1g\n    either: 2g\n" == text
    assert "" == graph_of(Written).difference(graph_of(load(text)))
    assert "weight" in graph_of(Written).difference(graph_of(load("scale: {scale: {weight: 2g, either: 2g}}")))


def test_a_graph_shows_the_text_and_masks_what_came_from_a_variable() -> None:
    graph = graph_of(Written)

    assert '    either = "2g"' in graph.to_text()
    assert '"either": "2g"' in graph.to_json()
    assert {"weight": "${W}", "either": "2g"} == graph.masked({"W": "1g"}).nodes["scale"].arguments


@pytest.mark.parametrize("weight", [Weight(1, note="private"), Weight(-1), Stubborn(1)])
def test_a_value_whose_text_would_be_another_value_is_neither_written_nor_shown(weight: Weight) -> None:
    class Other(Shop):
        scale = providers.Singleton(Scale, weight)

    with pytest.raises(LayerValidationError, match="cannot be written as YAML"):
        to_yaml(Other)
    assert f'weight = "<{__name__}.{type(weight).__name__}>"' in graph_of(Other).to_text()


def test_an_editor_is_told_that_a_text_is_wanted() -> None:
    said = str(schema_of(Shop))

    assert "{'type': 'string', 'description': 'Read grams, such as ``20g``.'}" in said
