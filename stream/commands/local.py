"""`segstream local up|down|status|env`: a real Kafka and Valkey, kept running in the background."""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from stream.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stream.local.server import Report

app = typer.Typer(name="local", no_args_is_help=True, help="Run a real Kafka and Valkey on this machine.")

DataDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of the servers' data.",
        show_default="`local` in SEGSTREAM_CACHE_DIR",
    ),
]


@contextmanager
def progress() -> Iterator[Report]:
    """Show progress on stderr: one line that changes on a terminal, plain lines elsewhere."""
    from stream.consoles import error_console
    from stream.progress import PlainLines

    console = error_console()
    if console.is_terminal:
        with console.status("") as spinner:
            yield spinner.update
    else:
        yield PlainLines(lambda line: echo(line, err=True))


@app.command()
def up(data_dir: DataDir = None) -> None:
    """Start Kafka and Valkey in the background, unless they run.

    The first start downloads Kafka (45 MB).
    """
    from stream.local import background

    folder = _folder(data_dir)
    with progress() as report:
        endpoints = background.up(folder, report)
    echo(f"Kafka {endpoints.kafka}, Valkey {endpoints.redis}, data in {folder}")
    chosen = f" --data-dir {shlex.quote(str(data_dir))}" if data_dir else ""
    echo(f'Point the commands at them: eval "$(segstream local env{chosen})"')


@app.command()
def down(data_dir: DataDir = None) -> None:
    """Stop Kafka and Valkey, and keep their data."""
    from stream.local import background

    folder = _folder(data_dir)
    echo("stopped" if background.down(folder) else f"nothing is running under {folder}")


@app.command()
def status(
    data_dir: DataDir = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Show which servers are running. Exits with 1 unless both are."""
    from stream.local import background

    seen = background.status(_folder(data_dir))
    if as_json:
        echo(msgspec.json.encode(seen))
    elif not seen.servers:
        echo(f"nothing was ever started under {seen.data_dir}")
    else:
        for server in seen.servers:
            state = (
                "stopped"
                if server.memory_bytes is None
                else f"process {server.pid}, {server.memory_bytes / 1e6:.0f} MB"
            )
            echo(f"{server.name} {server.address} {state}")
    if not seen.running:
        raise typer.Exit(1)


@app.command()
def env(data_dir: DataDir = None) -> None:
    """Print `export` lines that point the commands at them."""
    from stream.local import background

    for name, value in background.endpoints(_folder(data_dir)).environment().items():
        echo(f"export {name}={shlex.quote(value)}")


def _folder(data_dir: Path | None) -> Path:
    from stream.local import background

    return (data_dir or background.default_data_dir()).expanduser().resolve()
