"""The worker's feed, the commands and the trainer read the same from the models topic."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from segmentation.model import Feature, Segment, SegmentModel, Training
from stream.models.feed import ModelFeed
from stream.models.topic import published
from stream.settings import Settings
from trainer.registry.contents import contents as contents_for_training

Records = list[tuple[bytes | None, bytes | None]]


@dataclass
class TopicRecord:
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


def _model(margin: float) -> SegmentModel:
    recency, frequency, monetary = (
        Feature(name=name, transform="log1p", mean=1.0, scale=1.0) for name in ("recency_days", "frequency", "monetary")
    )
    segments = (
        Segment(id=1, name="Champions", action="", centroid=(0.0, 1.0, 2.0)),
        Segment(id=2, name="Lost", action="", centroid=(2.0, -1.0, -1.0)),
    )
    training = Training(
        as_of=datetime(2011, 12, 10, tzinfo=UTC),
        customers=1,
        k=2,
        silhouette=None,
        inertia=None,
        shares={},
        feature_means={},
        seed=1,
    )
    return SegmentModel(
        parent=None, features=(recency, frequency, monetary), segments=segments, margin=margin, training=training
    )


GOOD, OTHER = _model(0.25), _model(0.5)
KEY, VALUE = GOOD.version.encode(), GOOD.to_json()


def _active(version: str) -> tuple[bytes, bytes]:
    return b"active", b'{"version":"%s"}' % version.encode()


def _active_versions(records: Records) -> tuple[str, str, str]:
    """The active version ("": none) by the worker, the commands and the trainer."""
    feed = ModelFeed(Settings(), lambda model, names: (model, names))
    for offset, (key, value) in enumerate(records, start=1):
        feed.take(key, value, offset)
    feed.caught_up.set()  # before, it reports none
    there = [TopicRecord(offset, key, value) for offset, (key, value) in enumerate(records, start=1)]
    found = published(there).active
    lineage = contents_for_training(there).lineage()
    return (
        feed.latest().version,
        found.version if found else "",
        lineage.active.version if lineage.active else "",
    )


@pytest.mark.parametrize(
    "broken",
    [
        (OTHER.version.encode(), VALUE),  # a good model under a key that isn't its own
        (KEY, b"\xff\xfe"),
        (b"\xff\xfe", VALUE),
        (b"\xff\xfe", b"\xff\xfe"),
        (None, VALUE),
        (None, None),
        (KEY, None),
        (b"active", None),
        (b"active", b"\xff"),
        (b"active", b'{"version":"\xff"}'),
        (b"active", b'{"version":null}'),
        (b"active", b"[" * 100_000),
        _active("0123456789abcdef"),
        _active(OTHER.version),
        (b"candidate", b"\xff"),
    ],
)
def test_all_readers_skip_a_broken_record(broken: tuple[bytes | None, bytes | None]) -> None:
    assert _active_versions([broken, (KEY, VALUE), broken, _active(GOOD.version), broken]) == (GOOD.version,) * 3


def test_no_reader_accepts_a_model_under_another_key() -> None:
    assert _active_versions([(OTHER.version.encode(), VALUE), _active(GOOD.version)]) == ("", "", "")
    assert _active_versions([(b"\xff", VALUE), _active(GOOD.version)]) == ("", "", "")


def test_the_last_activation_counts() -> None:
    both: Records = [(KEY, VALUE), (OTHER.version.encode(), OTHER.to_json())]
    assert _active_versions([*both, _active(GOOD.version), _active(OTHER.version)]) == (OTHER.version,) * 3


def _candidates(records: Records) -> tuple[str | None, str | None]:
    """The candidate by the commands and the trainer."""
    there = [TopicRecord(offset, key, value) for offset, (key, value) in enumerate(records)]
    found = published(there).candidate
    return found.version if found else None, contents_for_training(there).candidate


def test_a_candidate_is_the_last_usable_one_that_was_named() -> None:
    named = (b"candidate", b'{"version":"%s"}' % KEY)
    assert _candidates([(KEY, VALUE), named]) == (GOOD.version,) * 2
    assert _candidates([named, (KEY, VALUE)]) == (None, None)
    assert (
        _candidates([(KEY, VALUE), named, (b"candidate", b"["), (b"candidate", b'{"version":"x"}')])
        == (GOOD.version,) * 2
    )
    assert _candidates([(KEY, VALUE), named, (b"candidate", None)]) == (None, None)


def test_the_worker_counts_refused_models_and_activations_not_candidates() -> None:
    refused: list[None] = []
    feed = ModelFeed(Settings(), lambda model, names: (model, names), lambda: refused.append(None))
    broken: Records = [(KEY, b"["), (b"active", b"["), _active(GOOD.version), (b"candidate", b"[")]
    for offset, (key, value) in enumerate(broken):
        feed.take(key, value, offset)
    assert len(refused) == 3
    assert feed.refuses(GOOD.version)
    assert not feed.refuses("active")


def test_a_training_knows_the_models_that_were_active_each_once() -> None:
    third = _model(0.75)
    records = [(m.version.encode(), m.to_json()) for m in (GOOD, OTHER, third)]
    records += [_active(version) for version in (GOOD.version, OTHER.version, GOOD.version, third.version)]
    there = [TopicRecord(offset, key, value) for offset, (key, value) in enumerate(records, start=1)]
    lineage = contents_for_training(there).lineage()
    assert [model.version for model in lineage.past] == [OTHER.version, GOOD.version, third.version]
    assert lineage.past[-1] == lineage.active
