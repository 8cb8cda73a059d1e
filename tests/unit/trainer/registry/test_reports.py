from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.support.data.report_cases import outcome, refused
from trainer.outcome import Fit, Gate, TrainingOutcome
from trainer.registry.contents import ActivationRecord, TopicContents, Version
from trainer.registry.reports import KeptReport, NoReport, choose, write
from trainer.report.render import html, markdown
from trainer.training.plan import MOST_K

if TYPE_CHECKING:
    from pathlib import Path

# The largest record that a broker accepts by default, with its overhead: max.message.bytes.
KAFKA_TAKES = 1_048_588
VERSION = outcome(customers=60).version or ""


def stored(found: TrainingOutcome) -> KeptReport:
    """Return the report that is read from the stored bytes."""
    return KeptReport.from_bytes(found.version or "", KeptReport.of(found).to_bytes())


def test_a_kept_report_is_read_back_as_written() -> None:
    found = outcome(customers=400)
    report = stored(found)
    assert (report.html, report.markdown) == (html(found), markdown(found))
    assert TrainingOutcome.from_json(bytes(report.outcome)) == msgspec.structs.replace(found, sample=None)
    # The charts are drawn from the sample: without it the page would be different.
    assert report.html != html(TrainingOutcome.from_json(bytes(report.outcome)))


def test_customers_one_by_one_are_not_kept() -> None:
    found = outcome(5, customers=400)
    assert found.sample is not None
    amounts = [repr(amount) for amount in found.sample.features[2].values if len(repr(amount)) > 8]
    text = zlib.decompress(KeptReport.of(found).to_bytes()).decode()
    shown = sum(amount in text for amount in amounts)
    # Minimum, median and maximum of a segment, or of all, may be a customer's, but not whose.
    assert shown <= 3 * (5 + 1) < 100 < len(amounts)


@pytest.mark.parametrize(
    ("k", "customers", "most"), [(5, 3_000, 60_000), (8, 20_000, 60_000), (MOST_K, 20_000, 250_000)]
)
def test_a_report_of_any_run_is_far_below_what_kafka_takes(k: int, customers: int, most: int) -> None:
    names = [f"{number:02} " + "the quick brown fox jumps over the lazy dog and a hedge"[:60] for number in range(k)]
    found = outcome(k, customers, names=names, foreseen=True)
    gate = Gate(name="stability", value=0.123456789, limit=0.8, bound="least", passed=False)
    fits = tuple(
        Fit(
            transform=t,
            k=n,
            inertia=1e5 / n,
            silhouette=1 / n,
            davies_bouldin=0.7,
            stability=0.5 / n,
            gates=(gate,) * 3,
        )
        for t in ("yeo-johnson", "log1p", "identity")
        for n in range(2, MOST_K + 1)
    )
    size = len(KeptReport.of(msgspec.structs.replace(found, fits=fits, chosen=0)).to_bytes())
    assert size < most < KAFKA_TAKES // 4


def test_a_run_that_made_no_model_has_nothing_to_keep_it_under() -> None:
    with pytest.raises(ValueError, match="expected that of a run that made a model"):
        KeptReport.of(refused())


WHOLE = KeptReport.of(outcome(customers=60)).to_bytes()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "cut off"),
        (WHOLE[:-5], "cut off"),
        (WHOLE[:40] + b"\0\0\0\0" + WHOLE[44:], "Error -3"),
        (b"{}", "Error -3"),
        (zlib.compress(b"{}"), "missing required field"),
        (zlib.compress(b'{"version":"\xff"}'), "utf-8"),
        (zlib.compress(b'{"format":2,"version":"x"}'), "Invalid enum value 2"),
        (zlib.compress(bytes(33 * 1024 * 1024)), "far too large"),
    ],
    ids=["empty", "cut", "flipped", "plain", "other", "not-utf8", "newer", "bomb"],
)
def test_other_content_than_a_report_is_reported(value: bytes, message: str) -> None:
    with pytest.raises(
        NoReport, match=rf"the record of model {VERSION} isn't a report .*{message}.*nothing but the report"
    ):
        KeptReport.from_bytes(VERSION, value)


def test_the_report_of_another_model_is_reported() -> None:
    with pytest.raises(NoReport, match=f"record of model 0123 .*it is that of model {VERSION}"):
        KeptReport.from_bytes("0123", WHOLE)


def topic(*versions: str, active: str | None = None) -> TopicContents:
    # Only the versions count here.
    found = TopicContents(versions=dict.fromkeys(versions, Version(None, None)))  # type: ignore[arg-type]  # as above
    found.history = (ActivationRecord(1, active),) if active else ()
    return found


def test_the_beginning_of_a_version_is_enough() -> None:
    published = topic("aa11", "ab22", "b", active="ab22")
    kept = ["aa11", "ab22", "b", "bc33"]
    for asked, meant in ((None, "ab22"), ("aa", "aa11"), ("ab22", "ab22"), ("bc", "bc33"), ("b", "b")):
        assert choose(asked, published, kept) == meant


@pytest.mark.parametrize(
    ("asked", "kept", "message"),
    [
        ("a", ["aa11"], r"2 models have a version that begins with 'a': aa11, ab22\. Give more characters of it\."),
        ("", ["aa11"], r"2 models have a version that begins with ''"),
        ("x", ["aa11"], r"no model has a version that begins with 'x'\. Reports are kept of aa11\."),
        ("ab", ["aa11"], r"no report of model ab22 is kept: .* Reports are kept of aa11\."),
        ("ab", [], r"no report of model ab22 is kept: .* No reports are kept; `segtrainer run`"),
        (None, ["aa11"], r"no model is active, and no VERSION was given\. Reports are kept of aa11\."),
    ],
)
def test_a_missing_report_is_answered_with_the_kept_ones(asked: str | None, kept: list[str], message: str) -> None:
    with pytest.raises(NoReport, match=message):
        choose(asked, topic("aa11", "ab22"), kept)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NoReport, match=r"file/deeper can't be written: .* Give another --out\."):
        write(KeptReport.of(outcome(customers=60)), tmp_path / "file" / "deeper")
