"""`segstream adapters`: one's own topics to order events."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from stream.settings import load_settings

app = typer.Typer()


@app.command()
def adapters(
    own: Annotated[
        list[str] | None,
        typer.Option(
            "--app", metavar="MODULE:NAME", help="Adapters of one's own; may be repeated.", show_default="none"
        ),
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Port of /health and /metrics; 0: none.", show_default="setting")
    ] = None,
) -> None:
    """Turn records of other topics into order events: those of orders-unkeyed, and one's own. Ends on SIGTERM, drained."""
    from stream.adapters.app import run_adapters
    from stream.adapters.mapping import load_adapters

    chosen: dict[str, Any] = {} if http_port is None else {"http_port": http_port}
    settings = load_settings(**chosen)
    # As `python -m` does: what a shop writes lies in the folder that it starts from.
    sys.path.insert(0, str(Path.cwd()))
    raise typer.Exit(run_adapters(settings, [load_adapters(name) for name in own or []]))
