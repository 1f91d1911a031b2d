"""What an annotation says beyond a class is checked in a file: a closed set of values, or a check of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from dependency_injector import providers

from agentlayers.errors import SettingsError
from agentlayers.layer import Catalogue, Layer, LayerContainer, load_layers, recipe, singleton
from agentlayers.layer.errors import LayerValidationError

Level = bool | Literal["half", 2]


def even(number: int) -> None:
    if number % 2:
        raise ValueError("has to be even")


def short(names: Mapping[str, str] | None) -> None:
    for name, text in (names or {}).items():
        if len(text) > 3:
            raise SettingsError(setting=f"names.{name}", value=text, expected="three letters")


class Lamp:
    def __init__(
        self,
        levels: Mapping[str, Level] | None = None,
        *,
        watts: Annotated[int, "unit: W", even] = 2,
        names: Annotated[Mapping[str, str] | None, short] = None,
    ) -> None:
        self.levels, self.watts, self.names = levels, watts, names

    @staticmethod
    def layer_even(watts: Annotated[int, even]) -> Layer:
        return Layer.factory(Lamp, Lamp, watts=watts)


class EvenLamp(Lamp):
    def __init__(self, watts: Annotated[int, even]) -> None:
        super().__init__(watts=watts)


class House(LayerContainer):
    config = providers.Configuration(default={"watts": 3})
    lamp: providers.Provider[Lamp] = providers.Singleton(Lamp)

    catalogue = Catalogue(
        lamp={"lamp": singleton(Lamp), "even": singleton(EvenLamp), "recipe": recipe(Lamp.layer_even)},
    )


def load(text: str, **environment: str) -> type[LayerContainer]:
    return load_layers(text + "\n", container=House, environment=environment)


async def built(text: str, **environment: str) -> Lamp:
    async with load(text, **environment).build(Lamp) as lamp:
        return lamp


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("lamp: {levels: {a: half,\n  b: lazy}}", "2:6: levels.b: expected bool or 'half' or 2, got 'lazy' (text)"),
        ("lamp: {levels: {a: 3}}", "1:20: levels.a: expected bool or 'half' or 2, got '3' (int)"),
        ("lamp: {lamp: {levels: {a: 2.0}}}", "1:27: levels.a: expected bool or 'half' or 2, got '2.0' (float)"),
        ("lamp: {watts: 3}", "1:15: watts: has to be even"),
        ("lamp: {lamp: {watts: 3}}", "1:22: watts: has to be even"),
        ("lamp: {even: 3}", "1:14: watts: has to be even"),
        ("lamp: {even: [3]}", "1:15: watts: has to be even"),
        ("lamp: {recipe: 3}", "1:16: watts: has to be even"),
        (
            "lamp: {names: {a: abc,\n  b: abcd}}",
            "2:6: names.b: 'abcd' cannot be used; expected three letters",
        ),
    ],
)
def test_a_value_that_cannot_be_right_is_refused_at_its_line(text: str, error: str) -> None:
    with pytest.raises(LayerValidationError) as caught:
        load(text)

    assert [str(problem) for problem in caught.value.problems] == [f"<text>:{error}"]


async def test_right_values_pass() -> None:
    lamp = await built("lamp: {levels: {a: half, b: true, c: 2}, watts: 4, names: {a: abc}}")

    assert (lamp.levels, lamp.watts, lamp.names) == ({"a": "half", "b": True, "c": 2}, 4, {"a": "abc"})


async def test_a_variable_is_read_as_the_value_that_is_allowed() -> None:
    lamp = await built('lamp: {levels: {a: "${A}", b: "${B}", c: "${C}"}}', A="true", B="half", C="2")

    assert lamp.levels == {"a": True, "b": "half", "c": 2}
    with pytest.raises(LayerValidationError, match=r"expected bool or 'half' or 2, got '[$]{A}'"):
        load('lamp: {levels: {a: "${A}"}}', A="lazy")


@pytest.mark.parametrize(
    ("text", "watts"), [('lamp: {watts: "${WATTS}"}', 3), ("lamp: {watts: {ref: config.watts}}", 3)]
)
async def test_only_what_stands_in_the_file_is_checked_there(text: str, watts: Any) -> None:
    """A variable may hold a secret, and on a build machine it stands for itself."""
    assert (await built(text, WATTS="3")).watts == watts
