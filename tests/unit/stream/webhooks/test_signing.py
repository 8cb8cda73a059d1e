from __future__ import annotations

import base64
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from stream.webhooks.signing import SecretUnusable, signed_headers, signing_key


def secret(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


KEYS = st.binary(min_size=24, max_size=64)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(KEYS, st.text().map(str.encode))
def test_the_reference_verifier_takes_the_signature(key: bytes, body: bytes) -> None:
    headers = signed_headers([signing_key(secret(key))], "evt_1", int(time.time()), body)
    Webhook(secret(key)).verify(body, headers, json_parse=False)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(KEYS, KEYS)
def test_while_a_secret_is_replaced_both_verify(old: bytes, new: bytes) -> None:
    headers = signed_headers([new, old], "evt_1", int(time.time()), b"{}")
    for key in (old, new):
        Webhook(secret(key)).verify(b"{}", headers)


@pytest.mark.parametrize(
    "changed", [{"webhook-id": "evt_2"}, {"webhook-timestamp": str(int(time.time()) - 1)}, {"body": "[]"}]
)
def test_id_time_and_body_are_signed(changed: dict[str, str]) -> None:
    key = b"k" * 32
    sent = {**signed_headers([key], "evt_1", int(time.time()), b"{}"), "body": "{}", **changed}
    with pytest.raises(WebhookVerificationError):
        Webhook(secret(key)).verify(sent.pop("body"), sent)


@pytest.mark.parametrize(
    "text", ["", "whsec_", "hunter2" * 4, "whsec_!!!!", secret(b"short"), secret(b"l" * 65), "whsk_" + "A" * 44]
)  # fmt: skip
def test_a_secret_that_is_none_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(SecretUnusable) as refused:
        signing_key(text)
    part = text.removeprefix("whsec_")[:8]
    assert not part or part not in str(refused.value)


def test_a_secret_may_lack_its_padding_and_end_with_a_line() -> None:
    assert signing_key(secret(b"k" * 25).rstrip("=") + "\n") == b"k" * 25
