"""Stories that chance rarely tells: the campaign step decides as the oracle does, and as is written here."""

from __future__ import annotations

import pytest

from tests.support.data.campaign_scripts import DAY_MS, HOUR_MS, MINUTE_MS, Tick
from tests.support.engine.campaign_world import ShopWorld
from tests.support.oracles.campaigns import (
    PlainCap,
    PlainMove,
    PlainOrder,
    PlainProfile,
    PlainRule,
    PlainTable,
)
from tests.support.oracles.local_time import ms_at

NIGHT = (21 * 60, 8 * 60)
IN_TOKYO = PlainProfile("ann", 0, (("time_zone", "Asia/Tokyo"),))


def moved(sequence: int, *, customer: str = "ann", to: str | None = "Lost", cause: str = "order") -> PlainMove:
    return PlainMove(customer, sequence, None, to, cause, 0)


def at(wait: int, *moves: PlainMove, orders: tuple[PlainOrder, ...] = (), profile: PlainProfile | None = None) -> Tick:
    return Tick(wait, due=False, moves=moves, orders=orders, profiles=(profile,) if profile else ())


A, B = PlainRule("a"), PlainRule("b", group="other")
ONE_A_DAY = (PlainCap(1, None, None),)
ONE_IN_A_DAY = (PlainCap(1, DAY_MS, None),)

STORIES = {
    # 14:00 and 16:00 in UTC are two days in Tokyo.
    "a calendar day is the customer's": (
        PlainTable((A,), caps=ONE_A_DAY),
        "2026-06-15T14:00:00Z",
        [at(0, moved(1), profile=IN_TOKYO), at(2 * HOUR_MS, moved(2)), at(HOUR_MS, moved(3))],
        ["action", "action", "cap"],
    ),
    "a window is over to the millisecond": (
        PlainTable((A,), caps=ONE_IN_A_DAY),
        "2026-06-15T14:00:00Z",
        [at(0, moved(1)), at(DAY_MS - 1, moved(2)), at(1, moved(3)), at(DAY_MS - 1, moved(4))],
        ["action", "cap", "action", "cap"],
    ),
    "a transactional action counts for no cap and is held to none": (
        PlainTable((PlainRule("a", cause=("silence",), transactional=True), PlainRule("b")), caps=ONE_IN_A_DAY),
        "2026-06-15T14:00:00Z",
        [at(0, moved(1, cause="silence")), at(1, moved(2)), at(1, moved(3)), at(1, moved(4, cause="silence"))],
        ["action", "action", "cap", "action"],
    ),
    "two moves in one millisecond are two actions for a cap": (
        PlainTable((A,), caps=(PlainCap(2, DAY_MS, None),)),
        "2026-06-15T14:00:00Z",
        [at(0, moved(1), moved(2), moved(3))],
        ["action", "action", "cap"],
    ),
    "what a night held back goes out by priority": (
        PlainTable((A, PlainRule("b", group="other", priority=1)), quiet=NIGHT, caps=ONE_A_DAY),
        "2026-06-15T22:00:00Z",
        [at(0, moved(1)), at(10 * HOUR_MS + 1)],
        ["quiet_hours", "quiet_hours", "b action", "a cap"],
    ),
    # 02:30 doesn't come in Berlin: the hours end with the change, at 03:00.
    "quiet hours end where clocks jump over their end": (
        PlainTable((PlainRule("a", quiet=(60, 150)),), zone="Europe/Berlin"),
        "2026-03-29T00:30:00Z",
        [at(0, moved(1)), at(30 * MINUTE_MS), at(1)],
        ["quiet_hours", "action"],
    ),
    # It comes twice: quiet until the first 02:30, and again from the second 02:00 on.
    "quiet hours come twice where clocks are set back": (
        PlainTable((PlainRule("a", quiet=(60, 150)),), zone="Europe/Berlin"),
        "2026-10-25T00:30:00Z",
        [at(0, moved(1)), at(30 * MINUTE_MS, moved(2)), at(30 * MINUTE_MS), at(1)],
        ["action", "quiet_hours", "action"],
    ),
    "the last action of a campaign is remembered for ever": (
        PlainTable((PlainRule("a", cause=("silence",), first_time=True), PlainRule("b", cause=("order",)))),
        "2026-06-15T14:00:00Z",
        [
            at(0, moved(1, cause="silence")),
            at(33 * DAY_MS, moved(2)),
            at(33 * DAY_MS, moved(3)),
            at(0, moved(4, cause="silence")),
        ],
        ["action", "action", "action", "first_time"],
    ),
    "the actions of a month count": (
        PlainTable((A,), caps=(PlainCap(3, 31 * DAY_MS, None),)),
        "2026-06-15T14:00:00Z",
        [
            at(0, moved(1)),
            at(15 * DAY_MS, moved(2)),
            at(15 * DAY_MS, moved(3)),
            at(HOUR_MS, moved(4)),
            at(DAY_MS, moved(5)),
        ],
        ["action", "action", "action", "cap", "action"],
    ),
    "a merge hands actions on, and an erasure takes them back": (
        PlainTable((PlainRule("a", first_time=True),)),
        "2026-06-15T14:00:00Z",
        [
            at(0, moved(1, customer="bob")),
            at(1, PlainMove("bob", 2, "Lost", None, "merged", 0, "ann")),
            at(1, moved(1)),
            at(1, orders=(PlainOrder("erased", "ann", 0),)),
            at(1, moved(2)),
        ],
        ["action", "first_time", "action"],
    ),
    "a held out customer counts for the cooldown, and for no cap": (
        PlainTable((PlainRule("a", holdout=0.5, cooldown=DAY_MS), PlainRule("b")), caps=ONE_IN_A_DAY, salt="7"),
        "2026-06-15T14:00:00Z",
        [at(0, moved(1)), at(1, moved(2)), at(1, moved(3))],
        ["held_out", "cooldown", "action", "cooldown", "cap"],
    ),
    "an order within the delay, a later move, and a goal": (
        PlainTable((PlainRule("a", delay=DAY_MS, unless_order=True, goal=DAY_MS),)),
        "2026-06-15T14:00:00Z",
        [
            at(0, moved(1)),
            at(1, orders=(PlainOrder("placed", "ann", 0, "o-1"),)),
            at(1, moved(2)),
            at(1, moved(3, to="Loyal")),
            at(DAY_MS + 1),
            at(1, orders=(PlainOrder("placed", "ann", 0, "o-2"), PlainOrder("placed", "ann", 0, "o-3"))),
        ],
        ["delay", "ordered", "delay", "moved_on", "delay", "action", "sent"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STORIES)
def test_it_ends_as_it_is_written(name: str) -> None:
    table, start, story, expected = STORIES[name]
    world = ShopWorld([table], ms_at(start))
    for tick in story:
        world.tick(tick)
    world.check()
    found = sorted((each for shard in world.shards for each in shard.decisions()), key=lambda each: each.at)
    for decision, ending in zip(found, expected, strict=True):
        assert f"{decision.campaign} {decision.why or decision.kind}".endswith(ending), (decision, ending)


def test_a_merged_move_that_comes_again_hands_nothing_on() -> None:
    world = ShopWorld([PlainTable((PlainRule("a", first_time=True),))], ms_at("2026-06-15T14:00:00Z"))
    merged = PlainMove("bob", 1, None, None, "merged", 0, "ann")
    for tick in (at(0, merged), at(1, moved(2, customer="bob")), at(1, merged), at(1, moved(1))):
        world.tick(tick)
    world.check()
    assert [each.kind for shard in world.shards for each in shard.decisions()] == ["action", "action"]
