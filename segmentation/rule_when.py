"""The conditions of a campaign rule: the moves that it acts on, by their segments, cause and figures."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from segmentation.life_conditions import KnownLife, LifeConditions
from segmentation.outlook_conditions import KnownOutlook, OutlookConditions
from segmentation.output_events import Cause
from segmentation.rfm_conditions import KnownRfm, RfmConditions
from segmentation.rule_fields import Causes, Sources, Switch, Targets


class RulePart(BaseModel):
    """A part of a rule table, in which no other field may stand."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class MoveFigures(Protocol):
    """The figures of a move that rules look at; None: the move has none."""

    @property
    def life(self) -> KnownLife | None:
        """Of the customer's whole life."""

    @property
    def outlook(self) -> KnownOutlook | None:
        """Of what is to be expected."""

    @property
    def rfm(self) -> KnownRfm | None:
        """In the window."""


class KnownFigures(NamedTuple):
    """Figures that are at hand."""

    life: KnownLife | None
    outlook: KnownOutlook | None
    rfm: KnownRfm | None


class When(RulePart):
    """The moves that a rule acts on.

    A choice of None is any, but for the cause `merge`, which must be named: two ids have become one, and the customer
    may have had the campaign under the other id. None in `from_` is a customer without a segment. A name that ends
    with * stands for all that begin so.
    """

    from_: Sources = Field(None, alias="from", description="segments that the customer leaves; null: had none")
    to: Targets = Field(description="segments that the customer comes to")
    cause: Causes = Field(None, description="causes of the move; any but merge without it")
    life: LifeConditions | None = Field(None, description="bounds of the customer's whole life")
    outlook: OutlookConditions | None = Field(None, description="bounds of the customer's outlook")
    rfm: RfmConditions | None = Field(None, description="bounds of the figures in the window")
    first_time: Switch = Field(False, description="only if the customer never had this campaign")

    def matches(
        self,
        source: str | None,
        target: str,
        cause: Cause,
        life: KnownLife | None = None,
        outlook: KnownOutlook | None = None,
        rfm: KnownRfm | None = None,
    ) -> bool:
        """Return whether a move from `source` (None: no segment yet) to `target` is one of these, but for first_time.

        `life`, `outlook`, `rfm`: the customer's at the move; None: the move has none.
        """
        return self.meets(source, target, cause) and self.accepts(KnownFigures(life, outlook, rfm))

    def meets(self, source: str | None, target: str, cause: Cause) -> bool:
        """Return whether segments and cause of a move are among these."""
        return (
            (cause is not Cause.MERGE if self.cause is None else cause in self.cause)
            and (self.to is None or among(target, self.to))
            and (self.from_ is None or among(source, self.from_))
        )

    def accepts(self, figures: MoveFigures) -> bool:
        """Return whether the figures of a move lie within these bounds. Those without bounds aren't looked at."""
        return (
            (self.life is None or self.life.accept(figures.life))
            and (self.outlook is None or self.outlook.accept(figures.outlook))
            and (self.rfm is None or self.rfm.accept(figures.rfm))
        )

    def covers(self, other: When) -> bool:
        """Return whether these are all the moves of `other`, and perhaps more."""
        if self.first_time:
            return False
        if self.cause is None and other.cause is not None and Cause.MERGE in other.cause:
            return False
        return (
            (self.cause is None or (other.cause is not None and set(other.cause) <= set(self.cause)))
            and _cover(self.to, other.to)
            and _cover(self.from_, other.from_)
            and (self.life is None or (other.life is not None and self.life.covers(other.life)))
            and (self.outlook is None or (other.outlook is not None and self.outlook.covers(other.outlook)))
            and (self.rfm is None or (other.rfm is not None and self.rfm.covers(other.rfm)))
        )


def among(name: str | None, choices: tuple[str | None, ...]) -> bool:
    """Return whether a segment is one of the choices, or begins as one that ends with *.

    >>> among("At Risk", ("Lost", "At *")), among(None, ("At *",))
    (True, False)
    """
    return name in choices or (
        name is not None and any(one is not None and one[-1:] == "*" and name.startswith(one[:-1]) for one in choices)
    )


def _cover(mine: tuple[str | None, ...] | None, its: tuple[str | None, ...] | None) -> bool:
    """Return whether a choice has all segments of another. Of names with * the part before it decides."""
    return mine is None or (its is not None and all(among(one, mine) for one in its))
