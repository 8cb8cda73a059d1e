"""`segstream settings|reconfigure`: every setting with its value and meaning; other settings for good."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Final

import typer

from stream.clock import now_ms
from stream.kafka.step_name import StepName
from stream.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream.repair.reconfigure import Reconfigurer, ShardChange
    from stream.settings import Settings

app = typer.Typer()

_NONE: Final = "(none)"
_CURRENCY: Final = (
    "Amounts aren't converted: orders in the old currency no longer count, and no dead letter is written for them, as "
    "they were delivered before. Later ones become dead letters (unknown_currency)."
)
_OTHERS: Final = (
    "Orders that came before the change stay as they are: those in a currency that was unknown then are in the dead "
    "letters (unknown_currency), and `segstream dead-letters redrive --reason unknown_currency` sends them back."
)


@app.command("settings")
def show_settings() -> None:
    """List every setting with its value, default and meaning."""
    from rich.text import Text

    from stream.consoles import console, table
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


@app.command()
def reconfigure(
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without this, only show what would be done.")] = False,
    allow_truncated_logs: Annotated[
        bool,
        typer.Option(
            "--allow-truncated-logs",
            help="Read the records again even where the first ones are gone: figures start with what is left.",
        ),
    ] = False,
) -> None:
    """Put the deployment under the settings of this command, for good.

    For settings that all workers must share. Shows each that differs from the shards' own, and what follows. Moves that
    the new settings cause are published once, with the cause `settings`.
    """
    from stream.settings import load_settings

    settings = load_settings()
    if asyncio.run(_reconfigure(settings, yes=yes, allow_truncated=allow_truncated_logs)):
        from stream.status.report import retry_quarantined

        retried = retry_quarantined(settings, StepName.SCORING, now_ms())
        echo(f"trying again: {', '.join(map(str, retried)) or 'no shard, as none is quarantined'}")
        echo("`segstream status --wait 600` shows how far the shards are.")


async def _reconfigure(settings: Settings, *, yes: bool, allow_truncated: bool) -> bool:
    """Return whether it was to be done, not only shown."""
    from stream.kafka.streams import streams_of
    from stream.repair.reconfigure import Reconfigurer, check_inputs
    from stream.reshard.journal import read_journal
    from stream.worker.steps import scoring_step

    streams = streams_of(settings, StepName.SCORING)
    reconfigurer = Reconfigurer(settings, streams, scoring_step(settings))
    try:
        shards = await reconfigurer.look()
        for line in plan(shards):
            echo(line)
        # The rebuild of a group whose partitions were changed needs all records.
        if not allow_truncated or await read_journal(settings):
            check_inputs(shards, streams.input)
        if not yes:
            return False
        await _change(settings, reconfigurer, shards)
    finally:
        await reconfigurer.close()
    return True


async def _change(settings: Settings, reconfigurer: Reconfigurer, shards: Sequence[ShardChange]) -> None:
    from stream.kafka.streams import streams_of
    from stream.repair.rebuild import Rebuilder
    from stream.repair.reconfigure import shortened
    from stream.worker.steps import scoring_step

    async for line in reconfigurer.change(shards, now_ms()):
        echo(line)
    for shard in shortened(shards):
        rebuilder = Rebuilder(settings, streams_of(settings, StepName.SCORING), scoring_step(settings))
        async for line in rebuilder.rebuild(shard.partition, allow_truncated_logs=True):
            echo(line)


def plan(shards: Sequence[ShardChange]) -> list[str]:
    """Return the lines that say what differs, and what follows from it."""
    from stream.repair.reconfigure import CONSEQUENCES

    found: dict[tuple[str, str, str, int], list[int]] = {}
    for shard in shards:
        for name, held, wanted, way in shard.differences:
            found.setdefault((name, str(held), str(wanted), way), []).append(shard.partition)
    if not found:
        if new := [shard.partition for shard in shards if not shard.begun]:
            shown = ", ".join(map(str, new))
            return [
                f"No shard is under other settings. `segstream reconfigure --yes` begins those without a turn: {shown}."
            ]
        return ["All shards are under these settings: there is nothing to do."]
    lines = [
        f"SEGSTREAM_{name.upper()}: {held or _NONE} -> {wanted or _NONE} ({len(partitions)} of {len(shards)} shards)"
        for (name, held, wanted, _), partitions in found.items()
    ]
    ways = [shard.way for shard in shards if shard.way is not None]
    lines += [f"in {ways.count(way)} shards {CONSEQUENCES[way]}" for way in sorted(set(ways), reverse=True)]
    if any(name == "currency" for name, *_ in found):
        lines.append(_CURRENCY)
    if any(name == "other_currencies" for name, *_ in found):
        lines.append(_OTHERS)
    lines.append(
        "A shard stands still until a worker with these settings owns it. `segstream reconfigure --yes` does it."
    )
    return lines
