"""The uplift of campaigns for people: the rows of a table, and sentences below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from stream.uplift.measure import UpliftVerdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stream.uplift.measure import CampaignUplift, GroupFigures, UpliftFigures, UpliftReport

HEADINGS: Final = (
    "campaign",
    "",
    ">treated",
    ">held out",
    ">each",
    ">each held out",
    ">difference",
    ">from",
    ">to",
    "verdict",
)
_VERDICTS: Final = {
    UpliftVerdict.HARM: "HARMS",
    UpliftVerdict.GAIN: "helps",
    UpliftVerdict.UNCLEAR: "no difference shown yet",
    UpliftVerdict.TOO_FEW: "too few yet",
    UpliftVerdict.NO_CONTROL: "no control group",
}
_LEFT_OUT: Final = {
    "open": "still in the time after",
    "contaminated": "reached by another campaign in the time before",
    "merged": "merged",
    "erased": "erased",
}


def rows(report: UpliftReport) -> Iterator[tuple[str, ...]]:
    """Yield the cells of a table under HEADINGS: two lines for each campaign."""
    for found in report.campaigns:
        sizes = (f"{found.treated.customers:,}", f"{found.held_out.customers:,}")
        yield (found.campaign, report.currency, *sizes, *_cells(found, "spend", 2), _verdict(found))
        yield ("", "orders", "", "", *_cells(found, "orders", 3), _few(found))


def _verdict(found: CampaignUplift) -> str:
    nobody = not found.treated.customers and not found.held_out.customers
    return "nobody to compare yet" if nobody else _VERDICTS[found.verdict]


def _cells(found: CampaignUplift, name: str, digits: int) -> tuple[str, ...]:
    groups: tuple[GroupFigures, GroupFigures] = (found.treated, found.held_out)
    each = [f"{getattr(group, name):,.{digits}f}" if group.customers else "" for group in groups]
    figures: UpliftFigures | None = getattr(found, name)
    if figures is None:
        return (*each, "", "", "")
    bounds = ["" if bound is None else f"{bound:+,.{digits}f}" for bound in (figures.low, figures.high)]
    return (*each, f"{figures.difference:+,.{digits}f}", *bounds)


def _few(found: CampaignUplift) -> str:
    """Return how many buyers are missing, where they are."""
    missing = [
        f"{name}: {figures.buyers:,} of {figures.needed:,} buyers"
        for name, figures in (("spend", found.spend), ("orders", found.orders))
        if figures is not None and figures.low is None
    ]
    return "; ".join(missing)


def notes(report: UpliftReport) -> Iterator[str]:
    """Yield the sentences below the table."""
    yield (
        f"Per customer in the {report.days} days after the first contact, up to {report.known_until}; the truth lies"
        f" between from and to with {report.confidence:.0%}, however often you look."
    )
    for found in report.campaigns:
        left_out = [
            f"{count:,} {_LEFT_OUT[why]}" for why, count in msgspec.to_builtins(found.left_out).items() if count
        ]
        if left_out:
            yield f"{found.campaign}: left out {', '.join(left_out)}."
        if found.later:
            yield f"{found.campaign}: {found.later:,} were reached by another campaign in the time after, and count."
    if report.unusable:
        unusable = ", ".join(f"{count:,} {reason}" for reason, count in sorted(report.unusable.items()))
        yield f"Events of these customers that can't be used: {unusable}."
    if report.unreadable:
        yield f"Records that are no decisions: {report.unreadable:,}."


def alarms(report: UpliftReport) -> Iterator[str]:
    """Yield a sentence, without its full stop, on each thing that somebody should act on."""
    for found in report.campaigns:
        for harm in found.harms:
            verb = "spend" if harm == "spend" else "order"
            yield (
                f"{found.campaign} harms: treated customers {verb} less than those held out, even at the upper bound;"
                " stop it, or change it"
            )
        if found.shifting:
            yield (
                f"{found.campaign}: the share held out changed in this time, so the groups are of different times;"
                " measure from the change on, with --since"
            )
