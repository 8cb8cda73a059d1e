"""A segmentation model as plain data: what the trainer publishes and every worker scores by.

JSON and nothing else, never pickle. The version is a hash of the content, so a model can't change under its name,
and two models that agree in content are one model. Format 1 decides by the nearest centroid (segmentation/scorer.py),
format 2 by each customer's own clock (segmentation/clock_scorer.py).
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, ValidationError, model_validator

from segmentation.model_parts import STAGES, ModelPart, OutlookModel, OwnClock, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

# Keys of the models topic beside the versions: the model that scores, and the one to be compared with it.
ACTIVE_KEY: Final = b"active"
CANDIDATE_KEY: Final = b"candidate"
FEATURES: Final = ("recency_days", "frequency", "monetary")
# Of format 2: silence in the customer's own expected gaps, orders a year by that gap, expected value of an order.
CLOCK_FEATURES: Final = ("silence_in_gaps", "orders_per_year", "order_value")
# Scores beyond this are cut off and centroids refused: it bounds the rounding error of the decision.
Z_LIMIT: Final = 1024.0
# The least margin on squared distance that is applied. It outweighs the rounding of the decision (below 2**-26), so
# nobody moves twice at one instant or goes round in a cycle. Measured in time it is seconds.
MARGIN_FLOOR: Final = 2.0**-20
# Of two centroids this close the later one can't be entered: even the least margin holds everyone in the first.
TWIN_DISTANCE2: Final = 1e-6

_VERSION_DIGITS: Final = 16
_LATER_FACTS: Final = ("histograms", "distance")
_LATER_PARTS: Final = ("clock", "outlook")

Transform = Literal["identity", "log1p", "yeo-johnson"]


class ModelError(ValueError):
    """A published model that can't score; the message says what is wrong with it. A retry can't help."""


def _utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{at.isoformat()} lies outside the years 1 to 9999 in UTC: give a real date") from None


# One instant has one text, or the same model trained in two time zones would have two versions.
UtcDatetime = Annotated[AwareDatetime, AfterValidator(_utc)]
Coordinate = Annotated[float, Field(ge=-Z_LIMIT, le=Z_LIMIT)]


class Feature(ModelPart):
    """One coordinate of z space: z = (t(x) - mean) / scale, t being the transform (lam: the λ of Yeo-Johnson)."""

    name: Literal["recency_days", "frequency", "monetary", "silence_in_gaps", "orders_per_year", "order_value"]
    transform: Transform
    lam: float | None = None
    mean: float
    scale: Annotated[float, Field(gt=0.0)]

    @model_validator(mode="after")
    def _lambda_belongs_to_yeo_johnson(self) -> Self:
        if (self.lam is not None) != (self.transform == "yeo-johnson"):
            raise ValueError(
                f"{self.name} has transform {self.transform} and lam {self.lam}: "
                "give lam with yeo-johnson, and only with it"
            )
        return self


class Segment(ModelPart):
    """A segment: a lasting id, a name for people, its default action, its centre in z space (in the features' order).

    In format 2 `stage` says who belongs to it; of the centres only those of steady customers decide, and only by orders
    a year and value.
    """

    id: Annotated[int, Field(ge=1, le=65_535)]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    action: str
    centroid: tuple[Coordinate, Coordinate, Coordinate]
    stage: Stage | None = None


class Histogram(ModelPart):
    """One untransformed feature at the training: shares[i] of the customers had edges[i - 1] < x <= edges[i]."""

    edges: Annotated[tuple[float, ...], Field(max_length=63)]
    shares: tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...]

    @model_validator(mode="after")
    def _edges_rise(self) -> Self:
        if len(self.shares) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges and {len(self.shares)} shares: give one share more than edges")
        if any(one >= other for one, other in pairwise(self.edges)):
            raise ValueError(f"edges {self.edges} don't rise: give each value once, the least first")
        return self


class Training(ModelPart):
    """Facts about the training, for people: no decision depends on them, but they are part of the content.

    `shares` maps segment names to parts of 1, `feature_means` feature names to means of the untransformed values and
    `histograms` to their distributions; `distance` is the mean distance of all customers to the nearest centroid in z
    space. `forced`: the gates of the training failed and someone published anyway. Facts that a later trainer adds are
    kept as they are, because the version depends on them; such models can score.
    """

    model_config = ConfigDict(extra="allow")

    as_of: UtcDatetime
    customers: int
    k: int
    silhouette: float | None
    inertia: float | None
    shares: dict[str, float]
    feature_means: dict[str, float]
    histograms: dict[str, Histogram] = Field(default_factory=dict)
    distance: float | None = None
    seed: int
    forced: bool = False
    notes: dict[str, str] = Field(default_factory=dict)


class SegmentModel(ModelPart):
    """Everything that scoring needs, and where it came from. Checked when built: every instance can score.

    `parent` is the version of the model that was active at the training. `margin` is on squared distance in z space.
    `clock` belongs to format 2; `outlook` too, and other models may carry one for their moves.
    Building one that breaks a rule raises pydantic's ValidationError, a ValueError.
    """

    format: Literal[1, 2] = 1
    parent: str | None
    features: tuple[Feature, Feature, Feature]
    segments: Annotated[tuple[Segment, ...], Field(min_length=2, max_length=16)]
    margin: Annotated[float, Field(ge=0.0)] = 0.25
    training: Training
    clock: OwnClock | None = None
    outlook: OutlookModel | None = None

    @model_validator(mode="after")
    def _features_stand_in_order(self) -> Self:
        names, expected = tuple(feature.name for feature in self.features), self.feature_names
        if names != expected:
            raise ValueError(f"features stand as {', '.join(names)}: put them as {', '.join(expected)}")
        return self

    @property
    def feature_names(self) -> tuple[str, str, str]:
        """The names of the features, in order."""
        return FEATURES if self.format == 1 else CLOCK_FEATURES

    @model_validator(mode="after")
    def _stages_belong_to_format_2(self) -> Self:
        stages = [segment.stage for segment in self.segments]
        if self.format == 1:
            if self.clock is not None or any(stage is not None for stage in stages):
                raise ValueError("format is 1, but it has stages: give format 2 with clock, outlook and stages")
            return self
        if self.clock is None or self.outlook is None:
            raise ValueError("format is 2, but clock or outlook is missing: give both")
        for stage in STAGES:
            count, wanted = stages.count(stage), "one or more" if stage == "steady" else "one"
            if count < 1 or (count > 1 and stage != "steady"):
                raise ValueError(f"{count} segments of stage {stage!r}, expected {wanted}")
        return self

    @model_validator(mode="after")
    def _segments_differ(self) -> Self:
        for one, other in combinations(self.segments, 2):
            if one.id == other.id:
                raise ValueError(f"segments {one.name!r} and {other.name!r} share the id {one.id}: give each its own")
            if one.name == other.name:
                raise ValueError(f"segments {one.id} and {other.id} share the name {one.name!r}: give each its own")
        for one, other, distance2 in self._pairs():
            if distance2 <= TWIN_DISTANCE2:
                raise ValueError(
                    f"the centroids of {one.name!r} and {other.name!r} are {distance2:.3g} apart (squared), "
                    f"expected more than {TWIN_DISTANCE2:g}: the later could never be entered; train with a smaller k"
                )
        return self

    def _pairs(self) -> Iterator[tuple[Segment, Segment, float]]:
        """Yield the pairs between which centroids decide, with their squared distance."""
        begin = 0 if self.format == 1 else 1
        deciding = [segment for segment in self.segments if segment.stage in (None, "steady")]
        for one, other in combinations(deciding, 2):
            pairs = zip(one.centroid[begin:], other.centroid[begin:], strict=True)
            yield one, other, sum((a - b) * (a - b) for a, b in pairs)

    def _content(self) -> dict[str, Any]:
        content = self.model_dump(mode="json")
        # Models without what came later keep the versions that they always had.
        for name in _LATER_FACTS:
            if content["training"][name] in (None, {}):
                del content["training"][name]
        for name in _LATER_PARTS:
            if content[name] is None:
                del content[name]
        for segment in content["segments"]:
            if segment["stage"] is None:
                del segment["stage"]
        return content

    @property
    def version(self) -> str:
        """The first 16 hexadecimal digits of SHA-256 over the canonical JSON of the content. Computed at each call.

        Not cached: a copy with other content would carry the old one's version along.
        """
        return hashlib.sha256(_canonical(self._content())).hexdigest()[:_VERSION_DIGITS]

    def to_json(self) -> bytes:
        """Return the published form: canonical JSON (sorted keys, compact, ASCII) with the version in it."""
        return _canonical(self._content() | {"version": self.version})

    @classmethod
    def from_json(cls, value: bytes) -> Self:
        """Read the published form. Raises ModelError if it isn't whole, true to its version and usable."""
        content = _json_object(value, "a model")
        stated = content.pop("version", None)
        if stated is None:
            raise ModelError("version is missing: publish the bytes of SegmentModel.to_json")
        try:
            # By way of JSON, because only there strict mode takes a text for an instant and a list for a tuple.
            model = cls.model_validate_json(json.dumps(content))
        except ValidationError as error:
            raise ModelError(_explain(error)) from None
        if stated != model.version:
            raise ModelError(
                f"version is {stated!r}, but the content's is {model.version!r}: it was changed after the training; "
                "publish the bytes of SegmentModel.to_json"
            )
        return model

    def warnings(self) -> list[str]:
        """Return a sentence on each pair of centroids that are within the margin of each other.

        A customer in the first of two such segments stays there even on the other's centroid.
        """
        return [
            f"the centroids of {one.name!r} and {other.name!r} are {distance2:.3g} apart (squared), within the margin "
            f"{self.margin:g}: customers of one hardly move to the other; lower the margin or train with a smaller k"
            for one, other, distance2 in self._pairs()
            if distance2 <= max(self.margin, MARGIN_FLOOR)
        ]


def read_version(key: bytes | None, value: bytes) -> SegmentModel:
    """Read a record of the models topic that holds a model: its key is the version. Raises ModelError.

    Worker, commands and trainer read the topic by this function, so that they refuse the same records.
    """
    model = SegmentModel.from_json(value)
    if key != model.version.encode():
        raise ModelError(f"the key is {key!r}, but the content's version is {model.version!r}: publish it under that")
    return model


def read_pointer(value: bytes) -> str:
    """Read which version a record under ACTIVE_KEY or CANDIDATE_KEY names. Raises ModelError.

    >>> read_pointer(b'{"version": "5ccbe45f5ba98e4c", "by": "segtrainer"}')
    '5ccbe45f5ba98e4c'
    """
    version = _json_object(value, "a pointer to a model").get("version")
    if not isinstance(version, str):
        raise ModelError(f"not a pointer to a model: expected a version as text, got {version!r}")
    return version


def _json_object(value: bytes, what: str) -> dict[str, Any]:
    try:
        content = json.loads(value.decode())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"not {what}: expected UTF-8 JSON, got {value[:40]!r} ({error})") from None
    if not isinstance(content, dict):
        raise ModelError(f"not {what}: expected a JSON object, got {type(content).__name__}")
    return content


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


_MOST_FINDINGS: Final = 5  # in one line: a file of something else has one for each of its fields
_LONGEST_INPUT: Final = 200


def _explain(error: ValidationError) -> str:
    """Join pydantic's findings to one line: where each is, what was expected, and the value found."""
    findings = []
    errors = error.errors(include_url=False)
    for finding in errors[:_MOST_FINDINGS]:
        where = ".".join(str(part) for part in finding["loc"])
        message = finding["msg"].removeprefix("Value error, ")
        # Of a whole object the message names what counts; its dump would hide it.
        got = "" if isinstance(finding["input"], dict | list) else f", got {repr(finding['input'])[:_LONGEST_INPUT]}"
        findings.append(f"{where}: {message}{got}" if where else message)
    if len(errors) > _MOST_FINDINGS:
        findings.append(f"and {len(errors) - _MOST_FINDINGS} more")
    return "model refused: " + "; ".join(findings)
