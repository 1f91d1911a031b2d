"""What is logged of requests that are none: that there was one, and nothing of what a stranger sent."""

from __future__ import annotations

import logging
from typing import Final

from aiohttp.http_exceptions import HttpProcessingError

from agentlayers.logs import get_logger

__all__ = ["REQUEST_LOG"]

logger = get_logger(__name__)


class _WithoutContent(logging.Filter):
    """
    Replaces what aiohttp says of a request that it cannot read.

    It would write a traceback with whatever was sent, as an error: hundreds of kilobytes for whoever sends them, and
    the token of a client whose header has one character too many.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        logger.info("request_malformed", error=type(error).__name__)
        return False


REQUEST_LOG: Final = logging.getLogger(f"{__name__}.aiohttp")
"""Where aiohttp's server logs to."""
REQUEST_LOG.addFilter(_WithoutContent())
