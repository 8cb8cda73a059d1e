"""`segstream settings`: every setting with its value and meaning."""

from __future__ import annotations

import typer

app = typer.Typer()


@app.command("settings")
def show_settings() -> None:
    """List every setting with its value, default and meaning."""
    from stream.commands.tables import console, table
    from stream.settings import Settings, load_settings
    from stream.settings_sources import PREFIX

    settings = load_settings()
    rows = []
    for name, field in Settings.model_fields.items():
        value, default = getattr(settings, name), field.default
        changed = "[bold]" if value != default else ""
        rows.append((f"{PREFIX}{name.upper()}", f"{changed}{value}", str(default), field.description or ""))
    console(200).print(table(("variable", "value", "default", "meaning"), rows))
