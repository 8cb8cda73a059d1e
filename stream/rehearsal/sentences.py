"""The result of a rehearsal in sentences."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from segmentation.entries import DAY_MS
from stream.orders.rows import parse_at

if TYPE_CHECKING:
    from stream.rehearsal.rehearse import Rehearsal


def headlines(report: Rehearsal) -> list[str]:
    """Return the outcome in a few sentences, the most important first."""
    days = round((parse_at(report.until) - parse_at(report.since)) / DAY_MS)
    span = f"{day(report.since)} to {day(report.until)} ({days:,} days)"
    pace = f"{report.moves:,} moves from segment to segment, {report.moves_per_year:.1f} a customer and year"
    lines = [
        f"Had this run from {span} over {report.customers:,} customers:",
        f"{pace}; {report.back_14:.1%} of them back within 14 days, {report.back_30:.1%} within 30.",
        f"{report.actions:,} campaign actions; {report.discounts:,} of them take something off the price.",
    ]
    taken = [f"{one.campaign} ({percent(one.discount)})" for one in report.campaigns if one.discount is not None]
    lines.append(f"Taken for discounts, by their actions' words: {', '.join(taken) or 'none'}.")
    if report.discounts_followed:
        anyway = f"{report.discounts_anyway:,} of {report.discounts_followed:,} discounts"
        cost = f"{report.discount_cost:,.2f} {report.currency}"
        lines.append(
            f"{anyway} went to customers who ordered within 30 days without one: these would have cost {cost}."
        )
    return lines


def summary(report: Rehearsal) -> list[str]:
    """Return the figures as lines for people."""
    lines = headlines(report)
    for one in report.campaigns:
        if not one.actions:
            continue
        anyway = f"; {one.bought_anyway:,} of {one.followed:,} ordered within 30 days" if one.followed else ""
        lines.append(f"  {one.campaign}: {one.actions:,} ({one.action}){anyway}")
    idle = [one.campaign for one in report.campaigns if not one.actions]
    if idle:
        lines.append(f"No action: {', '.join(idle)}.")
    left_out = ", ".join(f"{rows:,} {reason}" for reason, rows in sorted(report.left_out.items()))
    lines.append(
        f"{report.orders:,} rows in {report.seconds:.1f} s ({report.orders_per_s:,.0f} rows/s)"
        + (f"; left out {left_out}" if left_out else "")
    )
    return lines


_ASSUMPTIONS: Final = """
The orders are those of the file. Nobody in it had these campaigns, so nothing here says what they would have brought:
only whom they would have gone to, and what these customers did without them.

The model starts at the beginning: it places the customers who are known then, which counts as no move and sets off no
campaign.

An action counts as a discount where its words name a percentage or an amount off, a voucher, a coupon, a rebate or a
discount, without a "no", "not" or "without" before; what is off delivery doesn't count. It is taken off the first order
of the 30 days after it: the percentage that the action names, else SHARE.

Moves and actions in the last 30 days can't be followed. They count, but nobody knows yet whether a move goes back, or
whether a customer orders.

Two ids that the file merges are one customer from the beginning.
"""


def assumptions(report: Rehearsal) -> list[str]:
    """Return how the figures came about, for somebody who wants to judge them."""
    text = _ASSUMPTIONS.replace("SHARE", f"{report.discount_share:.0%}")
    return [" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n")]


def percent(share: float) -> str:
    """Return a share as a percentage, no longer than it must be.

    >>> percent(0.2), percent(0.125)
    ('20%', '12.5%')
    """
    return f"{share * 100:.4g}%"


def day(instant: str) -> str:
    """Return the day of an instant.

    >>> day("2026-03-01T00:00:00.000Z")
    '1 March 2026'
    """
    at = datetime.fromisoformat(instant)
    return f"{at.day} {at:%B %Y}"
