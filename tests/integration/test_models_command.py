"""`segstream models`: what is told of a start before and while it happens is what it does; and a limit on its moves."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.model import bench_model
from segmentation.model import SegmentModel
from stream import topics
from stream.access import read_topic
from stream.commands_data import app as _  # noqa: F401  # the commands' options are parsed as in production
from stream.model_names import read_published
from stream.models_report import ModelUnknown, chosen, drift, model_rows, shadow, shard_models
from stream.order_rows import to_event
from stream.settings import Settings
from stream.simulate import simulate
from tests.real_worker import moves, processes, settled
from tests.recovery.feed import variant
from trainer.publish import publish
from trainer.settings import load_settings as trainer_settings
