"""Streams of events of one customer, drawn where the borders of window and grace lie."""

from __future__ import annotations

import random
from fractions import Fraction
from functools import cache
from typing import NamedTuple

from hypothesis import strategies as st

from segmentation.entries import Foreign
from segmentation.rfm import Entry, Kind, Rules, entry
from tests.support.oracles.batch import OracleEvent, related, takes

WINDOW = 100
SMALL = Rules(WINDOW, 15, 1_000)
GRACES = (15, 15, 0, 130)  # also none, and one beyond the window


@cache
def made(e: OracleEvent) -> Entry:
    made = entry(e.kind, e.id, e.time, order=e.order, amount=e.amount, revision=e.revision)
    return made._replace(foreign=Foreign(*e.foreign)) if e.foreign else made


Raw = tuple[int, int, int, int, int, int]
KINDS = [Kind.PLACED] * 4 + [Kind.REFUNDED] * 2 + [Kind.CANCELLED] * 3 + [Kind.ERASED]
KINDS += [Kind.PLACED] * 5 + [Kind.CANCELLED] * 2 + [Kind.REFUNDED] * 3


class Scene(NamedTuple):
    rules: Rules
    events: set[OracleEvent]


def raws(text: bytes) -> list[Raw]:
    """Five bytes an event: much faster to generate than tuples of integers."""
    five = (text[i : i + 5] for i in range(0, len(text) - 4, 5))
    return [
        (b[0] % 20, b[1] % 15, (b[2] + (b[3] & 1) * 256) % 320, b[3] // 2 % 6, b[4] % 4, b[4] // 4 % 8) for b in five
    ]


sizes = st.one_of(
    st.binary(min_size=5, max_size=30), st.binary(min_size=30, max_size=80), st.binary(min_size=50, max_size=90)
)
many_raw = sizes.map(raws)
rule_sets = st.sampled_from([Rules(WINDOW, grace, 1_000) for grace in GRACES])


def a_time(n: int, rules: Rules) -> int:
    """Half of the times anywhere, half within a hair of a whole window and some graces, where the borders are."""
    if n < 160:
        return 2 * n
    windows, graces, hair = (n - 160) // 40, (n - 160) % 40 // 5 // 2, (n - 160) % 5
    return windows * rules.window + graces * rules.grace + max(hair - 2, 0)


def an_event(x: Raw, rules: Rules) -> OracleEvent:
    kind, time, amount = KINDS[x[0]], a_time(x[2], rules), x[4]
    if kind == Kind.ERASED:
        return OracleEvent(kind, "", time)
    single = f"{x[0]}.{x[2]}.{x[4]}"  # an id that is nobody else's
    order = None if kind == Kind.REFUNDED and x[3] == 5 else f"o{x[3]}" if x[3] < 3 else single
    # Of every eight placements three have a revision, so that a customer may have both.
    revision = max(x[5] - 5, -1) if kind == Kind.PLACED else -1
    name = f"e{x[1]}" if x[1] < 8 else single
    return OracleEvent(kind, name, time, order, 0 if kind == Kind.CANCELLED else amount, revision)


def in_currencies(e: OracleEvent) -> OracleEvent:
    """Return an order or a refund as paid in one of two other currencies, or as it is; most refunds as their order.

    The rate is that of the event's day, and so odd that amounts of a few ten-thousandths lie between two whole ones.
    """
    name = e.order if e.order and e.amount != 3 else e.id
    currency = (0, 13_991, 0, 1, 13_991)[sum(name.encode()) % 5]
    if not currency or e.kind not in (Kind.PLACED, Kind.REFUNDED):
        return e
    rate = 500_000_000_000 + e.time // 30 % 4 * 333_333_333_333 * (currency % 3)
    paid = e.amount * (1 if e.time % 2 else 1_001)
    return e._replace(foreign=(currency, paid, rate), amount=round(Fraction(paid * rate, 10**12)))


Arrival = tuple[int, OracleEvent | None]  # clock, event (None: a visit by the clock alone)


def stream(scene: Scene, seed: int, *, punctual: bool, prompt: bool = False) -> list[Arrival]:
    """Return every event at least once, each at its clock, early by at most 5.

    `punctual`: events that take another's effect away first come at most a grace late, repetitions at any time.
    `prompt`: refunds too, and orders less than a window late. Contents with revisions come at most a grace late always.
    """
    rng, (rules, events) = random.Random(seed), scene
    out: list[Arrival] = []
    for e in sorted(events, key=str):
        most = rules.window - 1 if prompt else 400
        edit = any(related(e, o) and max(e.revision, o.revision) >= 0 for o in events)
        if edit or (punctual and takes(e, events)) or (prompt and e.kind == Kind.REFUNDED):
            most = min(most, rules.grace) if e.kind == Kind.PLACED else rules.grace
        late = min(most, rng.choice((0, 0, rules.grace, rng.randint(-5, rules.grace), rng.randint(-5, most))))
        again = [late + rng.choice((0, 1, rng.randint(0, 400))) for _ in range(rng.choice((0, 0, 1, 2)))]
        out += [(e.time + delay, e) for delay in (late, *again)]
    times = [e.time for e in events] or [0]
    reach = (rules.window, rules.window + rules.grace, 2 * rules.window)
    out += [(rng.choice(times) + rng.choice(reach) + rng.randint(-1, 1), None) for _ in range(rng.randint(0, 4))]
    rng.shuffle(out)
    return sorted(out, key=lambda a: a[0])


def a_scene(rules: Rules, xs: list[Raw], mixed: bool = False) -> Scene:
    events = (an_event(x, rules) for x in xs)
    return Scene(rules, {in_currencies(e) for e in events} if mixed else set(events))


scenes = st.builds(a_scene, rule_sets, many_raw)
mixed_scenes = st.builds(a_scene, rule_sets, many_raw, st.booleans())  # half of them in several currencies
seeds = st.integers(0, 2**32)
