"""The pages list exactly the settings and metrics of the schedule; deploy/cronjob.yaml is what Kubernetes takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # comes with check-jsonschema; ships no types
import pytest
import yaml
from click.exceptions import UsageError
from typer.testing import CliRunner

from stream.errors import SettingsError
from stream.settings import DeploymentSettings
from stream.settings_sources import PREFIX as DEPLOYMENT_PREFIX
from tests.support.metric_rows import metric_rows
from tests.support.paths import ROOT
from trainer import cli
from trainer.errors import PublishConflict, TrainerError, TrainingBusy
from trainer.schedule.metrics import ScheduleMetrics
from trainer.schedule.policy import Schedule
from trainer.schedule.scheduler import BUSY
from trainer.schedule.settings import PREFIX, ScheduleSettings

DOCS = ROOT / "docs"
PAGE = DOCS / "how-to" / "schedule-trainings.md"


def test_the_table_of_settings_is_the_list() -> None:
    page = (DOCS / "reference" / "settings.md").read_text()
    listed = re.findall(rf"(?m)^\| `({PREFIX}\w+)` \| .*? \| (.*?) ?\| (.*?) \|$", page)
    assert listed == [
        (PREFIX + name.upper(), "" if field.default is None else f"`{field.default}`", field.description)
        for name, field in ScheduleSettings.model_fields.items()
    ]


def test_the_table_of_metrics_is_the_list() -> None:
    page = (DOCS / "reference" / "metrics.md").read_text()
    listed = re.findall(r"(?m)^\| `(segstream_training_\w+)` \| (\w+) \| (.*?) ?\| (.*?) \|$", page)
    assert listed == metric_rows(ScheduleMetrics())


def test_the_table_of_exit_codes_is_true() -> None:
    codes = [int(code) for code in re.findall(r"(?m)^\| (\d) \| ", PAGE.read_text())]
    errors = (TrainerError, UsageError, PublishConflict, TrainingBusy)
    assert codes == [0, *(error.exit_code for error in errors)]
    assert TrainingBusy.exit_code == BUSY


def test_the_environment_counts_over_the_table_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "segstream.toml"
    file.write_text('group = "shop"\n[schedule]\ncron = "0 4 * * *"\nzone = "Europe/Berlin"\nretries = 1\n')
    monkeypatch.setenv("SEGSTREAM_CONFIG", str(file))
    monkeypatch.setenv("SEGSTREAM_SCHEDULE_ZONE", "UTC")
    found = ScheduleSettings.load(retries=None, retry_s=5)
    assert (found.cron, found.zone, found.retries, found.retry_s) == ("0 4 * * *", "UTC", 1, 5)
    assert DeploymentSettings.load().group == "shop"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("crom = '0 4 * * *'", "SEGSTREAM_SCHEDULE_CROM"),
        ("retries = -1", "SEGSTREAM_SCHEDULE_RETRIES=-1"),
        ("on_failure = ' '", "expected a command"),
        ('on_failure = "notify \'training"', "No closing quotation"),
    ],
)
def test_what_the_file_has_wrong_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, message: str
) -> None:
    file = tmp_path / "segstream.toml"
    file.write_text(f"[schedule]\n{line}\n")
    monkeypatch.setenv("SEGSTREAM_CONFIG", str(file))
    with pytest.raises(SettingsError, match=message):
        ScheduleSettings.load()


def test_a_misspelt_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGSTREAM_SCHEDULE_CROM", "0 4 * * *")
    with pytest.raises(SettingsError, match="unknown setting SEGSTREAM_SCHEDULE_CROM"):
        ScheduleSettings.load()


# Of the CronJob's schema (batch/v1) what the example uses, and nothing else: a misspelt key isn't there.
def _object(required: str = "", /, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required.split(), "additionalProperties": False}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


TEXT, COUNT, FLAG = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
VARIABLE = _object(
    "name",
    name=TEXT,
    value=TEXT,
    valueFrom=_object("secretKeyRef", secretKeyRef=_object("name key", name=TEXT, key=TEXT)),
)
CONTAINER = _object(
    "name image command",
    name=TEXT,
    image=TEXT,
    command=_list(TEXT),
    args=_list(TEXT),
    env=_list(VARIABLE),
    resources=_object(requests=TEXTS, limits=TEXTS),
    securityContext=_object(
        allowPrivilegeEscalation=FLAG, readOnlyRootFilesystem=FLAG, capabilities=_object(drop=_list(TEXT))
    ),
    volumeMounts=_list(_object("name mountPath", name=TEXT, mountPath=TEXT)),
)
POD = _object(
    "restartPolicy containers",
    restartPolicy={"enum": ["Never", "OnFailure"]},
    automountServiceAccountToken=FLAG,
    securityContext=_object(runAsNonRoot=FLAG, seccompProfile=_object("type", type=TEXT)),
    containers=_list(CONTAINER),
    volumes=_list(_object("name emptyDir", name=TEXT, emptyDir=_object())),
)
RULE = _object(
    "action",
    action={"enum": ["FailJob", "Ignore", "Count"]},
    onExitCodes=_object("operator values", containerName=TEXT, operator={"enum": ["In", "NotIn"]}, values=_list(COUNT)),
    onPodConditions=_list(_object("type", type=TEXT, status={"enum": ["True", "False", "Unknown"]})),
)
JOB = _object(
    "template",
    backoffLimit=COUNT,
    activeDeadlineSeconds=COUNT,
    podFailurePolicy=_object("rules", rules=_list(RULE)),
    template=_object("spec", metadata=_object(labels=TEXTS), spec=POD),
)
CRONJOB = _object(
    "apiVersion kind metadata spec",
    apiVersion={"const": "batch/v1"},
    kind={"const": "CronJob"},
    metadata=_object("name", name=TEXT, labels=TEXTS),
    spec=_object(
        "schedule jobTemplate",
        schedule=TEXT,
        timeZone=TEXT,
        concurrencyPolicy={"enum": ["Allow", "Forbid", "Replace"]},
        startingDeadlineSeconds=COUNT,
        successfulJobsHistoryLimit=COUNT,
        failedJobsHistoryLimit=COUNT,
        jobTemplate=_object("spec", spec=JOB),
    ),
)


def _cronjob() -> Any:
    return yaml.safe_load((ROOT / "deploy" / "cronjob.yaml").read_text())


def test_the_cronjob_has_kubernetes_own_shape() -> None:
    jsonschema.validate(_cronjob(), CRONJOB)


def test_the_cronjob_s_schedule_and_zone_can_be_read() -> None:
    spec = _cronjob()["spec"]
    Schedule(spec["schedule"], spec["timeZone"])


def test_the_cronjob_runs_a_command_that_exists_with_settings_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    [container] = _cronjob()["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["segtrainer", "run"]
    shown = CliRunner().invoke(cli.app, ["run", *container["args"], "--help"])
    assert shown.exit_code == 0
    for option in (word for word in container["args"] if word.startswith("--")):
        assert option in shown.stdout
    for variable in container["env"]:
        assert variable["name"].removeprefix(DEPLOYMENT_PREFIX).lower() in DeploymentSettings.model_fields
        if "value" in variable:
            monkeypatch.setenv(variable["name"], variable["value"])
    DeploymentSettings.load()


def test_the_cronjob_tries_again_what_may_help_only() -> None:
    job = _cronjob()["spec"]["jobTemplate"]["spec"]
    [rule] = [rule for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert rule["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]
    errors = (UsageError, PublishConflict, TrainingBusy)
    assert rule["onExitCodes"]["values"] == [error.exit_code for error in errors]
    # Kubernetes requires this beside a podFailurePolicy.
    assert job["template"]["spec"]["restartPolicy"] == "Never"
