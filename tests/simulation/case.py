"""A case: all that a run depends on. A seed gives one; a shrunk failure is one too, kept in a file."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from tests.simulation.choices import Decisions

# How often something is disturbed, in points of decision (choices.py): 0 is never.
CALM: Final = dict.fromkeys(
    ("order", "step", "delay", "break", "end", "marker", "refusal", "tear", "low", "skew", "lose", "part", "world"), 0
)


@dataclass(frozen=True)
class Case:
    """One run's input and disturbances."""

    seed: int
    wall: bool = False
    partitions: int = 1
    workers: int = 2
    customers: int = 3
    scenes: int = 12
    turn: int = 4  # most records of a turn
    dispatchers: int = 0  # 0: the campaigns step isn't played
    adopts: bool = False  # moves by a new model set off no action
    change: str = ""  # the settings change: "dwell" or "window"
    litter: int = 0  # of a hundred records, so many more are garbage
    merges: int = 0  # of a hundred records about customers, so many merge two of them
    profiles: int = 0  # of a hundred scenes, so many have profiles of customers; 0: there are none
    one_id: bool = False  # nothing is folded before all merges are read: then states are those of persons of one id
    rates: dict[str, int] = field(default_factory=dict)
    given: Decisions | None = None  # repeat these decisions and make no others
    skipped: tuple[int, ...] = ()  # scenes without their records

    @classmethod
    def of(cls, seed: int) -> Case:
        """Return the case of a seed."""
        rng = random.Random(f"{seed}:case")
        low_ends = rng.random() < 0.2
        stormy = rng.choice((1, 2, 4))
        lose, part = rng.choice((0, 0, 0, 60)), rng.choice((0, 0, 0, 100))
        rates = {
            "order": rng.choice((0, 3, 10)),
            "step": rng.choice((0, 600, 2_000)) * stormy,
            "delay": rng.choice((10, 40, 200)) * stormy,
            # The protocol doesn't survive a torn transaction together with an end offset that is too low.
            "break": 0 if low_ends else rng.choice((0, 30, 100)) * stormy,
            "end": 0 if low_ends else rng.choice((0, 2, 6)) * stormy,
            "tear": 0 if low_ends else rng.choice((0, 5, 5, 20)) * stormy,
            "low": 3 if low_ends else 0,
            "marker": rng.choice((0, 3, 10)),
            "refusal": rng.choice((0, 15, 60)) * stormy,
            "skew": rng.choice((2, 5)),
            "lose": lose,
            "part": part,
            "world": rng.choice((40, 100, 300)) * stormy,
        }
        return cls(
            seed,
            wall=rng.random() < 0.25,
            partitions=rng.choice((1, 1, 2)),
            workers=rng.choice((1, 2, 2, 3)),
            customers=rng.choice((1, 2, 3, 5)),
            scenes=rng.choice((4, 8, 12)),
            turn=rng.choice((2, 4, 16)),
            dispatchers=rng.choice((0, 1, 2)),
            adopts=rng.random() < 0.3,
            change=rng.choice((*[""] * 8, "dwell", "window")),
            litter=rng.choice((0, 0, 25)),
            merges=random.Random(f"{seed}:merges").choice((0, 0, 0, 10, 25)),
            profiles=random.Random(f"{seed}:profiles").choice((0, 30, 100)),
            rates=rates,
        )

    @classmethod
    def of_one_id(cls, seed: int, shards: int) -> Case:
        """Return a case of a seed with merges over so many shards, which is judged by the oracle of one id, too."""
        case = cls.of(seed)
        return replace(
            case,
            wall=False,
            partitions=shards,
            workers=max(case.workers, 2),
            customers=8,
            scenes=12,
            dispatchers=0,
            change="",
            merges=25,
            one_id=True,
            rates=case.rates | {"step": max(case.rates["step"], 4_000), "world": max(case.rates["world"], 600)},
        )

    def calm(self) -> Case:
        """Return the undisturbed case with the same input."""
        return replace(self, workers=1, dispatchers=0, turn=4_000, rates=CALM, given=None)

    def written(self) -> str:
        """Return the case as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> Case:
        """Read a case back."""
        row: dict[str, Any] = json.loads(text)
        given = row["given"]
        if given is not None:
            row["given"] = {kind: {int(at): value for at, value in made.items()} for kind, made in given.items()}
        return cls(**{**row, "skipped": tuple(row["skipped"])})
