"""The logging of a process: plain lines on stderr, and of the libraries' messages only those that matter."""

from __future__ import annotations

import logging
from typing import Any, Final

from stream.terminal import harmless, harmless_lines

HTTP_LOGGERS: Final = ("httpx", "httpcore")  # log URLs and headers, which may hold a token: never, not even for DEBUG
CLIENT_LOGGERS: Final = ("aiokafka", "asyncio")
RETRY_LOGGERS: Final = ("aiokafka.consumer.group_coordinator",)  # logs each retry as an error
FRAMEWORK_LOGGERS: Final = ("faust", "mode")  # we report the error that ended the process once, in our words
_NEVER: Final = logging.CRITICAL + 1  # Faust logs a crash as critical, and we say why the process ended
FRAMEWORK_LOGGER: Final = "faust.segstream"  # of our subclasses of Faust's classes


class HarmlessFormatter(logging.Formatter):
    r"""Formats a message as one line that can't steer a terminal or pass for another line; a traceback keeps its lines.

    >>> record = logging.LogRecord("x", logging.INFO, "", 0, "customer %s", ("a" + chr(10) + "ERROR b",), None)
    >>> HarmlessFormatter("%(levelname)s %(message)s").format(record)
    'INFO customer a\\u000aERROR b'
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        """Return the line of the message."""
        record.message = harmless(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Return the traceback."""
        return harmless_lines(super().formatException(ei))


def logging_config(level: str) -> dict[str, Any]:
    """Return the argument of `logging.config.dictConfig`; `level` is a name that `logging` knows.

    The clients log every retry as a warning, and every rebalance as information. Unless the level is DEBUG, only their
    errors are shown.
    """
    clients = level if level in {"DEBUG", "CRITICAL"} else "ERROR"
    framework = level if level == "DEBUG" else _NEVER
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "plain": {"()": HarmlessFormatter, "fmt": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stderr"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {name: {"level": clients} for name in CLIENT_LOGGERS}
        | {name: {"level": framework} for name in (*FRAMEWORK_LOGGERS, *RETRY_LOGGERS)}
        | {name: {"level": _NEVER} for name in HTTP_LOGGERS},
    }
