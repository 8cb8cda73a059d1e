"""`segstream topics create|check`: the topics of this deployment, with every setting that matters."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from stream.kafka import topics
from stream.settings import load_settings

app = typer.Typer(no_args_is_help=True, help="The topics of this deployment, with every setting that matters.")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command()
def create(*, as_json: AsJson = False) -> None:
    """Make the topics that are missing, then check them all. Ends with 1 where one isn't what it must be."""
    settings = load_settings()
    made = asyncio.run(topics.create(settings))
    for name in made:
        typer.echo(msgspec.json.encode({"created": name}).decode() if as_json else f"created {name}")
    if not made and not as_json:
        typer.echo("all topics were there")
    _tell(asyncio.run(topics.check(settings)), as_json=as_json)


@app.command()
def check(*, as_json: AsJson = False) -> None:
    """Compare the topics with what they must be: a line for each difference, and then exit code 1."""
    settings = load_settings()
    problems = asyncio.run(topics.check(settings))
    if not problems and not as_json:
        typer.echo(f"{len(topics.specs(settings))} topics are as they must be")
    _tell(problems, as_json=as_json)


def _tell(problems: list[topics.Problem], *, as_json: bool) -> None:
    for problem in problems:
        typer.echo(msgspec.json.encode(problem).decode() if as_json else str(problem))
    if problems:
        raise typer.Exit(1)
