"""The algebra of the states with one step taken out or done wrong: an ordinary property must catch each."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import pytest

from segmentation import aliases, life, links, meaning, rfm, state_tail, union
from segmentation.entries import Entry, Rules
from segmentation.open_state import OpenState
from segmentation.state_bytes import CustomerState
from tests.property import test_merges, test_open_state, test_rfm
from tests.support.data.event_streams import GRACES, WINDOW, Raw, a_scene, raws
from tests.support.mutated_code import Edit, mutated
from tests.support.oracles import batch
from tests.support.paths import ROOT
from tests.unit.segmentation import test_rare_states

MOST: Final = 3_000  # streams that a property may need; most faults show within twenty


class StateMutant(NamedTuple):
    """A fault, where it is made, and the property that must fail."""

    wrong: str
    edit: Edit
    asked: Callable[[random.Random], None]
    rare: bool = False  # it takes seconds until a stream shows it


def inner(property_: Any) -> Any:
    """The property without Hypothesis, which is slow to come upon a rare case."""
    return property_.hypothesis.inner_test


def some_raws(rng: random.Random) -> list[Raw]:
    return raws(rng.randbytes(rng.randint(5, 90)))


def scene(rng: random.Random) -> Any:
    return a_scene(Rules(WINDOW, rng.choice(GRACES), 1_000), some_raws(rng), mixed=rng.random() < 0.5)


def seed(rng: random.Random) -> int:
    return rng.randrange(2**32)


def the_set(rng: random.Random) -> None:
    inner(test_rfm.test_bytes_are_a_function_of_the_set)(scene(rng), seed(rng), seed(rng), rng.randint(0, 400))


def the_life(rng: random.Random) -> None:
    inner(test_rfm.test_the_whole_life_is_a_function_of_the_set)(scene(rng), seed(rng), seed(rng), rng.randint(0, 400))


def the_figures(rng: random.Random) -> None:
    inner(test_rfm.test_figures_are_the_oracles_at_every_step)(scene(rng), seed(rng), rng.random() < 0.5)


def the_cap(rng: random.Random) -> None:
    inner(test_rfm.test_the_cap_folds_what_it_drops)(
        rng.choices(range(300), k=rng.randint(1, 12)), rng.randint(1, 6), rng.randint(0, 400)
    )


def the_fast_path(rng: random.Random) -> None:
    rules = Rules(WINDOW, rng.choice(GRACES), 1_000)
    inner(test_rfm.test_fast_path_equals_slow_path)(
        rules, some_raws(rng), seed(rng), rng.random() < 0.5, rng.choice([1_000, 3]), rng.random() < 0.3
    )


def the_open_state(rng: random.Random) -> None:
    rules = Rules(WINDOW, rng.choice(GRACES), 1_000)
    inner(test_open_state.test_an_open_state_is_the_state_after_each_event)(
        rules, some_raws(rng), seed(rng), rng.random() < 0.5, rng.choice([1_000, 3, 8]), rng.randint(0, 3), False
    )


def the_merges(rng: random.Random) -> None:
    inner(test_merges.test_a_person_of_many_ids_has_the_state_of_one_id)(seed(rng), rng.random() < 0.5)


def the_rare_states(_: random.Random) -> None:
    for name, example in vars(test_rare_states).items():
        if name.startswith("test_"):
            example()


PRECEDENCE: Final[Any] = vars(Entry)["precedence"].fget
FOLD_MONEY: Final = "money = _money(orders, refunds, since, cut, rules)"
OWN_CURRENCY: Final = "e.foreign and e.foreign.currency == own.currency"
MUTANTS: tuple[StateMutant, ...] = (
    StateMutant(
        "a late repeat is folded again", Edit(life.fold, "folded.last < e.time <= cut", "e.time <= cut"), the_life
    ),
    StateMutant("an order on the cut isn't folded", Edit(life.fold, "e.time <= cut and", "e.time < cut and"), the_life),
    StateMutant(
        "refunds aren't folded", Edit(life.fold, FOLD_MONEY, "money = _money(orders, (), 0, 0, rules)"), the_life
    ),
    StateMutant("the money isn't folded", Edit(life.fold, "saturated(folded.money + money)", "folded.money"), the_life),
    StateMutant("refunds by themselves once more at each cut", Edit(life._money, "since < e.time", "e.time"), the_life),
    StateMutant("a refund by itself on the cut is forgotten", Edit(life._money, "<= until", "< until"), the_life),
    StateMutant("the first folded order is forgotten", Edit(life.fold, "*(e.time for e in orders)", ""), the_life),
    StateMutant("the days before are forgotten", Edit(life.fold, "days.union(folded.days)", "days"), the_life),
    StateMutant(
        "a day on both sides of the cut counts twice",
        Edit(life.count_days, " - (bool(folded.days) and folded.days[-1] in coming)", ""),
        the_life,
    ),
    StateMutant("orders up to the cut count once more", Edit(life.life_of, "e.key >= least and ", ""), the_set),
    StateMutant("a refund however late", Edit(life.refunds_of, " < time + rules.window", ""), the_life),
    StateMutant("a refund on the end of its span", Edit(life.refunds_of, "< time +", "<= time +"), the_life, rare=True),
    StateMutant("a refund however early", Edit(life.refunds_of, "time - rules.grace <= ", ""), the_life),
    StateMutant(
        "an erasure keeps what is folded",
        Edit(rfm.settle, "state.folded if erased < min(state.cut, state.folded.first) else", "state.folded if 1 else"),
        the_life,
    ),
    StateMutant(
        "an erasure keeps folded refunds",
        Edit(rfm.settle, "erased < min(state.cut, state.folded.first)", "erased < state.folded.first"),
        the_life,
        rare=True,
    ),
    StateMutant(
        "the cap doesn't fold",
        Edit(rfm.settle, "fold(folded, reading.standing, reading.refunds, before, cut, rules)", "folded"),
        the_cap,
    ),
    StateMutant("revisions are ignored", Edit(PRECEDENCE, "self.revision, ", ""), the_figures),
    StateMutant("the least revision counts", Edit(PRECEDENCE, "self.revision, ", "-self.revision, "), the_figures),
    StateMutant("nobody looks for revisions", Edit(meaning.has_revisions, "any(", "False and any("), the_figures),
    StateMutant("the winner isn't kept", Edit(rfm._greater, "found.append(e)", "pass"), the_set),
    StateMutant("a winner of the event isn't kept", Edit(rfm._greater, ", *by_event.get(e.event, ())", ","), the_set),
    StateMutant(
        "contents a window apart", Edit(meaning._greatest_near, "< e.time + window", "<= e.time + window"), the_figures
    ),
    StateMutant(
        "a content a window before",
        Edit(meaning._greatest_near, "<= e.time - window", "< e.time - window"),
        the_figures,
    ),
    StateMutant("refunds before the cut of orders after it go", Edit(rfm.remnant, "if named:", "if False:"), the_life),
    StateMutant(
        "revisions in another order",
        Edit(state_tail.write_tail, "for e in entries:\n            put", "for e in entries[::-1]:\n            put"),
        the_set,
    ),
    StateMutant(
        "of equally long ways to write days the bitmap",
        Edit(state_tail._put_folded, "len(bitmap) < len(gaps)", "len(bitmap) <= len(gaps)"),
        the_life,
    ),
    StateMutant(
        "the fast path counts a day with each order",
        Edit(rfm.append, "last == NONE or day_of(last) != day_of(time)", "True"),
        the_fast_path,
    ),
    StateMutant(
        "the fast path overlooks folded days", Edit(rfm.append, "(not tail or last > cut)", "True"), the_fast_path
    ),
    StateMutant("the fast path loses a revision", Edit(rfm.append, "put_revision(longer, e)", "pass"), the_fast_path),
    StateMutant(
        "the fast path forgets the first order", Edit(rfm.append, "min(life_first, time)", "time"), the_fast_path
    ),
    StateMutant(
        "an open state forgets what is folded",
        Edit(OpenState._life, "folded.orders + self._current.orders", "self._current.orders"),
        the_open_state,
    ),
    StateMutant(
        "an open state drops without folding",
        Edit(OpenState._add, " if dropped else ", " if False else "),
        the_open_state,
    ),
    StateMutant(
        "what leaves an open state isn't folded",
        Edit(OpenState._leave, "folded = fold(folded, now.standing", "_ = fold(folded, now.standing"),
        the_open_state,
    ),
    StateMutant(
        "orders leave the window of an open state and still count",
        Edit(OpenState._leave, "+ now.frequency - was.frequency", ""),
        the_open_state,
    ),
    StateMutant(
        "an open state counts days for good", Edit(OpenState._count_day, "+= by", "+= max(by, 0)"), the_open_state
    ),
    StateMutant(
        "a refund in its order's currency is converted by itself", Edit(meaning.net, OWN_CURRENCY, "False"), the_figures
    ),
    StateMutant(
        "a refund in a third currency counts as in its order's",
        Edit(meaning.net, OWN_CURRENCY, "e.foreign"),
        the_figures,
    ),
    StateMutant("half a ten-thousandth is rounded up", Edit(meaning.converted, " and whole & 1", ""), the_figures),
    StateMutant(
        "the fast path loses what was paid", Edit(rfm.append, "with_foreign(tail, n, foreign)", "tail"), the_fast_path
    ),
    StateMutant("the paid amount isn't written", Edit(state_tail.write_tail, "if e.foreign]", "if 0]"), the_set),
)

LINKS: Final[Any] = vars(aliases._Taken)["links"].fget
HOLDS_ANYTHING: Final[Any] = vars(CustomerState)["holds_anything"].fget
MUTANTS += (
    StateMutant("a cycle of merges has no end", Edit(links.root_of, "== e.source", "== None"), the_merges),
    StateMutant(
        "any merge within a person decides",
        Edit(links.root_of, "roots.get(source, source) == e.source", "True"),
        the_merges,
    ),
    StateMutant(
        "of one merge the first counts",
        Edit(links.view, "in sorted(edges) if", "in sorted(edges)[::-1] if"),
        the_merges,
    ),
    StateMutant(
        "a merge that decided is forgotten",
        Edit(links.joined, "if len(own) > 1 and not any(own[-2] < x < own[-1] for x in found):", "if own:"),
        the_merges,
        rare=True,
    ),
    StateMutant(
        "a root keeps merges for itself",
        Edit(links.addressees, "reached = members_of(learned.now)", "reached = set()"),
        the_merges,
    ),
    StateMutant("every merge is a leaf", Edit(links._is_leaf, "and len(own) == 1", ""), the_merges),
    StateMutant(
        "merges are in force before they were known",
        Edit(links.view, "stamp is None or e.learned < stamp", "True"),
        the_merges,
        rare=True,
    ),
    StateMutant(
        "the union takes the earlier cut", Edit(union.united, "cut = max(", "cut = min("), the_merges, rare=True
    ),
    StateMutant("the union folds nothing", Edit(union._folded_up_to, "side.cut == cut", "True"), the_merges, rare=True),
    StateMutant(
        "the union keeps one id's days", Edit(union._sum, "{*one.days, *other.days}", "one.days"), the_merges, rare=True
    ),
    StateMutant(
        "the union forgets the other's first order",
        Edit(union.united, "first=min(side.first for side in sides)", "first=own.first"),
        the_merges,
        rare=True,
    ),
    StateMutant(
        "a package counts twice",
        Edit(aliases._taken, "if state.links.has_received(", "if False and state.links.has_received("),
        the_merges,
        rare=True,
    ),
    StateMutant(
        "packages aren't remembered", Edit(LINKS, "self.link.state is not None", "False"), the_merges, rare=True
    ),
    StateMutant(
        "an alias keeps what is given",
        Edit(aliases._hand_on, "(taken.state, taken.given)", "(taken.state,)"),
        the_merges,
        rare=True,
    ),
    StateMutant(
        "an alias keeps its own", Edit(aliases._hand_on, "(taken.state, taken.given)", "(taken.given,)"), the_merges
    ),
    StateMutant("an alias drops events", Edit(aliases._hand_on, "if taken.link is None:", "if False:"), the_merges),
    StateMutant(
        "an alias is in its segment still", Edit(aliases._become_alias, "if not state.segment:", "if True:"), the_merges
    ),
    StateMutant(
        "a winner over a winner isn't kept",
        Edit(rfm._greater, "            give_way(e)\n    return", "    return"),
        the_rare_states,
    ),
    StateMutant(
        "an alias forgets the root before",
        Edit(links.addressees, "{root_of(learned.before, customer), root}", "{root}"),
        the_rare_states,
    ),
    StateMutant(
        "an erasure spares what the other id has folded",
        Edit(union.united, "{*state.entries, *stones}", "state.entries"),
        the_rare_states,
    ),
    StateMutant("a cut alone is nothing", Edit(HOLDS_ANYTHING, " or self.cut != NONE", ""), the_rare_states),
    StateMutant(
        "the union of a full state isn't full",
        Edit(union.united, "any(side.capped for side in sides)", "own.capped"),
        the_rare_states,
    ),
)


@pytest.fixture(autouse=True)
def _days_on_a_small_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (life, batch):
        monkeypatch.setattr(module, "DAY_MS" if module is life else "DAY", 30)
    for test in (test_rfm, test_open_state):  # Hypothesis isn't there to take notes
        monkeypatch.setattr(test, "event", lambda _: None)


def called(mutant: StateMutant) -> str:
    return re.sub(r"\W+", "-", mutant.wrong)


@pytest.mark.parametrize(
    "mutant", [pytest.param(m, id=called(m), marks=[pytest.mark.slow] if m.rare else []) for m in MUTANTS]
)
def test_a_property_catches_it(mutant: StateMutant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutant.edit.function, "__code__", mutated(mutant.edit).__code__)
    with pytest.raises((AssertionError, ValueError)):  # bytes that can't be written are caught, too
        ask(mutant, random.Random(1))


def ask(mutant: StateMutant, rng: random.Random) -> None:
    for _ in range(MOST):
        mutant.asked(rng)


def test_the_documentation_lists_them() -> None:
    page = (ROOT / "docs" / "explanation" / "state-format.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| `(the_\w+)` \|$", page, re.MULTILINE)
    assert rows == [(mutant.wrong, mutant.asked.__name__) for mutant in MUTANTS]
