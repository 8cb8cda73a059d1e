"""`segstream rates load|list`: the rates of other currencies."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from segmentation.events import Reason
from segmentation.rates import day_number
from stream.clock import now_ms
from stream.commands.options import AsJson
from stream.errors import SettingsError
from stream.terminal import echo

if TYPE_CHECKING:
    from stream.rates.load import LoadReport
    from stream.settings import Settings

app = typer.Typer(name="rates", no_args_is_help=True, help="Load the rates of other currencies, and list them.")

_HOLES_SHOWN: Final = 5
_DAY_MS: Final = 86_400_000
_REDRIVE: Final = "segstream dead-letters redrive --reason no_rate"


def day_of(text: str) -> int:
    """Return a UTC day as days since 1970. Raises typer.BadParameter.

    >>> day_of("1970-01-02")
    1
    """
    if text in {"today", "tomorrow"}:
        return now_ms() // _DAY_MS + (text == "tomorrow")
    try:
        return day_number(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} isn't a day like 2026-11-27, today or tomorrow") from None


def code_of(text: str) -> str:
    """Return the code of a currency. Raises typer.BadParameter.

    >>> code_of("usd")
    'USD'
    """
    if len(text) == 3 and text.isascii() and text.isalpha():
        return text.upper()
    raise typer.BadParameter(f"{text!r} isn't a currency's code of three letters")


RateFile = Annotated[
    Path,
    typer.Argument(
        help="The European Central Bank's eurofxref-hist.csv (or its .zip), or a file with the columns day, currency "
        "and rate."
    ),
]
Since = Annotated[
    int | None,
    typer.Option(parser=day_of, metavar="DAY", help="First day to load.", show_default="the file's first"),
]
UntilDay = Annotated[
    int | None,
    typer.Option(
        parser=day_of,
        metavar="DAY",
        help="Let the last line hold up to this day (7 days at most): 2026-11-27, today or tomorrow.",
        show_default="its own day",
    ),
]
Codes = Annotated[
    list[str] | None,
    typer.Option(
        parser=code_of,
        metavar="CODE",
        help="Only this currency; may be repeated.",
        show_default="SEGSTREAM_OTHER_CURRENCIES",
    ),
]


@app.command()
def load(
    file: RateFile,
    *,
    since: Since = None,
    until: UntilDay = None,
    next_day: Annotated[
        bool,
        typer.Option("--next-day", help="Let each line hold from the day after its own, as it is published late."),
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Where another rate is there already, keep that and load the others.")
    ] = False,
    currency: Codes = None,
    as_json: AsJson = False,
) -> None:
    """Load rates of other currencies, each for good.

    Equal ones that are there are skipped; other ones are refused. Waits until orders may use them, and shows how many
    orders wait in the dead letters.
    """
    from stream.rates.files import RateRequest, read_rates_file
    from stream.rates.load import RateLoader
    from stream.settings import load_settings

    settings = load_settings()
    chosen = currency or sorted(settings.all_currencies - {settings.currency})
    if not chosen:
        raise SettingsError(
            "no other currency is set.", hint="Set SEGSTREAM_OTHER_CURRENCIES, or name some with --currency."
        )
    if settings.currency in chosen:
        raise SettingsError(f"--currency {settings.currency} is SEGSTREAM_CURRENCY: rates are those of others in it.")
    wanted = read_rates_file(file, RateRequest(settings.currency, tuple(chosen), since, until, next_day))
    report = asyncio.run(RateLoader(settings).load(wanted, keep=keep))
    if report.holds_in_s:
        time.sleep(report.holds_in_s)
    _show_loaded(report, asyncio.run(_waiting(settings)), settings.currency, as_json=as_json)


def _show_loaded(report: LoadReport, waiting: int, base: str, *, as_json: bool) -> None:
    if as_json:
        echo(msgspec.json.encode({**msgspec.to_builtins(report), "waiting": waiting}))
    else:
        echo(summary(report, base))
    if report.late:
        echo(
            "Kafka was slow: orders of the last seconds may have found no rate; they are redriven as others.", err=True
        )
    if waiting and not as_json:
        echo(f"{waiting:,} orders and refunds wait for a rate: `{_REDRIVE}` sends back those that have one now.")


async def _waiting(settings: Settings) -> int:
    """Return how many records are in the dead letters for want of a rate."""
    from stream.dead_letters.redrive import redrive
    from stream.dead_letters.routing import Selection

    selection = Selection(frozenset({Reason.NO_RATE.value}))
    report = await redrive(settings, settings.orders_dead_letters_topic, selection, dry_run=True)
    return sum(report.sent.values())


def summary(report: LoadReport, base: str) -> str:
    """Return the report as a line for people.

    >>> from stream.rates.load import LoadReport
    >>> summary(LoadReport(loaded=2, known=1_400, kept=0, holds_in_s=6.0), "EUR")
    'loaded 2 rates in EUR, which orders may use from now on; 1,400 were there already'
    """
    line = f"loaded {report.loaded:,} rates in {base}"
    if report.loaded:
        line += ", which orders may use from now on"
    if report.known:
        line += f"; {report.known:,} were there already"
    if report.kept:
        line += f"; kept {report.kept:,} for which the file has another value"
    return line


@app.command("list")
def list_command(*, as_json: AsJson = False) -> None:
    """List the currencies that have rates, their first and last day, and days without one in between.

    Exits with 1 if a currency of the settings has none.
    """
    from stream.consoles import console, table
    from stream.rates.listing import currency_rows
    from stream.rates.topic import read_rates
    from stream.settings import load_settings

    settings = load_settings()
    rows = currency_rows(asyncio.run(read_rates(settings)))
    if as_json:
        for row in rows:
            echo(msgspec.json.encode(row))
    else:
        cells = [
            (
                row.currency,
                f"{row.days:,}",
                row.first_day,
                row.last_day,
                f"{row.last_rate} {row.base}",
                "; ".join(a if a == b else f"{a} to {b}" for a, b in row.holes[:_HOLES_SHOWN])
                + (f"; and {more} more" if (more := len(row.holes) - _HOLES_SHOWN) > 0 else ""),
            )
            for row in rows
        ]
        console().print(table(("currency", ">days", "first", "last", ">last rate", "days without a rate"), cells))
    missing = settings.all_currencies - {settings.currency} - {row.currency for row in rows}
    for code in sorted(missing):
        echo(f"{code}: no rates: orders in it become dead letters (no_rate).", err=True)
    if missing:
        raise typer.Exit(1)
