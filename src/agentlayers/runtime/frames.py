"""
Build the wire objects of a scripted agent's stream, with ids that a seed makes repeatable.
"""

from __future__ import annotations

import random as random_module
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, final

from agentlayers.runtime.message import AgentMessage

__all__ = ["Frames", "new_uuid"]

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZabcdefghjkmnpqrstvwxyz"


def new_uuid(random: random_module.Random | None = None) -> str:
    """
    Make a random UUID; from ``random`` if it is given, so that a run can be repeated.

    >>> new_uuid(random_module.Random(7)) == new_uuid(random_module.Random(7))
    True

    """
    bits = uuid.uuid4().int if random is None else random.getrandbits(128)
    return str(uuid.UUID(int=bits, version=4))


@final
class Frames:
    """
    Makes the messages of one query.

    Args:
        session_id: In every message.
        model: Named in the messages.
        random: Source of ids; :obj:`None` is the system's.
        clock: Wall-clock seconds, for timestamps.
    """

    def __init__(
        self,
        session_id: str,
        *,
        model: str,
        random: random_module.Random | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.session_id = session_id
        self.model = model
        self._random = random
        self._clock = clock

    def new_id(self, prefix: str) -> str:
        """Make an id in the style of the real API, such as ``toolu_...``."""
        choose = random_module.SystemRandom() if self._random is None else self._random
        return prefix + "".join(choose.choices(_ALPHABET, k=24))

    def init(self, *, cwd: str, tools: Sequence[str], permission_mode: str) -> AgentMessage:
        """Open a turn."""
        return self._frame(
            "system",
            subtype="init",
            cwd=cwd,
            tools=list(tools),
            mcp_servers=[],
            model=self.model,
            permissionMode=permission_mode,
            apiKeySource="none",
            slash_commands=[],
            agents=[],
            skills=[],
            plugins=[],
            output_style="default",
        )

    def assistant(self, block: Mapping[str, Any], *, message_id: str) -> AgentMessage:
        """Carry one content block of the agent; blocks of one reply share ``message_id``."""
        message = {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [dict(block)],
            "stop_reason": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        return self._frame("assistant", message=message, parent_tool_use_id=None)

    def tool_result(self, tool_use_id: str, content: str, *, is_error: bool, structured: Any) -> AgentMessage:
        """Tell the agent what its tool call came to."""
        block: dict[str, Any] = {
            "type": "tool_result",
            "tool_use_id": tool_use_id,
            "content": content,
        }
        if is_error:
            block["is_error"] = True
        stamp = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        extra = {} if structured is None else {"tool_use_result": structured}
        return self._frame(
            "user",
            message={"role": "user", "content": [block]},
            parent_tool_use_id=None,
            timestamp=stamp.replace("+00:00", "Z"),
            **extra,
        )

    def text_delta(self, text: str) -> AgentMessage:
        """Carry a piece of a text that is still being said."""
        event = {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": text},
        }
        return self._frame("stream_event", event=event, parent_tool_use_id=None)

    def result(self, **fields: Any) -> AgentMessage:
        """End a turn."""
        return self._frame(
            "result",
            **{
                "duration_api_ms": 0,
                "total_cost_usd": 0.0,
                "usage": {"input_tokens": 0, "output_tokens": 0},
                "modelUsage": {},
                **fields,
            },
        )

    def _frame(self, kind: str, **fields: Any) -> AgentMessage:
        head = {"type": kind, **({"subtype": fields.pop("subtype")} if "subtype" in fields else {})}
        return AgentMessage({**head, **fields, "session_id": self.session_id, "uuid": new_uuid(self._random)})
