"""The reasons of dead letters that a redrive sends back unless others are chosen."""

from __future__ import annotations

from typing import Final

from segmentation.events import Reason

# A change outside of the record can fix these: of a setting, a model, a rate, the version, the adapter, or time alone.
FIXABLE: Final = (
    Reason.ADAPTER_FAILED,
    Reason.CLOCK_JUMP,
    Reason.DATED_AHEAD,
    Reason.DATE_OUT_OF_RANGE,
    Reason.KEY_NOT_CUSTOMER,
    Reason.NO_RATE,
    Reason.STEP_FAILED,
    Reason.TOO_MANY_BACKFILLS,
    Reason.UNKNOWN_CURRENCY,
    Reason.UNKNOWN_TYPE,
    Reason.WRONG_PARTITION,
)
