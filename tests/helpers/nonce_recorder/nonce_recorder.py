"""
Write down every (key, nonce) pair that AES-GCM seals with in this process, as a hash.

GCM is broken by one nonce used twice with one key, so the test session as a whole must not show a pair twice. Each
process appends to a file of its own, so that one that is killed has written what it did. Nothing but the standard
library is imported here before ``cryptography`` itself is: the module also runs inside the processes that tests start.
"""

from __future__ import annotations

import os
import sys
from hashlib import blake2b
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from itertools import pairwise
from pathlib import Path
from typing import Any

__all__ = ["DIRECTORY", "HASH_BYTES", "RECORD_BYTES", "install", "install_from_environment", "note_test", "repeated"]

DIRECTORY = "AGENTLAYERS_TESTS_NONCES"
"""Environment variable with the directory of the files; unset, nothing is recorded."""

HASH_BYTES = 12
RECORD_BYTES = HASH_BYTES + 4
"""A hash and the number of the test that sealed."""

_AEAD = "cryptography.hazmat.primitives.ciphers.aead"


class _Recorder:
    """The two files of this process: what it sealed with, and the names of the tests that did."""

    def __init__(self, directory: str) -> None:
        stem = os.path.join(directory, f"{os.getpid()}-{os.urandom(4).hex()}")  # noqa: PTH118
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._records, self._names = (os.open(stem + end, flags, 0o600) for end in (".nonces", ".names"))
        self._count = 0
        self._counts = True
        self.begin("a process of " + os.environ.get("PYTEST_CURRENT_TEST", "no test"))

    def begin(self, name: str, *, counts: bool = True) -> None:
        os.write(self._names, name.replace("\n", " ").encode() + b"\n")
        self._count += 1
        self._counts = counts

    def note(self, found: bytes) -> None:
        if self._counts:
            os.write(self._records, found + (self._count - 1).to_bytes(4, "big"))


_recorder: list[_Recorder] = []


def note_test(name: str, *, counts: bool) -> None:
    """Say which test what follows belongs to, and whether it counts."""
    for recorder in _recorder:
        recorder.begin(name, counts=counts)


def install_from_environment() -> None:
    """Record in a process that a test started, once it imports the cipher."""
    directory = os.environ.get(DIRECTORY)
    if directory and os.path.isdir(directory):  # noqa: PTH112 - pathlib is not imported for this
        sys.meta_path.insert(0, _Finder(directory))


def install(directory: str) -> None:
    """Record in this process, which has imported the cipher or may."""
    from cryptography.hazmat.primitives.ciphers import aead

    _replace(aead, directory)


def _replace(aead: Any, directory: str) -> None:
    # A worker of xdist comes here twice: by sitecustomize and by pytest, which import this under two names.
    recorder = getattr(aead.AESGCM, "recorder", None)
    if recorder is None:
        recorder = _Recorder(directory)
        aead.AESGCM = _recording(aead.AESGCM, recorder)
    _recorder[:] = [recorder]


def _recording(cipher: Any, noting: _Recorder) -> Any:
    class RecordingAESGCM:
        """The real cipher; every nonce it seals with is written down first."""

        recorder = noting
        generate_key = staticmethod(cipher.generate_key)

        def __init__(self, key: bytes) -> None:
            self._cipher = cipher(key)
            self._hash = blake2b(bytes(key), digest_size=HASH_BYTES)
            self.decrypt = self._cipher.decrypt

        def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> Any:
            found = self._hash.copy()
            found.update(nonce)
            noting.note(found.digest())
            return self._cipher.encrypt(nonce, data, associated_data)

    return RecordingAESGCM


class _Finder(MetaPathFinder):
    """Finds the cipher's module once, as the finders behind it do."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != _AEAD:
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Recorded(spec.loader, self._directory)
                return spec
        return None


class _Recorded(Loader):
    def __init__(self, loader: Loader, directory: str) -> None:
        self._loader = loader
        self._directory = directory

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        _replace(module, self._directory)


def repeated(directory: Path) -> tuple[int, list[tuple[str, str]]]:
    """
    Look for pairs that were sealed with twice, in all processes together.

    Returns:
        How many pairs there are, and for each repeat the names of the two tests.
    """
    records: list[bytes] = []
    files = sorted(directory.glob("*.nonces"))
    for index, path in enumerate(files):
        data, origin = path.read_bytes(), index.to_bytes(4, "big")
        records += (data[at : at + RECORD_BYTES] + origin for at in range(0, len(data), RECORD_BYTES))
    records.sort()
    twice = [pair for pair in pairwise(records) if pair[0][:HASH_BYTES] == pair[1][:HASH_BYTES]]
    return len(records), [(_name_of(one, files), _name_of(two, files)) for one, two in twice]


def _name_of(record: bytes, files: list[Path]) -> str:
    number, origin = (int.from_bytes(record[at : at + 4], "big") for at in (HASH_BYTES, RECORD_BYTES))
    return files[origin].with_suffix(".names").read_text(encoding="utf-8").splitlines()[number]
