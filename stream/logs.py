"""How this process logs: plain lines on stderr, and of the clients' chatter only what matters."""

from __future__ import annotations

from typing import Any, Final

CHATTY: Final = ("aiokafka", "asyncio")
RETRIES: Final = ("aiokafka.consumer.group_coordinator",)  # it logs each retry as an error
FRAME: Final = ("faust", "mode")  # what ends the worker is told once, in our words


def logging_config(level: str) -> dict[str, Any]:
    """The argument of `logging.config.dictConfig`; `level` is a name that `logging` knows.

    The clients tell of every retry as a warning, and of every rebalance as news: above DEBUG only their errors are shown.
    """
    clients = level if level in {"DEBUG", "CRITICAL"} else "ERROR"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stderr"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {name: {"level": clients} for name in CHATTY}
        | {name: {"level": level if level == "DEBUG" else "CRITICAL"} for name in (*FRAME, *RETRIES)},
    }
