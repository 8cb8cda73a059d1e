"""`segstream topics create|check`: the topics of this deployment, with every setting that matters."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import typer

from stream.commands.options import AsJson
from stream.terminal import echo

if TYPE_CHECKING:
    from stream.kafka.topics import Problem

app = typer.Typer(name="topics", no_args_is_help=True, help="Create and check the Kafka topics.")


@app.command()
def create(*, as_json: AsJson = False) -> None:
    """Create the topics that are missing, then check all.

    Exits with 1 if a topic isn't configured as required.
    """
    from stream.kafka import topics
    from stream.settings import load_settings

    settings = load_settings()
    created = asyncio.run(topics.create(settings))
    for name in created:
        echo(msgspec.json.encode({"created": name}).decode() if as_json else f"created {name}")
    if not created and not as_json:
        echo("all topics exist already")
    _show(asyncio.run(topics.check(settings)), as_json=as_json)


@app.command()
def check(*, as_json: AsJson = False) -> None:
    """Show where topics differ from what is required.

    Exits with 1 if there is a difference.
    """
    from stream.kafka import topics
    from stream.settings import load_settings

    settings = load_settings()
    problems = asyncio.run(topics.check(settings))
    if not problems and not as_json:
        echo(f"{len(topics.specs(settings))} topics are configured as required")
    _show(problems, as_json=as_json)


def _show(problems: list[Problem], *, as_json: bool) -> None:
    for problem in problems:
        echo(msgspec.json.encode(problem).decode() if as_json else str(problem))
    if problems:
        raise typer.Exit(1)
