"""The files of a demo, and its result: customers, moves, actions and dead letters as stored and published."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import msgspec

from segmentation.event_text import iso
from segmentation.output_events import CampaignAction, OutputEvent
from stream.customers.export import export
from stream.customers.lookup import customer as look_up
from stream.demo.report import (
    ConsistencyCheck,
    CustomerStatistics,
    DemoResult,
    ExampleWriter,
    MatrixCell,
    MoveStatistics,
    chains,
    ranked,
    read_moves,
)
from stream.demo.worth import MoveLog, WorthWriter
from stream.models.topic import read_published
from stream.outputs.kinds import OutputKind
from stream.outputs.tail import tail
from stream.private_files import private_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from stream.demo.report import Throughput
    from stream.demo.source import DemoOrders
    from stream.settings import Settings

LOGS: Final = "logs"
_EXAMPLES: Final = 5
_decision = msgspec.json.Decoder(OutputEvent)


def read_result(
    settings: Settings,
    orders: DemoOrders,
    throughputs: tuple[Throughput, Throughput],
    folder: Path,
    *,
    began_s: float,
    now_ms: int,
) -> DemoResult:
    """Write the files into `folder` and count what they hold. `began_s`: when the demo began, by the monotonic clock.

    Raises SegstreamError.
    """
    published = asyncio.run(read_published(settings))
    ranking = ranked(published.require_active())
    export(settings, published, folder / "customers.csv", now_ms=now_ms)
    counts = {what: asyncio.run(_write(settings, what, folder / f"{name}.jsonl")) for what, name in _FILES.items()}
    moves, journeys = MoveStatistics(ranking), MoveLog()
    for move in read_moves(folder / "moves.jsonl"):
        moves.add(move)
        journeys.add(move)
    actions = folder / "actions.jsonl"
    worth = WorthWriter(orders.log, journeys, orders.train_at_ms, orders.end_ms).worth(ranking, _actions(actions))
    customers = CustomerStatistics()
    customers.read(folder / "customers.csv", moves, ranking)
    history, live = throughputs
    examples = customers.examples
    champion = None if examples.champion is None else look_up(settings, published, examples.champion, now_ms)
    stories = ExampleWriter(settings.currency, settings.window_days).sentences(
        champion, examples, chains(folder / "moves.jsonl", examples.ids)
    )
    return DemoResult(
        source=orders.name,
        currency=settings.currency,
        orders=history.orders + live.orders,
        left_out=dict(orders.left_out),
        train_at=iso(orders.train_at_ms),
        until=iso(orders.end_ms),
        history=history,
        live=live,
        orders_per_s=round((history.orders + live.orders) / max(history.seconds + live.seconds, 1e-9), 1),
        seconds=round(time.monotonic() - began_s, 1),
        customers=customers.total,
        segments=customers.lines(ranking),
        matrix=[MatrixCell(source, target, number) for (source, target), number in moves.matrix.most_common()],
        causes=dict(moves.causes.most_common()),
        actions=counts[OutputKind.ACTIONS],
        action_examples=_examples(_actions(actions)),
        stories=stories,
        worth=worth,
        dead_letters=counts[OutputKind.DEAD_LETTERS],
        check=ConsistencyCheck(moves.total, moves.customers, moves.broken, moves.duplicates, customers.strangers),
        files=_files(folder),
    )


_FILES: Final = {OutputKind.CHANGES: "moves", OutputKind.ACTIONS: "actions", OutputKind.DEAD_LETTERS: "dead-letters"}


async def _write(settings: Settings, what: OutputKind, file: Path) -> int:
    """Write all committed records, one JSON object per line, as `segstream tail` does; return their number."""
    with private_file(file) as lines:
        return await tail(
            settings,
            what,
            lambda line: lines.write(f"{line}\n".encode()),
            from_beginning=True,
            until_idle_s=0.0,
            as_json=True,
        )


def _actions(file: Path) -> Iterator[CampaignAction]:
    with file.open("rb") as lines:
        for line in lines:
            if isinstance(event := _decision.decode(line), CampaignAction):
                yield event


def _examples(actions: Iterable[CampaignAction]) -> list[str]:
    """Return the latest action of each campaign and segment, the most recent ones, as text for people."""
    latest = {(action.campaign, action.segment): action for action in actions}
    chosen = sorted(latest.values(), key=lambda a: a.occurred_at)[-_EXAMPLES:]
    return [
        f"{a.occurred_at[:10]}  {a.customer_id}  {a.segment}: {a.action}, by {a.channel} ({a.reason})" for a in chosen
    ]


def _files(folder: Path) -> dict[str, str]:
    return {
        "customers": str(folder / "customers.csv"),
        "moves": str(folder / "moves.jsonl"),
        "actions": str(folder / "actions.jsonl"),
        "dead_letters": str(folder / "dead-letters.jsonl"),
        "model": str(folder / "model.json"),
        "logs": str(folder / LOGS),
    }
