"""How this deployment trains: SEGSTREAM_TRAINER_… variables, or the table [trainer] of the file with all other settings."""

from __future__ import annotations

import os
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from trainer.errors import SettingsError
from trainer.plan import MIN_CUSTOMERS, Plan, RecipeName, of_recipe, parse_ks, parse_transforms
from trainer.settings import PREFIX as DEPLOYMENT_PREFIX

if TYPE_CHECKING:
    from segmentation.model import Transform

PREFIX: Final = f"{DEPLOYMENT_PREFIX}TRAINER_"
TABLE: Final = "trainer"


class TrainingSettings(BaseSettings):
    """What a run does unless its command line says otherwise. Shares are parts of 1. None: as the recipe has it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", coerce_numbers_to_str=True)

    recipe: RecipeName = Field("default", description="how to fit and choose: default, textbook or tutorial")
    k: str | None = Field(None, description="how many segments: 5, 2-8 or 3,5,8; the recipes' own is 2-8")
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

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments over environment over the table of the TOML file that `SEGSTREAM_CONFIG` names."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=toml_table(TABLE))

    def plan(self) -> Plan:
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

    def _transforms(self, plan: Plan) -> tuple[Transform, ...]:
        return plan.transforms if self.transform is None else parse_transforms(self.transform)


def load_training_settings(**overrides: Any) -> TrainingSettings:
    """Read the settings once; of the arguments those that aren't None. Raises SettingsError, naming each unusable value."""
    given = {name: value for name, value in overrides.items() if value is not None}
    known = {PREFIX + name.upper() for name in TrainingSettings.model_fields}
    if unknown := sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known):
        raise SettingsError(f"unknown setting {', '.join(unknown)}.", hint="docs/models.md lists those there are.")
    try:
        return TrainingSettings(**given)
    except ValidationError as error:
        told = "; ".join(f"{_called(e['loc'])}={e.get('input')!r}: {e['msg']}" for e in error.errors())
        raise SettingsError(
            f"unusable settings of the training: {told}.", hint="docs/models.md lists defaults and units."
        ) from None


def _called(where: tuple[int | str, ...]) -> str:
    return PREFIX + "_".join(str(part) for part in where).upper()


def toml_table(name: str) -> dict[str, Any]:
    """Read a table of the file, {} where there is none. Raises SettingsError where the file or it can't be read."""
    path = os.environ.get(f"{DEPLOYMENT_PREFIX}CONFIG")
    if not path:
        return {}
    try:
        table = tomllib.loads(Path(path).read_text("utf-8")).get(name, {})
    except (OSError, ValueError) as error:  # ValueError: neither UTF-8 nor TOML
        told = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(
            f"{DEPLOYMENT_PREFIX}CONFIG={path!r} can't be read: {told}.", hint="Give a TOML file."
        ) from None
    if not isinstance(table, dict):
        raise SettingsError(f"{name} in {path} is {table!r}, expected a table.", hint=f"Write [{name}].")
    return table
