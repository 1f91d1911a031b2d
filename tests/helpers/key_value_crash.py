"""
Kill a process before each of its system calls that change files, and look at what is left.

Run as a program: ``python key_value_crash.py <scratch directory> some|all``; prints JSON. With ``all``, the recovery is
killed before each of its own changes too, else before one of them. A program of its own, because it forks, which a
test run with threads must not.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agentlayers.key_value.filesystem_medium import FileSystemMedium
from agentlayers.key_value.key_range import KeyRange

LONG = b"long" * 100
BEFORE = {b"a": b"old a", b"b": b"old b", b"d": b"old d", LONG + b"1": b"old long"}
CHANGES: dict[bytes, bytes | None] = {
    b"a": b"new a",
    b"b": None,
    b"c": b"new c" * 100,
    b"never there": None,
    LONG + b"1": None,
    LONG + b"2": b"new long",
}
AFTER = {b"a": b"new a", b"c": b"new c" * 100, b"d": b"old d", LONG + b"2": b"new long"}

CHANGING = ("write", "fsync", "rename", "unlink", "mkdir")


def run_until(step: int | None, work: Callable[[], object]) -> int:
    """Run ``work`` in a child that is killed before its ``step``-th change; return how many it got to."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _arm(step, writing)
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as file:
        steps = len(file.read())
    is_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert is_killed or status == 0, status
    return steps


def _arm(step: int | None, writing: int) -> None:
    real: dict[str, Any] = {name: getattr(os, name) for name in (*CHANGING, "open")}
    count = 0

    def before(name: str, *arguments: Any) -> None:
        nonlocal count
        if count == step:
            if name == "write":
                # Half of it reaches the file.
                real["write"](arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        real["write"](writing, b".")

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if name != "open" or arguments[1] & os.O_CREAT:
                before(name, *arguments)
            return real[name](*arguments, **named)

        return call

    for name in real:
        setattr(os, name, wrapped(name))


def opened(root: Path) -> FileSystemMedium:
    medium = FileSystemMedium(root)
    medium.open()
    return medium


def content(medium: FileSystemMedium) -> dict[bytes, bytes]:
    """Return everything by scan, and check that single reads agree."""
    found = dict(pair for page in medium.pages(KeyRange(), None) for pair in page)
    assert found == {key: value for key in {*BEFORE, *AFTER} if (value := medium.read(key)) is not None}
    return found


def leftovers(root: Path) -> list[str]:
    return [path.name for name in ("temporary", "intents") for path in (root / name).iterdir()]


def crashes(
    scratch: Path, changes: dict[bytes, bytes | None], after: dict[bytes, bytes], *, every: bool
) -> Iterator[str]:
    """Crash a write at each step, and its recovery as well; yield what was found, or fail."""
    template = scratch / "template"
    shutil.rmtree(template, ignore_errors=True)
    opened(template).write(BEFORE)
    total = run_until(None, lambda: opened(fresh(template)).write(changes))
    for step in range(total + 1):
        recoveries = recovery_steps(template, changes, step)
        for again in range(recoveries + 1) if every else {step % (recoveries + 1), recoveries}:
            root = fresh(template)
            neighbour = opened(root)
            run_until(step, lambda: FileSystemMedium(root).write(changes))  # noqa: B023
            run_until(again, lambda: opened(root))  # noqa: B023
            seen = content(neighbour)
            found = content(opened(root))
            assert found in (BEFORE, after), found
            # What a neighbour saw can be old while it is undecided, but never new and then old.
            assert seen == found or (seen == BEFORE and found == after), (seen, found)
            assert leftovers(root) == [], leftovers(root)
            assert content(neighbour) == found
            yield "after" if found == after else "before"


def recovery_steps(template: Path, changes: dict[bytes, bytes | None], step: int) -> int:
    root = fresh(template)
    run_until(step, lambda: FileSystemMedium(root).write(changes))
    return run_until(None, lambda: opened(root))


def fresh(template: Path) -> Path:
    root = template.with_name("store")
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root)
    return root


def first_openings(scratch: Path) -> int:
    """Crash the first opening of a store at each step; return how many steps there were."""
    root = scratch / "new"
    total = run_until(None, lambda: opened(root))
    for step in range(total + 1):
        shutil.rmtree(root, ignore_errors=True)
        run_until(step, lambda: opened(root))
        medium = opened(root)
        assert content(medium) == {}
        medium.write({b"a": b"1"})
        assert medium.read(b"a") == b"1"
    return total


def main(scratch: Path, extent: str) -> None:
    every = extent == "all"
    without_a = {key: value for key, value in BEFORE.items() if key != b"a"}
    report: dict[str, Any] = {
        "batch": list(crashes(scratch, CHANGES, AFTER, every=every)),
        "put": list(crashes(scratch, {b"a": b"new a"}, BEFORE | {b"a": b"new a"}, every=every)),
        "new key": list(crashes(scratch, {b"c": b"new c"}, BEFORE | {b"c": b"new c"}, every=every)),
        "delete": list(crashes(scratch, {b"a": None}, without_a, every=every)),
        "first openings": first_openings(scratch),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
