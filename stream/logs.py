"""How this process logs: plain lines on stderr, and of the clients' chatter only what matters."""

from __future__ import annotations

from typing import Any, Final

CHATTY: Final = ("aiokafka", "faust", "mode", "asyncio")


def logging_config(level: str) -> dict[str, Any]:
    """The argument of `logging.config.dictConfig`; `level` is a name that `logging` knows.

    The clients tell of every retry as a warning, and of every rebalance as news: below DEBUG only their errors are shown.
    """
    clients = level if level == "DEBUG" else "ERROR"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stderr"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {name: {"level": clients} for name in CHATTY},
    }
