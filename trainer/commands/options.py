"""Options that several commands of `segtrainer` have, and the settings and log that all of them begin with."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from stream.logs import HarmlessFormatter

if TYPE_CHECKING:
    from stream.settings import DeploymentSettings

_LONGEST: Final = 500


def _one_line(text: str) -> str:
    if len(text) > _LONGEST or not text.isprintable():
        raise typer.BadParameter(f"expected one line of at most {_LONGEST} characters, got {len(text)}")
    return text


Reason = Annotated[
    str,
    typer.Option(
        "--reason", metavar="TEXT", parser=_one_line, help="Reason, kept with the activation.", show_default=False
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="NAME",
        parser=_one_line,
        help="Name kept with the activation; default: this machine's user, for `run` segtrainer.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def settings_and_log() -> DeploymentSettings:
    """Read the settings, and log to stderr at their level. Raises SettingsError."""
    from stream.settings import DeploymentSettings

    settings = DeploymentSettings.load()
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setFormatter(HarmlessFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[stderr], level=settings.log_level)
    # aiokafka logs each connection at INFO.
    logging.getLogger("aiokafka").setLevel(logging.WARNING if settings.log_level == "INFO" else settings.log_level)
    return settings
