"""Lines of a file that somebody else is writing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlayers.runtime import claude_transcript_reader
from agentlayers.runtime.claude_transcript_reader import BrokenLine, ReadLine, read_lines

FIRST, SECOND = b'{"a":1}\n', '{"b":"ü"}\n'.encode()


def read(path: Path, data: bytes, **place: int) -> list[ReadLine | BrokenLine]:
    path.write_bytes(data)
    return list(read_lines(path, **place))


def test_lines_come_with_number_end_and_text(tmp_path: Path) -> None:
    lines = read(tmp_path / "f", FIRST + b"\n" + SECOND)

    assert [ReadLine(1, 8, '{"a":1}', {"a": 1}), ReadLine(3, 20, '{"b":"ü"}', {"b": "ü"})] == lines


def test_a_last_line_without_its_end_is_left_for_later(tmp_path: Path) -> None:
    for cut in range(1, len(SECOND) - 1):
        assert [8] == [line.end for line in read(tmp_path / "f", FIRST + SECOND[:cut])], cut


def test_a_last_line_that_only_lacks_its_end_of_line_is_whole(tmp_path: Path) -> None:
    assert [8, 18] == [line.end for line in read(tmp_path / "f", FIRST + SECOND[:-1])]


def test_reading_goes_on_where_it_ended(tmp_path: Path) -> None:
    lines = read(tmp_path / "f", FIRST + SECOND, offset=8, number=1)

    assert [(2, 19)] == [(line.number, line.end) for line in lines]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{nope}", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[1,2]", "no JSON object"),
        (b'{"a":NaN}', "not JSON"),
        (b"\x00\x00\x00", "not JSON"),
        (b"[" * 100_000, "not JSON|nested too deeply"),
    ],
)
def test_a_broken_line_is_told_and_the_next_one_read(tmp_path: Path, data: bytes, reason: str) -> None:
    broken, good = read(tmp_path / "f", data + b"\n" + FIRST)

    assert isinstance(broken, BrokenLine)
    assert broken.number == 1
    assert any(part in broken.reason for part in reason.split("|"))
    assert isinstance(good, ReadLine)


def test_a_line_that_is_too_long_is_passed_over_without_holding_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claude_transcript_reader, "LINE_BYTES_MAX", 20)
    monkeypatch.setattr(claude_transcript_reader, "_DISCARDED", 7)
    fits = b'{"a":"%s"}' % (b"x" * 12)
    long = b'{"a":"%s"}' % (b"x" * 13)
    lines = read(tmp_path / "f", fits + b"\n" + long + b"\n" + FIRST)

    assert [ReadLine, BrokenLine, ReadLine] == [type(line) for line in lines]
    assert [21, 43, 51] == [line.end for line in lines]
    assert [] == read(tmp_path / "f", long + b"x" * 30)


@given(
    st.lists(st.sampled_from([b"{}", b'{"a":"\\u00e9"}', b"", b"nope", b"[]", '{"k":"ß"}'.encode()]), max_size=6),
    st.data(),
)
def test_reading_in_two_parts_is_reading_at_once(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("reader") / "f"
    whole = b"".join(part + b"\n" for part in parts)
    expected = read(path, whole)
    before = read(path, whole[: data.draw(st.integers(0, len(whole)))])
    offset, number = (before[-1].end, before[-1].number) if before else (0, 0)
    after = read(path, whole, offset=offset, number=number)

    told = [(type(line), getattr(line, "text", "")) for line in [*before, *after]]
    assert [(type(line), getattr(line, "text", "")) for line in expected] == told
