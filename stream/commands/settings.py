"""`segstream settings`: every setting with its value and meaning."""

from __future__ import annotations

import typer

app = typer.Typer()


@app.command("settings")
def show_settings() -> None:
    """List every setting with its value, default and meaning."""
    from rich.text import Text

    from stream.commands.tables import console, table
    from stream.settings import Settings, load_settings
    from stream.settings_sources import PREFIX, shown_value
    from stream.terminal import harmless

    settings = load_settings()
    rows = []
    for name, field in Settings.model_fields.items():
        value, default = getattr(settings, name), field.default
        style = "bold" if value != default else ""
        shown = Text(harmless(shown_value(name, field, value)), style)
        usual = shown_value(name, field, default)
        rows.append((f"{PREFIX}{name.upper()}", shown, usual, field.description or ""))
    console(200).print(table(("variable", "value", "default", "meaning"), rows))
