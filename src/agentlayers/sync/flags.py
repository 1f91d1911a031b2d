"""Which stores are synced: the flags of a service, checked, and what counts where none is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from agentlayers.errors import SettingsError

__all__ = ["DEFAULT_STORES", "PARTS", "SyncFlag", "checked_flags", "flag_of"]

SyncFlag: TypeAlias = bool | Literal["on_demand"]
"""Whether a store is synced; ``on_demand`` sends what is written here, and fetches only what is asked for by id."""

DEFAULT_STORES: Final[Mapping[str, SyncFlag]] = {
    "audit_log": True,
    "chat_history": False,
    "artifacts": False,
    "agent_sessions": False,
}
"""Sync flags where none is given; a store that is not named anywhere is not synced."""

PARTS: Final[Mapping[str, str]] = {"artifact_content": "artifacts"}
"""Stores that have the flag of another one where they have none; only these can be synced on demand."""


def checked_flags(given: Mapping[str, SyncFlag] | None) -> dict[str, SyncFlag]:
    """
    Lay flags over the defaults.

    Raises:
        SettingsError: A value that is no flag, or ``on_demand`` for a store that has to be held whole.
    """
    for store, flag in (given or {}).items():
        if not isinstance(flag, bool) and flag != "on_demand":
            raise SettingsError(setting=f"stores.{store}", value=flag, expected="true, false or on_demand")
        if flag == "on_demand" and store not in PARTS:
            expected = f"true or false; on_demand is for {', '.join(PARTS)}"
            raise SettingsError(setting=f"stores.{store}", value=flag, expected=expected)
    return {**DEFAULT_STORES, **(given or {})}


def flag_of(flags: Mapping[str, SyncFlag], store: str) -> SyncFlag:
    """
    Return the flag that counts for a store.

    >>> flag_of({"artifacts": True}, "artifact_content"), flag_of({"artifacts": True}, "other")
    (True, False)

    """
    return flags.get(store, flags.get(PARTS.get(store, ""), False))
