"""How this deployment trains: SEGSTREAM_TRAINER_… variables, or the table [trainer] of the file with all other settings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from stream.settings_sources import PREFIX as DEPLOYMENT_PREFIX
from trainer.table_settings import TableSettings
from trainer.training.plan import MIN_CUSTOMERS, TrainingPlan, of_recipe, parse_ks, parse_transforms
from trainer.training.recipe import RecipeName

if TYPE_CHECKING:
    from segmentation.model import Transform

PREFIX: Final = f"{DEPLOYMENT_PREFIX}TRAINER_"


class TrainingSettings(TableSettings):
    """What a run does unless its command line says otherwise. Shares are parts of 1. None: as the recipe has it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", coerce_numbers_to_str=True)
    TABLE = "trainer"
    ABOUT = "settings of the training"
    LISTED_BY = "docs/explanation/models.md"

    recipe: RecipeName = Field("default", description="how to fit and choose: default, textbook or tutorial")
    k: str | None = Field(None, description="how many segments: 5, 2-8 or 3,5,8; the default recipe's own is 4-8")
    transform: str | None = Field(
        None,
        description="yeo-johnson, log1p, identity, or several with commas; the default recipe's own is yeo-johnson",
    )
    seed: int = Field(42, ge=0, lt=2**32, description="where everything random begins")
    min_customers: int = Field(MIN_CUSTOMERS, ge=2, description="with fewer customers nothing is trained")
    stability_rounds: int | None = Field(
        None, ge=0, le=1000, description="resamples behind a stability; default recipe: 10"
    )
    smallest_share: float = Field(0.02, ge=0, le=1, description="gate: the smallest segment's least part of customers")
    largest_share: float = Field(0.6, ge=0, le=1, description="gate: the largest segment's greatest part of customers")
    least_stability: float = Field(0.8, ge=-1, le=1, description="gate: the least adjusted Rand index under resampling")
    most_moved: float = Field(
        0.2, ge=0, le=1, description="of all customers, the part that a model may move and still be activated"
    )
    keep_within: float = Field(
        0.05, ge=0, le=2, description="silhouette by which another k or transform must beat the active model's"
    )
    margin: float = Field(
        0.25, ge=0, description="squared distance by which another segment must be nearer before a customer moves"
    )
    redis_url: SecretStr | None = Field(
        None, description="a replica to read the customers from; default: SEGSTREAM_REDIS_URL"
    )

    def plan(self) -> TrainingPlan:
        """Give the recipe's plan with what is set otherwise. Raises PlanError."""
        plan = of_recipe(self.recipe)
        return replace(
            plan,
            ks=plan.ks if self.k is None else parse_ks(self.k),
            transforms=self._transforms(plan),
            rounds=plan.rounds if self.stability_rounds is None else self.stability_rounds,
            seed=self.seed,
            floor=self.min_customers,
            smallest_share=self.smallest_share,
            largest_share=self.largest_share,
            least_stability=self.least_stability,
            most_moved=self.most_moved,
            keep_within=self.keep_within,
            margin=self.margin,
        )

    def _transforms(self, plan: TrainingPlan) -> tuple[Transform, ...]:
        return plan.transforms if self.transform is None else parse_transforms(self.transform)
