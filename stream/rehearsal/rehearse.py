"""Rehearse a model and its campaign rules on the orders of a file: how they would have run in the past.

The customers are divided by a hash of their ids among some processes. Each reads the file; their counts are added.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from segmentation.campaign_rules import RulesError, parse_rules
from segmentation.entries import Rules
from segmentation.event_text import iso
from segmentation.model import ModelError, SegmentModel
from segmentation.money import UNITS
from stream.errors import SegstreamError
from stream.orders.files import FileFormat, check_readable, read_orders
from stream.rehearsal.actions import CampaignTally, RehearsedCampaigns, added
from stream.rehearsal.cautions import cautions
from stream.rehearsal.columns import ReplaySpan
from stream.rehearsal.discounts import discount_of
from stream.rehearsal.histories import IN_CURRENCY, NO_ORDERS, OrderFacts, Share, read_histories
from stream.rehearsal.moves import MoveTally, add_moves
from stream.rehearsal.replay import HistoryReplay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from segmentation.campaign_rules import Rule
    from stream.orders.rows import OrderRow

_ALONE: Final = 4_000_000  # bytes of a file below which a second process isn't worth its start


class NothingToRehearse(SegstreamError):
    """No order lies in the time that is to be rehearsed, or the campaign rules can't be used."""


class RehearsalEnded(SegstreamError):
    """A process of the rehearsal was ended from outside."""


class ModelFileError(SegstreamError):
    """The file holds no model that can score."""


class RehearsalRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The rehearsal that is wanted. Instants in ms; `until_ms` None: up to the last order."""

    file: Path
    file_format: FileFormat | None
    currency: str
    model: bytes  # as JSON
    rules_text: str
    rules: Rules
    dwell_ms: int
    since_ms: int
    until_ms: int | None
    now_ms: int
    discount_share: float
    processes: int


class RehearsedCampaign(msgspec.Struct, frozen=True, kw_only=True):
    """One campaign. `bought_anyway`: those of the `followed` actions after which the customer ordered within 30 days.

    `discount`: the share that the action takes off, None: none; `cost`: of the discounts on those first orders.
    """

    campaign: str
    action: str
    actions: int
    followed: int
    bought_anyway: int
    discount: float | None
    cost: float


class RehearsedFlow(msgspec.Struct, frozen=True, kw_only=True):
    """The moves from one segment to another."""

    source: str
    target: str
    moves: int


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a rehearsal; money in the deployment's currency, shares as parts of 1.

    `orders`: all rows that were used; those before `since` only make the customers known.
    `moves` are from one segment to another; `back_14`, `back_30`: the share of them that go back within so many days.
    `campaigns`: those of all rules, also of rules that never acted.
    `discounts`: actions that take something off; `discounts_anyway`: those to customers who ordered within 30 days.
    `warnings`: sentences on what makes the figures say less than they seem to.
    """

    file: str
    model: str
    since: str
    until: str
    currency: str
    orders: int
    customers: int
    moves: int
    moves_per_year: float
    back_14: float
    back_30: float
    by_cause: dict[str, float]
    flows: tuple[RehearsedFlow, ...]
    campaigns: tuple[RehearsedCampaign, ...]
    actions: int
    discounts: int
    discounts_followed: int
    discounts_anyway: int
    discount_cost: float
    discount_share: float
    left_out: dict[str, int]
    seconds: float
    orders_per_s: float
    warnings: tuple[str, ...]


@dataclass(slots=True)
class ShareTally:
    """The counts of one share of the customers."""

    moves: MoveTally = field(default_factory=MoveTally)
    flows: Counter[tuple[int, int]] = field(default_factory=Counter)
    campaigns: dict[str, CampaignTally] = field(default_factory=dict)
    facts: OrderFacts = NO_ORDERS  # of all shares
    left_out: Counter[str] = field(default_factory=Counter)  # rows of all shares by reason


def model_of_file(path: Path) -> SegmentModel:
    """Read a model as `segtrainer run --out` writes it. Raises ModelFileError."""
    if path.is_dir():
        model = next(iter(sorted(path.glob("model-*.json"))), path / "model-….json")
        raise ModelFileError(f"{path} is a folder.", hint=f"Give the file of the model in it: {model}.")
    try:
        content = path.read_bytes()
        if (version := _version_in_report(content)) is not None:
            hint = f"The model is {path.with_name(f'model-{version}.json')}." if version else "It has no model."
            raise ModelFileError(f"{path} is the report of a training.", hint=hint)
        return SegmentModel.from_json(content)
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror}.", hint="Give the file of a model, or a version.") from None
    except ModelError as error:
        raise ModelFileError(f"{path}: {error}.", hint="Give a file that `segtrainer run --out` wrote.") from None


def _version_in_report(content: bytes) -> str | None:
    """Return the model's version if this is the report.json of a training ("": without a model); None: it isn't."""
    try:
        found = msgspec.json.decode(content)
    except msgspec.DecodeError:
        return None
    if not isinstance(found, dict) or not {"decision", "quality", "fits"} <= found.keys():
        return None
    return str(found.get("version") or "")


def rehearse(request: RehearsalRequest, progress: Callable[[int, int], None] | None = None) -> Rehearsal:
    """Rehearse. Raises OrderFileError, NothingToRehearse.

    `progress` gets how many shares of the customers are done, and of how many.
    """
    begun_s = time.monotonic()
    try:
        parse_rules(request.rules_text)
    except RulesError as error:
        raise NothingToRehearse(
            f"the campaign rules: {error}.", hint="docs/how-to/write-rules.md has examples."
        ) from None
    check_readable(request.file)
    total = ShareTally()
    processes = 1 if request.file.stat().st_size < _ALONE else request.processes
    for done, tally in enumerate(_tallies(request, processes), start=1):
        total.moves.add(tally.moves)
        total.flows.update(tally.flows)
        total.campaigns = added([total.campaigns, tally.campaigns])
        total.facts, total.left_out = tally.facts, tally.left_out
        if progress:
            progress(done, processes)
    return _result(request, span_of(request, total.facts, total.left_out), total, time.monotonic() - begun_s)


def rehearse_share(request: RehearsalRequest, share: Share) -> ShareTally:
    """Rehearse the customers of one share. Raises OrderFileError, NothingToRehearse."""
    left_out: Counter[str] = Counter()

    def read() -> Iterator[OrderRow]:
        left_out.clear()
        return read_orders(request.file, format=request.file_format, currency=request.currency, counts=left_out)

    histories, facts = read_histories(read, request.currency, request.now_ms, share)
    left_out.update(facts.left_out)
    span = span_of(request, facts, left_out)
    model = SegmentModel.from_json(request.model)
    campaigns = RehearsedCampaigns(parse_rules(request.rules_text), model, facts.last_ms)
    found = ShareTally(campaigns=campaigns.found, facts=facts, left_out=left_out)
    for group in HistoryReplay(model, request.rules, dwell_ms=request.dwell_ms).run(histories, span):
        found.flows.update(add_moves(group, span.start, span.end, found.moves))
        campaigns.add(group)
    return found


def span_of(request: RehearsalRequest, facts: OrderFacts, left_out: Mapping[str, int]) -> ReplaySpan:
    """Return the time to rehearse. `left_out`: rows by reason. Raises NothingToRehearse."""
    if not facts.rows:
        counts = ", ".join(f"{rows:,} {reason}" for reason, rows in sorted(left_out.items()))
        raise NothingToRehearse(
            f"{request.file}: no row can be used; left out: {counts or 'none'}.", hint=_hint(request, left_out)
        )
    end = facts.last_ms + 1 if request.until_ms is None else min(request.until_ms, request.now_ms)
    if request.since_ms >= min(end, facts.last_ms + 1):
        raise NothingToRehearse(
            f"{request.file}: no order comes from {iso(request.since_ms)} on and before the end, {iso(end)}.",
            hint=f"Its orders are of {iso(facts.first_ms)[:10]} to {iso(facts.last_ms)[:10]}: give --since in between.",
        )
    return ReplaySpan(request.since_ms, end)


def _hint(request: RehearsalRequest, left_out: Mapping[str, int]) -> str:
    """Return what to do about a file without a row that can be used."""
    others = sorted((-rows, reason) for reason, rows in left_out.items() if reason.startswith(IN_CURRENCY))
    if not others:
        return "docs/how-to/files.md says what is needed."
    most = others[0][1].removeprefix(IN_CURRENCY)
    return f"This deployment takes {request.currency}: set SEGSTREAM_CURRENCY={most} if all orders are in it."


def _tallies(request: RehearsalRequest, processes: int) -> Iterator[ShareTally]:
    if processes == 1:
        yield rehearse_share(request, Share())
        return
    # Spawned: a forked child would hold the locks of whatever threads there are. Without the collector of cycles: it
    # would go through all entries again and again, and there are none among them.
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=gc.disable) as pool:
        shares = [Share(number, processes) for number in range(processes)]
        try:
            for part in as_completed([pool.submit(rehearse_share, request, share) for share in shares]):
                yield part.result()
        except BrokenProcessPool:
            hint = "It may have taken too much memory: all orders are in memory, about 300 bytes each."
            raise RehearsalEnded("a process of the rehearsal was ended from outside.", hint=hint) from None


def _result(
    request: RehearsalRequest,
    span: ReplaySpan,
    total: ShareTally,
    seconds: float,
) -> Rehearsal:
    facts = total.facts
    model, tally = SegmentModel.from_json(request.model), total.moves
    names = {segment.id: segment.name for segment in model.segments}
    campaigns = [
        _campaign(rule, total.campaigns.get(rule.name, CampaignTally(rule.then.action)), request.discount_share)
        for rule in parse_rules(request.rules_text).rules
    ]
    campaigns.sort(key=lambda one: (-one.actions, one.campaign))
    discounts = [one for one in campaigns if one.discount is not None]
    return Rehearsal(
        file=request.file.name,
        model=model.version,
        since=iso(span.start),
        until=iso(span.end),
        currency=request.currency,
        orders=facts.rows,
        customers=tally.customers,
        moves=tally.moves,
        moves_per_year=round(tally.moves_per_year, 3),
        back_14=round(tally.share_back(14), 4),
        back_30=round(tally.share_back(30), 4),
        by_cause={cause: round(share, 4) for cause, share in tally.causes().items()},
        flows=tuple(
            RehearsedFlow(source=names[a], target=names[b], moves=n) for (a, b), n in total.flows.most_common()
        ),
        campaigns=tuple(campaigns),
        actions=sum(one.actions for one in campaigns),
        discounts=sum(one.actions for one in discounts),
        discounts_followed=sum(one.followed for one in discounts),
        discounts_anyway=sum(one.bought_anyway for one in discounts),
        discount_cost=round(sum(one.cost for one in discounts), 2),
        discount_share=request.discount_share,
        left_out=dict(total.left_out),
        seconds=round(seconds, 3),
        orders_per_s=round(facts.rows / max(seconds, 1e-9), 1),
        warnings=tuple(cautions(request.rules_text, model, span.start)),
    )


def _campaign(rule: Rule, found: CampaignTally, share: float) -> RehearsedCampaign:
    discount = discount_of(rule.then.action, share)
    return RehearsedCampaign(
        campaign=rule.name,
        action=rule.then.action,
        actions=found.actions,
        followed=found.followed,
        bought_anyway=found.anyway,
        discount=discount,
        cost=round((discount or 0.0) * found.their_units / UNITS, 2),
    )
