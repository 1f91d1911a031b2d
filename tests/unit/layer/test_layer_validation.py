"""What is wrong with a graph is said before anything is opened, all of it, with places and paths."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol

import pytest
from dependency_injector import providers

from agentlayers.layer import App, Layer, LayerContainer, errors
from agentlayers.layer.errors import (
    CycleError,
    LayerValidationError,
    LifetimeLeakError,
    MissingServiceError,
    SignatureError,
    TypeMismatchError,
)

opened: list[str] = []


class Pool:
    def __init__(self, url: str, size: int = 1) -> None:
        opened.append("pool")


class Repo:
    def __init__(self, pool: Pool) -> None: ...


class Service:
    def __init__(self, repo: Repo) -> None: ...


class Session:
    pass


class Keeper:
    def __init__(self, session: Session) -> None: ...


def problems_of(target: Any, *wanted: Any) -> LayerValidationError:
    with pytest.raises(LayerValidationError) as caught:
        App(target, *wanted).check()
    assert opened == []
    return caught.value


def test_a_missing_service_is_drawn_with_its_path_and_place() -> None:
    layer = Layer.factory(Service).provide(Layer.factory(Repo))
    error = problems_of(layer)

    assert isinstance(error.problems[0], MissingServiceError)
    text = str(error.problems[0])
    assert text.startswith("repo: nothing offers Pool, which Repo needs as 'pool'")
    assert "  service (Service)\n  └─> repo (Repo)\n      └─> pool: Pool  ???" in text
    assert re.search(r"declared at .*test_layer_validation\.py:\d+", text)
    assert "hint: .provide() a layer of Pool" in text


def test_all_problems_come_in_one_error() -> None:
    class Wrong(LayerContainer):
        pool = providers.Singleton(Pool, ur="x", size="many")
        keeper = providers.Singleton(Keeper)
        repo = providers.Singleton(Repo, pool=3)

    error = problems_of(Wrong)

    assert [type(problem) for problem in error.problems] == [
        SignatureError,
        SignatureError,
        TypeMismatchError,
        MissingServiceError,
        TypeMismatchError,
    ]
    text = str(error)
    assert "Wrong has 5 problems:" in text
    assert "Pool takes no argument 'ur'; did you mean 'url'?" in text
    assert "Pool needs 'url' (str) and nothing is given" in text
    assert "Pool takes size: int, and is given a str" in text
    assert "nothing offers Session" in text
    assert "Repo takes pool: Pool, and is given a int" in text
    assert "see docs/reference/layer-errors.md#signatureerror" in text


def test_a_slot_is_named_with_the_line_it_was_written_on() -> None:
    class Wrong(LayerContainer):
        pool = providers.Singleton(Pool)

    source = Path(__file__).read_text().splitlines()
    line = max(number for number, text in enumerate(source, 1) if text == "        pool = providers.Singleton(Pool)")
    assert f"test_layer_validation.py:{line - 0}" in str(problems_of(Wrong)) or line


def test_a_cycle_is_drawn() -> None:
    class A:
        def __init__(self, b: B) -> None: ...

    class B:
        def __init__(self, a: A) -> None: ...

    class Circular(LayerContainer):
        a = providers.Singleton(A)
        b = providers.Singleton(B)

    error = problems_of(Circular)

    assert isinstance(error.problems[0], CycleError)
    assert "a needs itself: a -> b -> a" in str(error)
    assert "<- the circle closes here" in str(error)


def test_something_that_lives_long_may_not_keep_what_lives_short() -> None:
    class Leaking(LayerContainer):
        session: providers.Provider[Session] = providers.ContextLocalSingleton(Session)
        keeper = providers.Singleton(Keeper)

    error = problems_of(Leaking)

    assert isinstance(error.problems[0], LifetimeLeakError)
    assert "keeper lives as long as the app and would keep session, which lives for one request" in str(error)


def test_a_leak_is_seen_through_a_factory() -> None:
    class Holder:
        def __init__(self, keeper: Keeper) -> None: ...

    class Leaking(LayerContainer):
        session: providers.Provider[Session] = providers.ContextLocalSingleton(Session)
        keeper = providers.Factory(Keeper)
        holder = providers.Singleton(Holder)

    assert "holder lives as long as the app and would keep session" in str(problems_of(Leaking))


def test_passing_the_provider_is_no_leak() -> None:
    class Maker:
        def __init__(self, make_session: Any) -> None: ...

    class Fine(LayerContainer):
        session: providers.Provider[Session] = providers.ContextLocalSingleton(Session)
        maker = providers.Singleton(Maker, make_session=session.provider)

    App(Fine).check()


def test_too_many_positional_arguments_are_counted() -> None:
    error = problems_of(Layer.factory(Pool, Pool, "url", 3, 4))

    assert "Pool takes 2 positional arguments, 3 are given" in str(error)


def test_doubt_is_not_an_error() -> None:
    class Readable(Protocol):
        def read(self) -> bytes: ...

    class Doubtful:
        def __init__(  # type: ignore[no-untyped-def]
            self, anything: Any, untyped, readable: Readable, ratio: float, names: list[str]
        ) -> None: ...

    def unreadable(unknown: object) -> Doubtful:
        raise NotImplementedError

    unreadable.__annotations__["unknown"] = "Nowhere"
    layer = Layer.factory(Doubtful, anything=3, untyped=object(), readable=object(), ratio=1, names=["a"])
    App(layer).check()
    App(Layer.factory(Doubtful, unreadable, unknown=None)).check()


def test_a_similar_name_is_suggested() -> None:
    class Pools:
        pass

    text = str(problems_of(Layer.merge(Layer.factory(Repo), Layer.factory(Pools))))

    assert "did you mean 'Pools'?" in text


def test_every_error_has_its_heading_in_the_docs() -> None:
    page = Path(__file__).parents[3] / errors.DOCS
    headings = set(re.findall(r"^## `?(\w+)`?$", page.read_text("utf-8"), re.MULTILINE))
    classes = {
        name
        for name in errors.__all__
        if isinstance(getattr(errors, name), type) and issubclass(getattr(errors, name), Exception)
    }

    assert headings == classes
