"""How this deployment trains: the variables SEGSTREAM_TRAINER_…, or the table [trainer] of the settings file."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from stream.settings_sources import PREFIX as DEPLOYMENT_PREFIX
from trainer.errors import PlanError
from trainer.table_settings import TableSettings
from trainer.training.plan import MOST_K, MOST_KINDS, TrainingPlan, of_recipe, parse_ks, parse_transforms
from trainer.training.recipe import RecipeName, refusal

PREFIX: Final = f"{DEPLOYMENT_PREFIX}TRAINER_"


class TrainingSettings(TableSettings):
    """The settings of a run, which its options override. Shares are fractions of 1; None takes the recipe's value."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", coerce_numbers_to_str=True)
    TABLE = "trainer"
    ABOUT = "settings of the training"
    LISTED_BY = "docs/reference/settings.md"

    recipe: RecipeName = Field("rhythm", description="what segments are made of: rhythm, rfm, textbook or tutorial")
    k: str | None = Field(
        None, description="numbers of segments to try: 5, 2-8 or 3,5,8; rhythm tries 2-4 kinds, rfm 4-8"
    )
    transform: str | None = Field(
        None,
        description="yeo-johnson, log1p or identity, several separated by commas; rfm takes yeo-johnson, rhythm none",
    )
    seed: int = Field(42, ge=0, lt=2**32, description="seed of all random numbers")
    min_customers: int | None = Field(
        None,
        ge=2,
        description="fewest customers to train on, 200 for rfm; for rhythm fewest steady customers to tell kinds, 50",
    )
    at_risk: float | None = Field(
        None,
        gt=0,
        le=0.95,
        description="rhythm: chance to be a customer still, below which one is at risk; default: chosen by what the "
        "segments are worth, 0.2 if it can be",
    )
    lost: float | None = Field(
        None, gt=0, le=0.95, description="rhythm: the same chance below which one is lost; default: likewise, 0.05"
    )
    stability_rounds: int | None = Field(
        None, ge=0, le=1000, description="resamples that the stability is measured on; rhythm and rfm take 10"
    )
    smallest_share: float = Field(
        0.02, ge=0, le=1, description="gate: lowest share of customers for the smallest segment"
    )
    largest_share: float = Field(
        0.6, ge=0, le=1, description="gate: highest share of customers for the largest segment"
    )
    least_stability: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="gate: lowest stability (adjusted Rand index under resampling); rhythm takes 0.6, rfm 0.8",
    )
    most_moved: float = Field(
        0.2, ge=0, le=1, description="largest share of customers that a model may move and still be activated by itself"
    )
    keep_within: float = Field(
        0.05,
        ge=0,
        le=2,
        description="silhouette by which another k or transform must exceed the active model's to replace it",
    )
    margin: float | None = Field(
        None,
        ge=0,
        description="squared distance by which another segment must be nearer before a customer moves to it; rhythm "
        "takes 0.5, the others 0.25",
    )
    redis_url: SecretStr | None = Field(
        None, description="Redis replica to read the customers from; default: SEGSTREAM_REDIS_URL"
    )

    @field_validator("recipe", mode="before")
    @classmethod
    def _recipe_exists(cls, name: object) -> object:
        if isinstance(name, str) and (reason := refusal(name)):
            raise ValueError(reason)
        return name

    def plan(self) -> TrainingPlan:
        """Return the recipe's plan with the values that are set. Raises PlanError."""
        plan = of_recipe(self.recipe)
        if self.recipe == "rhythm" and self.transform is not None:
            raise PlanError(
                f"the recipe rhythm takes no transform, but {self.transform!r} is given.",
                hint=f"Leave --transform ({PREFIX}TRANSFORM) away, or give --recipe rfm.",
            )
        found = replace(
            plan,
            ks=plan.ks if self.k is None else parse_ks(self.k),
            transforms=plan.transforms if self.transform is None else parse_transforms(self.transform),
            rounds=plan.rounds if self.stability_rounds is None else self.stability_rounds,
            seed=self.seed,
            floor=plan.floor if self.min_customers is None else self.min_customers,
            at_risk=plan.at_risk if self.at_risk is None else self.at_risk,
            lost=plan.lost if self.lost is None else self.lost,
            levels_asked=self.at_risk is not None or self.lost is not None,
            smallest_share=self.smallest_share,
            largest_share=self.largest_share,
            least_stability=plan.least_stability if self.least_stability is None else self.least_stability,
            most_moved=self.most_moved,
            keep_within=self.keep_within,
            margin=plan.margin if self.margin is None else self.margin,
        )

        if self.recipe == "rhythm" and max(found.ks) > MOST_KINDS:
            raise PlanError(
                f"k is {self.k!r}, but the recipe rhythm makes {MOST_KINDS} kinds at most.",
                hint=f"Give --k ({PREFIX}K) up to {MOST_KINDS}: a model has {MOST_K} segments at most, and "
                f"{MOST_K - MOST_KINDS} are stages.",
            )
        if found.lost >= found.at_risk:
            raise PlanError(
                f"lost is {found.lost:g} and at_risk {found.at_risk:g}: a lost customer has the smaller chance.",
                hint=f"Give a {PREFIX}LOST below {PREFIX}AT_RISK.",
            )
        return found
