"""The logging of a process: plain lines on stderr, and of the libraries' messages only those that matter."""

from __future__ import annotations

from typing import Any, Final

CLIENT_LOGGERS: Final = ("aiokafka", "asyncio")
RETRY_LOGGERS: Final = ("aiokafka.consumer.group_coordinator",)  # logs each retry as an error
FRAMEWORK_LOGGERS: Final = ("faust", "mode")  # we report the error that ended the process once, in our words
FRAMEWORK_LOGGER: Final = "faust.segstream"  # of our subclasses of Faust's classes


def logging_config(level: str) -> dict[str, Any]:
    """Return the argument of `logging.config.dictConfig`; `level` is a name that `logging` knows.

    The clients log every retry as a warning, and every rebalance as information. Unless the level is DEBUG, only their
    errors are shown.
    """
    clients = level if level in {"DEBUG", "CRITICAL"} else "ERROR"
    framework = level if level == "DEBUG" else "CRITICAL"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stderr"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {name: {"level": clients} for name in CLIENT_LOGGERS}
        | {name: {"level": framework} for name in (*FRAMEWORK_LOGGERS, *RETRY_LOGGERS)},
    }
