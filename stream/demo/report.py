"""The result of a demo, counted from what was published and stored, never from what the demo itself has seen."""

from __future__ import annotations

import csv
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from segmentation.model_parts import STAGES
from segmentation.output_events import Cause, SegmentChanged
from stream.demo.worth import DemoWorth

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    from segmentation.model import Segment, SegmentModel
    from stream.customers.lookup import CustomerReport

NEW: Final = "(new)"
ERASED: Final = "(erased)"
NO_SEGMENT: Final = "(none yet)"
_QUIET: Final = {Cause.SILENCE, Cause.WINDOW}
_decoder = msgspec.json.Decoder(SegmentChanged)


class SegmentLine(msgspec.Struct, frozen=True):
    """A segment at the end: the number of customers and their net money in the window, as decimal text."""

    segment: str
    customers: int
    monetary: str


class ConsistencyCheck(msgspec.Struct, frozen=True):
    """The check of the published moves: per customer 1, 2, 3…, each `from` the `to` before, no id twice."""

    moves: int
    customers: int
    broken: int  # moves that don't follow from the one before
    duplicates: int  # moves whose id was published before
    strangers: int  # customers whose stored segment or number of moves isn't that of their last move

    @property
    def passed(self) -> bool:
        """Whether the check found nothing wrong."""
        return not (self.broken or self.duplicates or self.strangers)


class Throughput(msgspec.Struct, frozen=True):
    """Orders, and the seconds from sending the first one until all were processed and their moves published."""

    orders: int
    seconds: float

    @property
    def orders_per_s(self) -> float:
        """Orders per second."""
        return self.orders / max(self.seconds, 1e-9)


class MatrixCell(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """The number of moves from one segment to another: a cell of the matrix of moves."""

    from_: str
    to: str
    moves: int


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a demo; `--json` prints it."""

    source: str
    currency: str
    orders: int
    left_out: dict[str, int]
    train_at: str
    until: str
    history: Throughput
    live: Throughput
    orders_per_s: float
    seconds: float  # the whole demo
    customers: int
    segments: list[SegmentLine]
    matrix: list[MatrixCell]
    causes: dict[str, int]
    actions: int
    action_examples: list[str]
    stories: list[str]
    worth: DemoWorth
    dead_letters: int
    check: ConsistencyCheck
    files: dict[str, str]


class _LastMove(msgspec.Struct, gc=False):
    """The last move of a customer so far."""

    sequence: int = 0
    to: str | None = None
    lapsed: bool = False  # moved down by silence, and hasn't come back since


class WonBack(NamedTuple):
    """The return of a lapsed customer by an order: their money in the window then, and the number of that move."""

    money: Decimal
    sequence: int


class MoveStatistics:
    """Statistics of all moves: counts, a check of each customer's chain, and the customers to give as examples."""

    def __init__(self, ranking: list[str]) -> None:
        """Start without moves. `ranking`: the segments' names, the best first."""
        self.total = 0
        self.broken = 0
        self.duplicates = 0
        self.matrix: Counter[tuple[str, str]] = Counter()
        self.causes: Counter[str] = Counter()
        self._rank = {name: rank for rank, name in enumerate(ranking)}
        self._last: dict[str, _LastMove] = {}
        self._ids: set[bytes] = set()
        self._returned: dict[str, WonBack] = {}

    def add(self, move: SegmentChanged) -> None:
        """Count the next move. The moves of one customer come in their order."""
        self.total += 1
        self.matrix[move.from_ or NEW, move.to or ERASED] += 1
        self.causes[move.cause.value] += 1
        last = self._last.setdefault(move.customer_id, _LastMove())
        identity = bytes.fromhex(move.id.replace("-", ""))
        if identity in self._ids:
            self.duplicates += 1
            return
        self._ids.add(identity)
        steps = self._rank.get(move.to or "", 0) - self._rank.get(move.from_ or "", 0)
        follows = move.sequence == last.sequence + 1 and move.from_ == last.to
        self.broken += not follows
        if follows and last.lapsed and move.cause is Cause.ORDER and steps < 0 and move.rfm is not None:
            self._returned[move.customer_id] = WonBack(Decimal(move.rfm.monetary), move.sequence)
        last.lapsed = move.from_ is not None and (
            (move.cause in _QUIET and self._is_low(move.to, steps)) or (last.lapsed and steps >= 0)
        )
        last.sequence, last.to = move.sequence, move.to

    def _is_low(self, target: str | None, steps: int) -> bool:
        """Return whether a move by so many ranks goes down, into the lower half."""
        return steps > 0 and self._rank.get(target or "", 0) >= len(self._rank) // 2

    @property
    def customers(self) -> int:
        """The number of customers that have moved."""
        return len(self._last)

    def known(self, customer_id: str) -> tuple[int, str | None]:
        """Return the number and the target of a customer's last move."""
        last = self._last.get(customer_id, _LastMove())
        return last.sequence, last.to

    def lapsed(self, customer_id: str) -> bool:
        """Return whether a customer moved down by silence and hasn't come back."""
        return customer_id in self._last and self._last[customer_id].lapsed

    def won_back(self) -> tuple[str, int] | None:
        """Return the customer who came back with the most money in the window, and the number of the move."""
        if not self._returned:
            return None
        customer_id, back = max(self._returned.items(), key=lambda item: (item[1].money, item[0]))
        return customer_id, back.sequence


class ExampleCustomers(msgspec.Struct):
    """The customers given as examples: of each kind the one with the most money; None if there is none."""

    champion: str | None = None
    lapsed: str | None = None
    won_back: str | None = None
    returned_by: int = 0  # the number of the move with which `won_back` came back

    @property
    def ids(self) -> set[str]:
        """The ids of the examples."""
        return {i for i in (self.champion, self.lapsed, self.won_back) if i is not None}


class CustomerStatistics:
    """Statistics of the exported customers: by segment, compared with their moves, and the examples."""

    def __init__(self) -> None:
        self.total = 0
        self.strangers = 0
        self.by_segment: Counter[str] = Counter()
        self.money: dict[str, Decimal] = {}
        self.examples = ExampleCustomers()

    def read(self, file: Path, moves: MoveStatistics, ranking: list[str]) -> None:
        """Read an exported file."""
        best: dict[str, tuple[Decimal, str]] = {}
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                customer_id, segment, money = row["customer_id"], row["segment"] or NO_SEGMENT, Decimal(row["monetary"])
                self.total += 1
                self.by_segment[segment] += 1
                self.money[segment] = self.money.get(segment, Decimal(0)) + money
                self.strangers += (int(row["sequence"]), row["segment"] or None) != moves.known(customer_id)
                kind = "champion" if segment == ranking[0] else "lapsed" if moves.lapsed(customer_id) else ""
                if kind and (kind not in best or money > best[kind][0]):
                    best[kind] = money, customer_id
        won_back, returned_by = moves.won_back() or (None, 0)
        self.examples = ExampleCustomers(
            champion=best["champion"][1] if "champion" in best else None,
            lapsed=best["lapsed"][1] if "lapsed" in best else None,
            won_back=won_back,
            returned_by=returned_by,
        )

    def lines(self, ranking: Iterable[str]) -> list[SegmentLine]:
        """Return a line for each segment: the active model's, the best first, then those of earlier models."""
        names = dict.fromkeys([*ranking, *sorted(self.by_segment)])
        return [SegmentLine(n, self.by_segment[n], f"{self.money.get(n, Decimal(0)):.2f}") for n in names]


def read_moves(file: Path) -> Iterator[SegmentChanged]:
    """Yield the moves of a file with one JSON object per line. Raises msgspec.DecodeError."""
    with file.open("rb") as lines:
        for line in lines:
            yield _decoder.decode(line)


def chains(file: Path, customer_ids: Collection[str]) -> dict[str, list[SegmentChanged]]:
    """Return the moves of some customers, each customer's in their order."""
    found: dict[str, list[SegmentChanged]] = {i: [] for i in customer_ids}
    for move in read_moves(file):
        if move.customer_id in found:
            found[move.customer_id].append(move)
    return found


def ranked(model: SegmentModel) -> list[str]:
    """Return the segments' names, the best first: by stage, then by the centroid's recency, frequency and money."""

    def order(segment: Segment) -> tuple[int, float]:
        stage = STAGES.index(segment.stage) if segment.stage else len(STAGES)
        return -stage, segment.centroid[0] - segment.centroid[1] - segment.centroid[2]

    return [segment.name for segment in sorted(model.segments, key=order)]


class ExampleWriter:
    """Describes customers in a sentence each, from their moves."""

    def __init__(self, currency: str, window_days: int) -> None:
        self._currency = currency
        self._window = f"within {window_days} days"

    def sentences(
        self, champion: CustomerReport | None, examples: ExampleCustomers, moves: dict[str, list[SegmentChanged]]
    ) -> list[str]:
        """Return a sentence for each example. `champion`: that customer as of the end; `moves`: by customer."""
        found = []
        if champion is not None:
            found.append(self._champion(champion, moves[champion.customer_id]))
        if examples.lapsed and (chain := moves[examples.lapsed]):
            found.append(self._lapsed(chain[-1]))
        if examples.won_back:
            numbered = {move.sequence: move for move in moves[examples.won_back]}
            found.append(self._won_back(numbered[examples.returned_by - 1], numbered[examples.returned_by]))
        return found

    def _champion(self, now: CustomerReport, chain: list[SegmentChanged]) -> str:
        spent = self._figures(now.frequency, now.monetary)
        line = f"{now.customer_id} has been in {now.segment} since {_day(chain[-1].occurred_at)}{spent}"
        if now.recency_days is not None:
            line += f", the last one {now.recency_days:.0f} days ago"
        next_move = f"; moves to {now.next.segment} on {_day(now.next.at)} if no order follows" if now.next else ""
        return f"{line}{next_move}."

    def _lapsed(self, last: SegmentChanged) -> str:
        silence = f", after {last.rfm.recency_days:.0f} days without an order" if last.rfm else ""
        line = f"{last.customer_id} has lapsed: moved from {last.from_} to {last.to} on {_day(last.occurred_at)}"
        return f"{line}{silence}{self._then(last)}."

    def _won_back(self, fall: SegmentChanged, back: SegmentChanged) -> str:
        line = f"{back.customer_id} was won back: moved from {fall.from_} to {fall.to} on {_day(fall.occurred_at)}, "
        return line + f"and to {back.to} with the order of {_day(back.occurred_at)}{self._then(back)}."

    def _then(self, move: SegmentChanged) -> str:
        return "" if move.rfm is None else self._figures(move.rfm.frequency, move.rfm.monetary)

    def _figures(self, frequency: int, monetary: str) -> str:
        orders = f"{frequency} order{'' if frequency == 1 else 's'}"
        return f", with {orders} worth {Decimal(monetary):,.2f} {self._currency} {self._window}"


def _day(at: str) -> str:
    return at[:10]
