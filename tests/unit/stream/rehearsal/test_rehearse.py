from __future__ import annotations

import csv
import pickle
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from segmentation.campaign_rules import default_rules
from segmentation.entries import DAY_MS, Rules
from segmentation.event_text import iso
from stream.cli import app
from stream.orders.files import OrderFileError
from stream.orders.rows import OrderRow, merged, parse_at, placed, refunded
from stream.rehearsal import rehearse as module
from stream.rehearsal.columns import ReplaySpan
from stream.rehearsal.discounts import discount_of
from stream.rehearsal.histories import Share, read_histories
from stream.rehearsal.page import page
from stream.rehearsal.rehearse import (
    ModelFileError,
    NothingToRehearse,
    Rehearsal,
    RehearsalRequest,
    model_of_file,
    rehearse,
)
from stream.rehearsal.replay import HistoryReplay
from stream.rehearsal.sentences import summary
from tests.support.data import report_cases as cases
from tests.support.data.clock_models import clock_model

LOST = next(segment.id for segment in clock_model().segments if segment.stage == "lost")
SINCE, NOW = parse_at("2021-01-01"), parse_at("2023-01-01")
RULES = """
version: 2
rules:
  - name: win-back
    when: {to: [Lost], cause: [silence]}
    then: {action: Win-back with 20 % off, channel: email}
  - name: welcome
    when: {to: [New], cause: [first]}
    then: {action: Welcome series, channel: email}
"""


def monthly(name: str, orders: int, first_ms: int) -> list[OrderRow]:
    """Return one order of 50 every 30 days."""
    return [placed(f"{name}-{n}", name, first_ms + n * 30 * DAY_MS, 500_000, "USD") for n in range(orders)]


def shop() -> list[OrderRow]:
    """Return a customer who is lost and comes back five days later, one who stays away, and a new one."""
    back, away = monthly("back", 6, SINCE - 170 * DAY_MS), monthly("away", 6, SINCE - 160 * DAY_MS)
    histories, _ = read_histories(lambda: [*back, *away], "USD", NOW)
    (group,) = HistoryReplay(clock_model(), Rules()).run(histories, ReplaySpan(SINCE, NOW))
    lost = next(at for at, to in zip(group.moves.at.tolist(), group.moves.target.tolist(), strict=True) if to == LOST)
    again = placed("again", "back", lost + 5 * DAY_MS, 300_000, "USD")
    return [*back, *away, again, placed("new", "new", NOW - 60 * DAY_MS, 10_000, "USD")]


def written(path: Path, rows: list[OrderRow]) -> Path:
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["order_id", "customer_id", "ordered_at", "amount", "currency", "kind", "merged_into"])
        for row in rows:
            kind = {"placed": "order", "merged": "merge"}.get(row.kind, "refund")
            amount = row.amount_units / 10_000
            lines.writerow(
                [row.order_id, row.customer_id, iso(row.at_ms), amount, row.currency, kind, row.merged_into or ""]
            )
    return path


def request(file: Path, rules: str = RULES, **changes: object) -> RehearsalRequest:
    wanted = RehearsalRequest(
        file=file,
        file_format=None,
        currency="USD",
        model=clock_model().to_json(),
        rules_text=rules,
        rules=Rules(),
        dwell_ms=0,
        since_ms=SINCE,
        until_ms=NOW,
        now_ms=NOW,
        discount_share=0.1,
        processes=2,
    )
    return msgspec.structs.replace(wanted, **changes)


def trained(as_of_ms: int) -> bytes:
    """Return the model, trained as of an instant."""
    model = clock_model()
    training = model.training.model_copy(update={"as_of": datetime.fromtimestamp(as_of_ms / 1000, UTC)})
    return clock_model(training=training).to_json()


def test_a_discount_to_somebody_who_bought_anyway_is_counted_with_its_cost(tmp_path: Path) -> None:
    found = rehearse(request(written(tmp_path / "orders.csv", shop())))
    win_back, welcome = found.campaigns
    assert (win_back.campaign, win_back.actions, win_back.followed, win_back.bought_anyway) == ("win-back", 2, 2, 1)
    assert (win_back.discount, win_back.cost) == (0.2, 6.0)  # a fifth of 30
    assert (welcome.campaign, welcome.actions, welcome.discount, welcome.cost) == ("welcome", 1, None, 0.0)
    assert (found.actions, found.discounts, found.discounts_anyway, found.discount_cost) == (3, 2, 1, 6.0)
    assert found.customers == 3
    assert found.moves == sum(flow.moves for flow in found.flows)
    assert sum(found.by_cause.values()) == pytest.approx(1.0)


def test_more_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(found: Rehearsal) -> Rehearsal:
        return msgspec.structs.replace(found, seconds=0.0, orders_per_s=0.0, flows=tuple(sorted(found.flows, key=str)))

    file = written(tmp_path / "orders.csv", shop())
    alone = rehearse(request(file))
    monkeypatch.setattr(module, "_ALONE", 0)
    assert bare(rehearse(request(file))) == bare(alone)


def test_a_time_without_orders_is_refused_with_what_the_file_has(tmp_path: Path) -> None:
    file = written(tmp_path / "orders.csv", shop())
    with pytest.raises(NothingToRehearse) as refused:
        rehearse(request(file, since_ms=NOW, until_ms=NOW + DAY_MS))
    # As it comes from another process.
    message = str(pickle.loads(pickle.dumps(refused.value)))
    assert "no order comes from 2023-01-01T00:00:00.000Z on and before the end" in message
    assert "Its orders are of 2020-07-15 to 2022-11-02: give --since in between." in message


def test_rows_that_can_t_be_used_are_counted(tmp_path: Path) -> None:
    rows = [*shop(), placed("e", "e", SINCE, 1, "EUR"), placed("ahead", "back", NOW + DAY_MS, 1, "USD")]
    found = rehearse(request(written(tmp_path / "orders.csv", rows)))
    assert found.left_out == {"in EUR": 1, "dated_ahead": 1}
    assert found.orders == len(rows) - 2


def test_wrong_inputs_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "orders.csv", shop())
    with pytest.raises(NothingToRehearse, match="the campaign rules: line 1"):
        rehearse(request(file, rules="[]"))
    with pytest.raises(ModelFileError, match=r"orders\.csv: .*segtrainer run --out"):
        model_of_file(file)
    with pytest.raises(ModelFileError, match=r"none\.json: No such file"):
        model_of_file(tmp_path / "none.json")
    with pytest.raises(OrderFileError, match=r"missing\.csv"):
        rehearse(request(tmp_path / "missing.csv"))
    ahead = placed("o", "c", NOW + 1, 1, "USD")
    with pytest.raises(NothingToRehearse, match=r"no row can be used; left out: 1 dated_ahead\. docs"):
        rehearse(request(written(tmp_path / "none.csv", [ahead])))
    euros = [placed(f"{n}", "c", SINCE, 1, code) for n, code in enumerate(["CHF", "EUR", "EUR"])]
    with pytest.raises(NothingToRehearse, match=r"1 in CHF, 2 in EUR\. .* takes USD: set SEGSTREAM_CURRENCY=EUR if"):
        rehearse(request(written(tmp_path / "none.csv", [ahead, *euros])))


def test_a_report_and_a_folder_in_place_of_a_model_name_the_model(tmp_path: Path) -> None:
    outcome = cases.outcome()
    report, model = tmp_path / "report.json", tmp_path / f"model-{outcome.version}.json"
    report.write_bytes(outcome.to_json())
    model.write_bytes(b"{}")
    with pytest.raises(ModelFileError) as refused:
        model_of_file(report)
    assert str(refused.value) == f"{report} is the report of a training. The model is {model}."
    command = ["rehearse", "--from", str(report), "--since", "2021-01-01", "--model", str(tmp_path)]
    done = CliRunner().invoke(app, command)
    assert str(done.exception) == f"{tmp_path} is a folder. Give the file of the model in it: {model}."
    report.write_bytes(b'{"version": "x", ' + b", ".join(b'"f%d": "%s"' % (n, b"y" * 999) for n in range(99)) + b"}")
    with pytest.raises(ModelFileError, match="and 98 more") as refused:
        model_of_file(report)
    assert len(str(refused.value)) < 2_000


def test_merged_ids_are_one_customer() -> None:
    rows = [*monthly("one", 2, SINCE), *monthly("two", 3, SINCE + DAY_MS), merged("one", "two", NOW - DAY_MS, "USD")]
    for number in range(2):
        found, facts = read_histories(lambda: rows, "USD", NOW, Share(number, 2))
        if Share(number, 2).has(b"two"):
            assert {name: len(own) for name, own in found.items()} == {b"two": 5}
            assert [e.time for e in found[b"two"]] == sorted(e.time for e in found[b"two"])
        else:
            assert not found
        assert facts.rows == 5


def test_equal_refunds_at_one_instant_are_two() -> None:
    half = refunded("o", "c", SINCE + DAY_MS, 10_000, "USD", names_order=True)
    found, _ = read_histories(lambda: [placed("o", "c", SINCE, 20_000, "USD"), half, half], "USD", NOW)
    assert len(found[b"c"]) == 3


@pytest.mark.parametrize(
    ("action", "share"),
    [
        ("Win-back with 20 % off", 0.2),
        ("12,5% discount on everything", 0.125),
        ("Second-order voucher", 0.1),
        ("VIP offers and early access", None),
        ("98 % of our customers like it", None),
        ("Personal call", None),
        ("Reminder, no discount", None),
        ("Reminder without a further discount, 98 % like it", None),
        ("This is not a 20 % voucher", None),
        ("No 12,5 % discount", None),
        ("Not just a reminder: 20 % off", 0.2),
        ("No points but 15 % off", 0.15),
        ("30 percent rebate", 0.3),
        ("5 per cent off", 0.05),
        ("Save 15 %", 0.15),
        ("Save up to 15 percent", 0.15),
        ("15 % cheaper", 0.15),
        ("Rabatt 20 %", 0.2),
        ("20 % Rabatt", 0.2),
        ("Gutschein: 25 %", 0.25),
        ("Kein Rabatt", None),
        ("Voucher: 98 % of our customers like it", 0.1),
        ("5 € off", 0.1),
        ("$10 off your next order", 0.1),
        ("Save 5 EUR", 0.1),
        ("100 % off the cheapest", 1.0),
        ("300 % off", 1.0),
        ("100 % off delivery", None),
        ("20 % off and 100 % off your delivery", 0.2),
        ("Save the date", None),
        ("Day off", None),
    ],
)
def test_actions_that_take_something_off_are_discounts(action: str, share: float | None) -> None:
    assert discount_of(action, 0.1) == share


def test_the_campaigns_taken_for_discounts_are_named(tmp_path: Path) -> None:
    file = written(tmp_path / "orders.csv", shop())
    taken = "Taken for discounts, by their actions' words: win-back (20%)."
    assert taken in summary(rehearse(request(file)))
    rules = RULES.replace("Win-back with 20 % off", "Reminder without discount")
    assert "Taken for discounts, by their actions' words: none." in summary(rehearse(request(file, rules=rules)))
    assert escape(taken) in page(rehearse(request(file)))


IDLE = """
  - name: typo
    when: {from: [Champions, null], to: [Lostt, "Loyal"]}
    then: {action: Reminder, channel: email}
  - name: again
    when: {to: [Lost], cause: [silence]}
    then: {action: Call, channel: email}
"""


def test_rules_that_can_t_act_are_named(tmp_path: Path) -> None:
    found = rehearse(request(written(tmp_path / "orders.csv", shop()), rules=RULES + IDLE, model=trained(SINCE)))
    names = ", ".join(segment.name for segment in clock_model().segments)
    assert found.warnings == (
        f"rule 'typo': the model has no segment Lostt; it has {names}",
        "line 12, rule 3 ('typo'), when.to: 'Lostt': did you mean Lost?",
        "line 14, rule 4 ('again'): never acts: 'win-back' before it matches all its moves; move it up",
    )
    assert [(one.campaign, one.actions) for one in found.campaigns[2:]] == [("again", 0), ("typo", 0)]
    assert "No action: again, typo." in summary(found)
    for warning in found.warnings:
        assert f"<strong>Warning:</strong> {escape(warning)}." in page(found)


def test_rules_may_ask_for_figures_in_the_window(tmp_path: Path) -> None:
    file = written(tmp_path / "orders.csv", shop())
    for bounds, actions in (
        ("frequency: {at_least: 6}", 2),
        ("frequency: {at_most: 5}", 0),
        ("monetary: {at_least: 300, at_most: 300}", 2),
        ("recency_days: {at_least: 30}", 2),
        ("recency_days: {at_most: 30}", 0),
    ):
        rules = RULES.replace("cause: [silence]", f"cause: [silence], rfm: {{{bounds}}}")
        assert [one.actions for one in rehearse(request(file, rules)).campaigns if one.campaign == "win-back"] == [
            actions
        ]


def test_what_orders_lack_is_warned_of(tmp_path: Path) -> None:
    rules = RULES.replace("channel: email}", "channel: email}\n    consent: required", 1) + "    budget: {per_day: 9}\n"
    found = rehearse(request(written(tmp_path / "orders.csv", shop()), rules, model=trained(SINCE)))
    assert found.warnings == (
        "no order says who has granted a channel, so rules that need consent don't act: 'win-back'",
        "budgets don't count here, so there may be too many actions of: 'welcome'",
    )
    assert [one.actions for one in found.campaigns] == [1, 0]


def test_the_built_in_rules_may_name_segments_of_other_recipes(tmp_path: Path) -> None:
    file = written(tmp_path / "orders.csv", shop())
    assert rehearse(request(file, rules=default_rules(), model=trained(SINCE))).warnings == ()
    own = default_rules() + "\n# of our own"
    assert any("no segment" in warning for warning in rehearse(request(file, rules=own)).warnings)


def test_a_model_that_has_seen_the_time_is_warned_of(tmp_path: Path) -> None:
    file = written(tmp_path / "orders.csv", shop())
    assert rehearse(request(file, model=trained(SINCE))).warnings == ()
    (warning,) = rehearse(request(file, model=trained(SINCE + DAY_MS))).warnings
    assert "trained as of 2 January 2021, and the rehearsal begins on 1 January 2021" in warning
    assert "`segtrainer run --as-of 2021-01-01`" in warning


def test_the_page_says_what_would_have_happened(tmp_path: Path) -> None:
    rules = RULES.replace("Win-back with", "<b>Win-back</b> with")
    text = page(rehearse(request(written(tmp_path / "orders.csv", shop()), rules=rules)))
    assert "Had this run from 1 January 2021 to 1 January 2023 (730 days) over 3 customers:" in text
    assert "1 of 2 discounts went to customers who ordered within 30 days without one" in text
    assert "&lt;b&gt;Win-back&lt;/b&gt; with 20 % off" in text
    assert "<script" not in text
    assert "http" not in text


def test_the_command_writes_page_and_figures(tmp_path: Path) -> None:
    model = tmp_path / "model.json"
    model.write_bytes(clock_model().to_json())
    file = written(tmp_path / "orders.csv", shop())
    arguments = ["rehearse", "--from", str(file), "--since", "2021-01-01", "--model", str(model)]
    done = CliRunner().invoke(app, [*arguments, "--json", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    found = msgspec.json.decode((tmp_path / "out" / "rehearsal.json").read_bytes(), type=Rehearsal)
    assert found.customers == 3
    assert (tmp_path / "out" / "rehearsal.html").read_text().startswith("<!doctype html>")
    assert f'"moves":{found.moves},' in done.output
    (warning,) = found.warnings
    assert "trained as of 1 January 2026" in warning
    plain = CliRunner().invoke(app, arguments)
    assert f"segstream: {warning}." in plain.stderr
    assert "moves from segment to segment" in plain.output
