from __future__ import annotations

import re
from pathlib import Path

import pytest

from stream.errors import SettingsError
from stream.settings import DeploymentSettings, Settings
from tests.support.paths import ROOT
from trainer.errors import PlanError
from trainer.training.plan import TrainingPlan, of_recipe
from trainer.training.settings import PREFIX, TrainingSettings


def test_without_settings_it_is_the_default_plan() -> None:
    assert TrainingSettings.load().plan() == of_recipe("rhythm")
    assert TrainingSettings.load(recipe="rfm").plan() == TrainingPlan()


def test_file_below_environment_below_arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "segstream.toml"
    config.write_text('group = "shop"\n[trainer]\nk = 5\nseed = 1\nmost_moved = 0.1\n')
    monkeypatch.setenv("SEGSTREAM_CONFIG", str(config))
    monkeypatch.setenv("SEGSTREAM_TRAINER_SEED", "2")
    plan = TrainingSettings.load(recipe="rfm", transform="log1p", seed=None).plan()
    assert (plan.ks, plan.seed, plan.most_moved, plan.transforms) == ((5,), 2, 0.1, ("log1p",))
    # The same file and variables serve the worker and the rest of the trainer.
    assert Settings.load().group == DeploymentSettings.load().group == "shop"


def test_a_recipe_has_its_own_plan_and_takes_given_values() -> None:
    plan = TrainingSettings.load(recipe="textbook", transform="log1p").plan()
    assert (plan.way, plan.transforms, plan.starts, plan.ks) == ("silhouette", ("log1p",), 20, tuple(range(2, 9)))
    assert TrainingSettings.load(recipe="tutorial").plan() == of_recipe("tutorial")


def test_rhythm_refuses_a_transform_and_more_kinds_than_a_model_has_room_for() -> None:
    with pytest.raises(PlanError, match="rhythm takes no transform, but 'identity' is given"):
        TrainingSettings.load(transform="identity").plan()
    with pytest.raises(PlanError, match=r"k is '2-12', but the recipe rhythm makes 10 kinds at most\. .* up to 10"):
        TrainingSettings.load(k="2-12").plan()
    assert TrainingSettings.load(k="10").plan().ks == (10,)
    assert TrainingSettings.load(k="12", recipe="rfm").plan().ks == (12,)


def test_the_former_name_of_a_recipe_is_refused_with_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGSTREAM_TRAINER_RECIPE", "default")
    with pytest.raises(SettingsError, match="the recipe 'default' is called rfm now"):
        TrainingSettings.load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trainer]\nsmallest = 1\n", "SEGSTREAM_TRAINER_SMALLEST"),
        ("[trainer]\nseed = -1\n", "SEGSTREAM_TRAINER_SEED=-1"),
        ("trainer = 5\n", "expected a table"),
        ("[trainer\n", "can't be read"),
    ],
)
def test_an_error_in_the_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, message: str
) -> None:
    config = tmp_path / "segstream.toml"
    config.write_text(text)
    monkeypatch.setenv("SEGSTREAM_CONFIG", str(config))
    with pytest.raises(SettingsError, match=re.escape(message)):
        TrainingSettings.load()


def test_a_misspelt_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGSTREAM_TRAINER_SEEDS", "1")
    with pytest.raises(SettingsError, match="unknown setting SEGSTREAM_TRAINER_SEEDS"):
        TrainingSettings.load()


def test_the_replica_does_not_show() -> None:
    assert "hidden" not in repr(TrainingSettings.load(redis_url="redis://:hidden@replica:6379/0"))


def test_the_page_lists_every_setting_with_its_default() -> None:
    rows = re.findall(
        rf"^\| `{PREFIX}(\w+)` \| [^|]* \| ([^|]*) \|",
        (ROOT / "docs" / "reference" / "settings.md").read_text(),
        re.MULTILINE,
    )
    documented = {name.lower(): default.strip().strip("`") for name, default in rows}
    fields = TrainingSettings.model_fields
    assert documented.keys() == fields.keys()
    for name, field in fields.items():
        if field.default is not None:
            assert documented[name] == str(field.default), name
