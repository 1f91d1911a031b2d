"""
Who a replica is: replicas that share an identity share their journals.

The text form is Effect's, so that an identity can be carried to and from a TypeScript replica. A
file holds that text on one line, readable by its owner only.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import json
import os
import re
import secrets
import stat
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self

from agentlayers.durable_names import sync_directory
from agentlayers.errors import IdentityError
from agentlayers.limits import IDENTITY_FILE_BYTES_MAX, PUBLIC_KEY_BYTES_MAX
from agentlayers.logs import get_logger

if TYPE_CHECKING:
    from agentlayers.layer import Layer

__all__ = ["Identity"]

logger = get_logger(__name__)

_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""Errors of a medium without links, where a file is made in place."""
_PRIVATE_KEY_BYTES: Final = 32
_URL_TO_STANDARD: Final = str.maketrans("-_", "+/")


@dataclass(frozen=True, slots=True)
class Identity:
    """
    A name that servers see, and a secret that they do not.

    Attributes:
        public_key: Names the journal on a server.
        private_key: Seals its entries; the root secret that the stores' keys are derived from.
        stores: Identities to use for single stores instead of derived ones, such as one shared with
            a TypeScript replica.
    """

    public_key: str
    private_key: bytes = field(repr=False)
    stores: Mapping[str, Identity] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stores", MappingProxyType(dict(self.stores)))

    def __repr__(self) -> str:
        stores = f", stores={sorted(self.stores)!r}" if self.stores else ""
        return f"Identity(public_key={self.public_key!r}{stores})"

    def __hash__(self) -> int:
        return hash((self.public_key, self.private_key))

    def __reduce__(self) -> tuple[Any, ...]:
        return Identity, (self.public_key, self.private_key, dict(self.stores))

    # -- make one ---------------------------------------------------------------------------------

    @classmethod
    def generate(cls, random: Callable[[int], bytes] = os.urandom) -> Self:
        """Make a new identity: a random UUID and a random key of 32 bytes."""
        return cls(str(uuid.UUID(bytes=random(16), version=4)), random(_PRIVATE_KEY_BYTES))

    @classmethod
    def decode_string(cls, text: str) -> Self:
        """
        Read the text form, in any variant that Effect reads: padded or not, either base64 alphabet.

        Raises:
            IdentityError: It is no identity. The error never shows the text, which holds the key.
        """
        return cls._from_json(_decode_outer(text), depth=0)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """
        Read an identity file: the text form, or its JSON as Effect keeps it in a key-value store.

        Raises:
            IdentityError: The file is missing, unreadable, too long, or holds no identity.
        """
        text = _read_file(Path(path))
        try:
            if text.lstrip().startswith("{"):
                return cls._from_json(text, depth=0)
            return cls.decode_string(text)
        except IdentityError as error:
            raise IdentityError(f"identity file {path}: {error}") from None

    @classmethod
    def load_or_create(cls, path: str | os.PathLike[str], random: Callable[[int], bytes] = os.urandom) -> Self:
        """
        Read an identity file, making it first if there is none.

        Of several processes that start at once one makes it, and all return that one.

        Raises:
            IdentityError: As :meth:`load` and :meth:`save`.
        """
        if not os.path.lexists(path):
            identity = cls.generate(random)
            if _create_file(Path(path), identity.encode_string()):
                return identity
        return cls.load(path)

    # -- use it -----------------------------------------------------------------------------------

    def for_store(self, store: str) -> Identity:
        """
        Return the identity of one store: the one given for it, or the one derived from the root
        secret.

        Raises:
            UsageError: The private key is too short to derive from.
        """
        if store in self.stores:
            return self.stores[store]
        from agentlayers.crypto.keys import derive_store_keys

        keys = derive_store_keys(self.private_key, store)
        return Identity(keys.public_key, keys.private_key)

    def encode_string(self) -> str:
        """
        Return the text form, which holds the private key: treat it as a password.

        It is Effect's to the byte; identities for single stores are an extra field, which Effect
        ignores.
        """
        return base64.urlsafe_b64encode(self._to_json().encode()).rstrip(b"=").decode()

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Write the identity to a new file with mode 0600, whole or not at all; missing folders get
        0700.

        Raises:
            IdentityError: There is a file of this name already, which is left as it is, or it
                cannot be written.
        """
        if not _create_file(Path(path), self.encode_string()):
            raise IdentityError(
                f"identity file {path}: exists already and is not overwritten, because what was"
                " sealed with its key would be lost; move it away first"
            )

    # -- layers -----------------------------------------------------------------------------------

    @staticmethod
    def layer_file(path: str | os.PathLike[str]) -> Layer:
        """Read the identity from a file, which is made at the first start."""
        from agentlayers.layer import Layer

        return Layer.factory(Identity, Identity.load_or_create, path=path)

    @staticmethod
    def layer_of(identity: Identity) -> Layer:
        """Use this identity."""
        from agentlayers.layer import Layer

        return Layer.succeed(Identity, identity)

    # -- JSON -------------------------------------------------------------------------------------

    def _to_json(self) -> str:
        fields: dict[str, Any] = {
            "publicKey": self.public_key,
            "privateKey": base64.b64encode(self.private_key).decode(),
        }
        if self.stores:
            fields["stores"] = {name: identity.encode_string() for name, identity in sorted(self.stores.items())}
        return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def _from_json(cls, text: str, *, depth: int) -> Self:
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            raise IdentityError("not an identity: it does not hold JSON") from None
        if not isinstance(fields, dict):
            raise IdentityError("not an identity: expected a JSON object with publicKey and privateKey")
        public_key = fields.get("publicKey")
        if not isinstance(public_key, str) or len(public_key.encode("utf-8", "replace")) > PUBLIC_KEY_BYTES_MAX:
            raise IdentityError(f"publicKey: expected text of at most {PUBLIC_KEY_BYTES_MAX} bytes")
        private_key = _decode_private_key(fields.get("privateKey"))
        return cls(public_key, private_key, cls._stores_from(fields.get("stores"), depth=depth))

    @classmethod
    def _stores_from(cls, stores: object, *, depth: int) -> dict[str, Identity]:
        """Read identities of single stores, which have none of their own."""
        if not isinstance(stores, dict) or depth > 0:
            return {}
        identities: dict[str, Identity] = {}
        for name, text in stores.items():
            if not isinstance(text, str):
                raise IdentityError(f"stores.{name}: expected an identity string")
            identities[name] = cls._from_json(_decode_outer(text), depth=depth + 1)
        return identities


def _decode_outer(text: str) -> str:
    """Undo the outer base64 as Effect does: url or standard alphabet, with or without padding."""
    compact = re.sub(r"\s", "", text).rstrip("=").translate(_URL_TO_STANDARD)
    try:
        padded = compact + "=" * (-len(compact) % 4)
        return base64.b64decode(padded, validate=True).decode()
    except (binascii.Error, ValueError):
        raise IdentityError(
            "not an identity: expected the base64 text that `agentlayers identity` or Effect's encodeString writes"
        ) from None


def _decode_private_key(value: object) -> bytes:
    """Undo the inner base64, where Effect takes the standard alphabet with padding only."""
    if not isinstance(value, str):
        raise IdentityError("privateKey: expected text in base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise IdentityError("privateKey: expected base64 in the standard alphabet, with padding") from None


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(IDENTITY_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise IdentityError(f"identity file {path}: there is none") from None
    except OSError as error:
        raise IdentityError(f"identity file {path}: cannot be read: {error.strerror}") from None
    if len(data) > IDENTITY_FILE_BYTES_MAX:
        raise IdentityError(f"identity file {path}: longer than {IDENTITY_FILE_BYTES_MAX} bytes")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        logger.warning("identity_file_open_to_others", path=str(path), mode=f"{stat.S_IMODE(mode):04o}")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise IdentityError(f"identity file {path}: not text") from None


def _create_file(path: Path, text: str) -> bool:
    """
    Put a new file in place whole, or return False if there is one.

    It is written under another name first and then linked, because a link never replaces a file and
    never shows half of one: a process that reads it at the same moment sees nothing or all.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _make_private_folder(path.parent)
        try:
            _write_durably(temporary, text)
            return _put_in_place(temporary, path, text)
        finally:
            temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)
    except OSError as error:
        raise IdentityError(f"identity file {path}: cannot be written: {error.strerror}") from None


def _make_private_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, none of them open to others."""
    if path.is_dir():
        return
    _make_private_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)


def _put_in_place(temporary: Path, path: Path, text: str) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            _write_durably(path, text)
        except FileExistsError:
            return False
    return True


def _write_durably(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make the new name itself durable, where the system can."""
    with contextlib.suppress(OSError):
        sync_directory(path)
