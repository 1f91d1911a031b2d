"""
The cases of Effect's own ``packages/effect/test/Layer.test.ts``, one by one.

The version at commit 0b3b4c0 has 41 (earlier ones had fewer). Tests without a file name are below; ``algebra`` and
``lifecycle`` are the files ``test_layer_*.py`` beside this one.

==  ==================================================  ==============================================================
 1  layers can be acquired in parallel                  test_one_layer_opens_while_another_never_does
 2  sharing with merge                                  test_a_layer_merged_with_itself_is_opened_once
 3  sharing itself with merge                           test_a_layer_merged_with_itself_is_opened_once
 4  suspend is lazy                                     test_suspend_is_lazy_and_written_down_once. Effect evaluates
                                                        for each build; ours once for each value, so that its graph
                                                        can be drawn and checked without a second meaning
 5  suspend preserves sharing                           algebra: test_suspend_is_written_down_once_and_late
 6  finalizers                                          test_merged_layers_open_before_any_is_closed
 7  catch - uses an alternative layer                   algebra: test_catch_closes_what_the_failed_layer_had_opened
 8  catchTag - uses an alternative layer                algebra: test_catch_takes_only_the_errors_it_names (``errors=``)
 9  catchCause recovers and exposes the cause           test_catch_is_given_the_very_error
10  tap - executes with services, preserves output      algebra: test_tap_sees_the_service_before_dependents_are_made
11  tapError - executes and preserves the error         test_a_catch_that_raises_the_error_again_only_looks_at_it
12  tapCause - executes and preserves the cause         the same: Python has one kind of failure
13  fresh with merge                                    test_a_fresh_copy_beside_the_layer_is_a_duplicate: in Effect the
                                                        later silently wins; here it is an error. With a dependent for
                                                        each: algebra: test_fresh_opts_out_of_sharing
14  fresh with provide                                  test_what_nobody_needs_is_not_opened: Effect opens it
15  with multiple layers                                test_fresh_around_a_merge_shares_inside_and_not_outside
16  with identical fresh layers                         test_identical_fresh_layers_are_two
17  interruption with merge                             test_whenever_it_is_cancelled_what_opened_is_closed
18  interruption with provide                           the same
19  interruption with multiple layers                   the same
20  finalizers with provide                             test_a_provided_chain_closes_in_reverse
21  finalizers with multiple layers with provideTo      test_a_provided_chain_closes_in_reverse
22  orDie does not interfere with sharing               no meaning: there are no typed errors to turn into defects.
                                                        Its graph: test_a_layer_provided_at_three_places_is_one
23  launch keeps open until interrupted                 lifecycle: test_launch_runs_until_it_is_cancelled
24  mock: a supplied prototype method                   no meaning: a mock takes attributes by name, not an object.
                                                        An object goes in with Layer.succeed (26)
25  mock: the same, curried                             no meaning: the same
26  control: succeed uses the identical instance        algebra: test_succeed_gives_the_value_itself
27  control: an own method works                        algebra: test_a_mock_has_only_what_it_was_given
28  control: an own override takes precedence           test_an_attribute_of_a_mock_wins_over_the_class
29  control: a genuinely omitted method fails           algebra: test_a_mock_has_only_what_it_was_given
30  mock: prototype methods use the mock's state        no meaning: see 24
31  mock: unbound methods use the mock's state          test_functions_given_to_a_mock_are_not_bound: Python's
                                                        functions in an instance are not bound either
32  allows passing partial service                      algebra: test_a_mock_has_only_what_it_was_given
33  allows passing partial service in dual form         no meaning: there is one form
34  missing members fail as effects and channels        test_a_missing_member_of_a_mock_fails_when_it_is_touched
35  MemoMap: nothing is memoized before it executes     test_build_does_nothing_until_it_is_entered
36  MemoMap: memoizes suspend across builds             test_shared_across_builds_and_closed_with_the_last
37  MemoMap: memoizes layer across builds               test_shared_across_builds_is_opened_again_only_after_the_last
38  MemoMap: layers are not released early              test_a_shared_layer_is_not_closed_under_its_second_user
39  MemoMap: forked maps reuse parents, isolate own     test_a_request_reuses_what_the_app_has_and_keeps_its_own
40  withSpan runs the onEnd finalizer                   no meaning: no tracer is built in; ``app.timings`` and the log
                                                        tell what a span would
41  withParentSpan with external spans                  test_a_layer_sees_the_context_of_whoever_builds_it, which is
                                                        where Python's tracers keep the parent span
==  ==================================================  ==============================================================

Effect shares through a MemoMap that builds are given; ours is the layer value itself: ``layer.shared()``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextvars import ContextVar
from pathlib import Path

import pytest
from dependency_injector import providers

from agentlayers.layer import App, Layer, LayerContainer
from agentlayers.layer.errors import DuplicateServiceError, LayerStartError, LayerValidationError
from agentlayers.layer.mock import UnimplementedError

Log = list[str]


class One:
    def read(self) -> int:
        return 1


class Two:
    def __init__(self, one: One | None = None) -> None:
        self.one = one


class Three:
    def __init__(self, one: One | None = None, two: Two | None = None) -> None:
        self.one, self.two = one, two


def _one(log: Log) -> Layer:
    async def open_one() -> AsyncIterator[One]:
        await asyncio.sleep(0)
        log.append("open 1")
        yield One()
        await asyncio.sleep(0)
        log.append("close 1")

    return Layer.scoped(One, open_one)


def _two(log: Log) -> Layer:
    async def open_two(one: One | None = None) -> AsyncIterator[Two]:
        await asyncio.sleep(0)
        log.append("open 2")
        yield Two(one)
        await asyncio.sleep(0)
        log.append("close 2")

    return Layer.scoped(Two, open_two)


def _three(log: Log) -> Layer:
    async def open_three(one: One | None = None, two: Two | None = None) -> AsyncIterator[Three]:
        await asyncio.sleep(0)
        log.append("open 3")
        yield Three(one, two)
        await asyncio.sleep(0)
        log.append("close 3")

    return Layer.scoped(Three, open_three)


def test_every_case_has_its_row_and_every_test_it_names_is_there() -> None:
    table = str(__doc__).partition("==\n")[2]
    numbers = [int(number) for number in re.findall(r"^ ?(\d+)  \S", table, re.MULTILINE)]
    beside = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_layer_*.py"))

    assert numbers == list(range(1, 42))
    named = set(re.findall(r"\btest_\w+", table))
    assert len(named) > 25
    assert {name for name in named if f"def {name}(" not in beside} == set()


# -- opening and closing --------------------------------------------------------------------------------------


async def test_one_layer_opens_while_another_never_does() -> None:
    opened = asyncio.Event()

    async def never() -> One:
        await asyncio.Event().wait()
        raise AssertionError

    def make() -> Two:
        opened.set()
        return Two()

    app = App(Layer.merge(Layer.factory(One, never), Layer.factory(Two, make)))
    start = asyncio.create_task(app.start())
    async with asyncio.timeout(5):
        await opened.wait()
    start.cancel()

    with pytest.raises(asyncio.CancelledError):
        await start
    assert app.state == "closed"


async def test_a_layer_merged_with_itself_is_opened_once() -> None:
    log: Log = []
    layer = _one(log)
    async with layer.merge(layer).merge(layer).build(One) as one:
        assert isinstance(one, One)
    value = One()
    ready = Layer.succeed(One, value)
    async with ready.merge(ready, ready).build(One) as one:
        assert one is value

    assert log == ["open 1", "close 1"]


async def test_suspend_is_lazy_and_written_down_once() -> None:
    log: Log = []

    def make() -> Layer:
        log.append("written")
        return _one(log)

    layer = Layer.suspend(make)
    assert log == []
    async with layer.build(One):
        pass
    async with layer.build(One):
        pass

    assert log == ["written", *["open 1", "close 1"] * 2]


async def test_merged_layers_open_before_any_is_closed() -> None:
    log: Log = []
    async with Layer.merge(_one(log), _two(log)).build():
        assert sorted(log) == ["open 1", "open 2"]

    assert sorted(log[2:]) == ["close 1", "close 2"]


async def test_a_provided_chain_closes_in_reverse() -> None:
    log: Log = []
    async with _two(log).provide(_one(log)).build(Two):
        pass
    assert log == ["open 1", "open 2", "close 2", "close 1"]

    log.clear()
    async with _three(log).provide(_two(log)).provide(_one(log)).build(Three):
        pass
    assert log == ["open 1", "open 2", "open 3", "close 3", "close 2", "close 1"]


async def test_a_layer_provided_at_three_places_is_one() -> None:
    log: Log = []
    one = _one(log)
    layer = _three(log).provide(one).provide(_two(log).provide(one)).provide(one)
    async with layer.build(Three) as three:
        assert three.one is not None

    assert log.count("open 1") == log.count("close 1") == 1
    assert (log[0], log[-1]) == ("open 1", "close 1")


@pytest.mark.parametrize("turns", range(12))
async def test_whenever_it_is_cancelled_what_opened_is_closed(turns: int) -> None:
    log: Log = []
    one, two, three = _one(log), _two(log), _three(log)
    layers = [one.merge(two), two.provide(one), three.provide(one).merge(two).provide(one)]
    for layer in layers:
        log.clear()
        app = App(layer)
        start = asyncio.create_task(app.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
        await app.close()
        for number in "123":
            assert log.count(f"open {number}") == log.count(f"close {number}"), log


# -- failing --------------------------------------------------------------------------------------------------


async def test_catch_is_given_the_very_error() -> None:
    error, caught = OSError("failed!"), []

    def fail() -> One:
        raise error

    def instead(given: Exception) -> Layer:
        caught.append(given)
        return Layer.factory(One)

    async with Layer.factory(One, fail).catch(instead).build(One) as one:
        assert one.read() == 1

    assert caught == [error]


async def test_a_catch_that_raises_the_error_again_only_looks_at_it() -> None:
    error, seen = OSError("failed!"), []

    def fail() -> One:
        raise error

    def look(given: Exception) -> Layer:
        seen.append(given)
        raise given

    with pytest.raises(LayerStartError) as caught:
        await App(Layer.factory(One, fail).catch(look)).start()

    assert caught.value.__cause__ is error
    assert seen == [error]


# -- fresh ----------------------------------------------------------------------------------------------------


async def test_a_fresh_copy_beside_the_layer_is_a_duplicate() -> None:
    layer = _one([])
    with pytest.raises(LayerValidationError) as caught:
        App(layer.merge(layer.fresh())).check()

    assert isinstance(caught.value.problems[0], DuplicateServiceError)


async def test_what_nobody_needs_is_not_opened() -> None:
    log: Log = []
    layer = _one(log)
    async with layer.fresh().provide(layer).build(One):
        pass

    assert log == ["open 1", "close 1"]


async def test_fresh_around_a_merge_shares_inside_and_not_outside() -> None:
    log: Log = []
    one = _one(log)
    inside = _two(log).provide(one).merge(_three(log).provide(one)).fresh()

    class Four:
        def __init__(self, one: One, two: Two, three: Three) -> None:
            self.one, self.two, self.three = one, two, three

    async with Layer.factory(Four).provide(inside, one).build(Four) as four:
        assert four.two.one is four.three.one
        assert four.one is not four.two.one

    assert log.count("open 1") == log.count("close 1") == 2


async def test_identical_fresh_layers_are_two() -> None:
    log: Log = []
    one = _one(log)
    layer = _two(log).merge(_three(log).provide(one).fresh()).provide(one.fresh())
    async with layer.build() as app:
        assert app.get(Two).one is not app.get(Three).one
        assert sorted(log) == ["open 1", "open 1", "open 2", "open 3"]

    assert sorted(log[4:]) == ["close 1", "close 1", "close 2", "close 3"]
    assert log[-1] == "close 1"


# -- mocks ----------------------------------------------------------------------------------------------------


async def test_an_attribute_of_a_mock_wins_over_the_class() -> None:
    async with Layer.mock(One, read=lambda: 43).build(One) as one:
        assert one.read() == 43


async def test_functions_given_to_a_mock_are_not_bound() -> None:
    async with Layer.mock(One, read=lambda *given: len(given)).build(One) as one:
        assert one.read() == 0


async def test_a_missing_member_of_a_mock_fails_when_it_is_touched() -> None:
    async with Layer.mock(One).build(One) as one:
        with pytest.raises(UnimplementedError, match="the mock of One has no 'read'"):
            one.read()


# -- sharing among builds -------------------------------------------------------------------------------------


async def test_build_does_nothing_until_it_is_entered() -> None:
    log: Log = []
    layer = _one(log).shared()
    layer.build(One)
    App(layer)
    await asyncio.sleep(0)

    assert log == []


async def test_shared_across_builds_and_closed_with_the_last() -> None:
    log: Log = []

    def make() -> Layer:
        log.append("written")
        return _one(log)

    layer = Layer.suspend(make).shared()
    first, second = App(layer), App(layer)
    await first.start()
    await second.start()
    assert first.get(One) is second.get(One)
    await second.close()
    assert log == ["written", "open 1"]
    await first.close()

    assert log == ["written", "open 1", "close 1"]


async def test_shared_across_builds_is_opened_again_only_after_the_last() -> None:
    log: Log = []
    one = _one(log).shared()
    two = _two(log).provide(one)
    async with one.build(One) as shared:
        for _ in range(2):
            async with two.build(Two) as built:
                assert built.one is shared
    async with one.build(One) as again:
        assert again is not shared

    assert log == ["open 1", *["open 2", "close 2"] * 2, "close 1", "open 1", "close 1"]


async def test_a_shared_layer_is_not_closed_under_its_second_user() -> None:
    log: Log = []
    one = _one(log).shared()
    first, second = App(one), App(_two(log).provide(one))
    await first.start()
    await second.start()
    await first.close()
    assert log == ["open 1", "open 2"]
    await second.close()

    assert log == ["open 1", "open 2", "close 2", "close 1"]


async def test_two_containers_that_run_side_by_side_share_a_value() -> None:
    log: Log = []

    class Left(LayerContainer):
        one: providers.Provider[One] = providers.Singleton(One)
        two: providers.Provider[Two] = providers.Singleton(Two)

    class Right(LayerContainer):
        one: providers.Provider[One] = providers.Singleton(One)
        three: providers.Provider[Three] = providers.Singleton(Three)

    one = _one(log).shared()
    left, right = App(Left.layer((Two,), one=one)), App(Right.layer((Three,)).provide(one))
    await asyncio.gather(left.start(), right.start())
    assert left.get(Two).one is right.get(Three).one
    await left.close()
    assert log == ["open 1"]
    await right.close()

    assert log == ["open 1", "close 1"]


@pytest.mark.parametrize("turns", range(12))
async def test_a_user_that_is_cancelled_while_it_starts_is_not_counted(turns: int) -> None:
    log: Log = []
    one = _one(log).shared()
    apps = [App(one), App(one), App(_two(log).provide(one))]
    starts = [asyncio.create_task(app.start()) for app in apps]
    for _ in range(turns):
        await asyncio.sleep(0)
    starts[0].cancel()
    starts[2].cancel()
    await asyncio.gather(*starts, return_exceptions=True)
    assert isinstance(apps[1].get(One), One)
    for app in apps:
        await app.close()

    assert log.count("open 1") == log.count("close 1") >= 1
    assert log[-1] == "close 1"
    async with one.build(One):
        assert log[-1] == "open 1"


async def test_a_request_reuses_what_the_app_has_and_keeps_its_own() -> None:
    log: Log = []
    own = _two(log)
    async with App(_one(log)) as app:
        async with app.scope(Two, using=own) as first, app.scope(Two, using=own) as second:
            assert first.get(Two).one is second.get(Two).one is app.get(One)
            assert first.get(Two) is not second.get(Two)
        assert log == ["open 1", "open 2", "open 2", "close 2", "close 2"]

    assert log[-1] == "close 1"


# -- context --------------------------------------------------------------------------------------------------

_span: ContextVar[str] = ContextVar("span", default="none")


async def test_a_layer_sees_the_context_of_whoever_builds_it() -> None:
    seen: Log = []

    async def open_one() -> AsyncIterator[One]:
        seen.append(_span.get())
        yield One()
        seen.append(_span.get())

    token = _span.set("0000000000000001")
    async with Layer.scoped(One, open_one).build(One):
        _span.reset(token)

    assert seen == ["0000000000000001"] * 2
