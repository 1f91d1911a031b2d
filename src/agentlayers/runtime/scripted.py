"""
A backend that plays a script: deterministic, without a network or a model, with tools that really run.

It is the documented test double for agent applications, and what the demo and a first run use. See
:mod:`agentlayers.runtime.script` for what a script can say.
"""

from __future__ import annotations

import asyncio
import random as random_module
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, final

from agentlayers.errors import UsageError
from agentlayers.runtime.backend import AgentBackend, Prompt
from agentlayers.runtime.frames import Frames, new_uuid
from agentlayers.runtime.options import QueryOptions
from agentlayers.runtime.script import DEFAULT_SCRIPT, Script
from agentlayers.runtime.scripted_query import ScriptedQuery, ScriptProgress
from agentlayers.runtime.tools import COMMAND_TIMEOUT_SECONDS, Workspace
from agentlayers.settings import parse_seconds

__all__ = ["ScriptedBackend"]

SESSIONS_MAX: Final = 1024
"""Sessions whose place in the script is remembered; the least recently used is forgotten first."""


@final
class ScriptedBackend(AgentBackend):
    """
    Plays a script.

    A new session starts at the script's first turn. A query that resumes a session, or names one again, goes on
    where that session stopped. Tools run in the query's ``cwd`` option, else in ``directory``, else in a
    temporary directory that is gone when the query is closed.

    Args:
        script: What to play: a script or the path of a YAML file. :obj:`None` plays
            ``script.DEFAULT_SCRIPT``, which keeps notes and echoes.
        directory: Where tools run.
        seed: Makes all ids repeatable: the n-th query of two backends with one seed has the same ids.
        command_timeout: Seconds for a command that sets no timeout, or a text such as ``"30 seconds"``.
        env: Added to the environment of commands.
        clock: Wall-clock seconds, for timestamps in messages.
    """

    name = "scripted"

    def __init__(
        self,
        script: Script | str | Path | None = None,
        *,
        directory: str | Path | None = None,
        seed: int | None = None,
        command_timeout: float | str = COMMAND_TIMEOUT_SECONDS,
        env: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not (script is None or isinstance(script, Script | str | Path)):
            raise UsageError(f"script must be a Script or the path of a YAML file, got {type(script).__name__}")
        self._script = DEFAULT_SCRIPT if script is None else script
        self._directory = None if directory is None else Path(directory)
        self._seed = seed
        self._command_timeout = parse_seconds(command_timeout, setting="command_timeout")
        self._env = dict(env or {})
        self._clock = clock
        self._sessions: OrderedDict[str, ScriptProgress] = OrderedDict()
        self._started = 0

    async def start(self, prompt: Prompt, options: QueryOptions) -> ScriptedQuery:
        """
        Begin to play.

        Raises:
            ScriptError: The script file cannot be read or is no script.
            UsageError: The working directory is none.
        """
        script = await self._loaded()
        random = None
        if self._seed is not None:
            random = random_module.Random(f"{self._seed}:{self._started}")
        self._started += 1
        session_id = options.resume or options.session_id or new_uuid(random)
        root, is_temporary = await asyncio.to_thread(self._workplace, options)
        return ScriptedQuery(
            prompt,
            options,
            script=script,
            progress=self._progress(session_id),
            frames=Frames(session_id, model=options.model or script.model, random=random, clock=self._clock),
            workspace=Workspace(
                root,
                env={**self._env, **options.env},
                command_timeout_seconds=self._command_timeout,
            ),
            dispose=(lambda: shutil.rmtree(root, ignore_errors=True)) if is_temporary else None,
        )

    async def _loaded(self) -> Script:
        if not isinstance(self._script, Script):
            self._script = await asyncio.to_thread(Script.load, self._script)
        return self._script

    def _workplace(self, options: QueryOptions) -> tuple[Path, bool]:
        chosen: Any = options.cwd or self._directory
        if chosen is None:
            return Path(tempfile.mkdtemp(prefix="agentlayers-")), True
        root = Path(chosen)
        if options.cwd is not None and not root.is_dir():
            raise UsageError(f"cwd {str(root)!r} is no directory; make it first")
        return root, False

    def _progress(self, session_id: str) -> ScriptProgress:
        progress = self._sessions.setdefault(session_id, ScriptProgress())
        self._sessions.move_to_end(session_id)
        while len(self._sessions) > SESSIONS_MAX:
            self._sessions.popitem(last=False)
        return progress
