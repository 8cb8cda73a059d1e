from __future__ import annotations

from pathlib import Path

import pytest

from stream.webhooks.endpoint_file import EndpointsError, parse_endpoints, read_endpoints
from stream.webhooks.endpoints import BreakerOptions, SecretSource
from stream.webhooks.schedule import HOUR_MS, STANDARD_MS

WHOLE = """
endpoints:
  - name: crm
    url: https://crm.example/hooks?token=abc
    secrets: [{env: CRM_SECRET}, {file: /run/secrets/old}]
    types: [campaign.action, campaign.withheld]
    campaigns: [win-back]
    channels: [email]
    tags: [marketing]
    concurrency: 8
    rate: 50
    timeout: 15s
    retries: [5s, 1h]
    max_age: 2d
    breaker: {failures: 3, pause: 10s, longest: 5m}
    start: beginning
    ca_file: /etc/ca.pem
    allow_http: false
    allow_private: true
  - {name: push, url: "https://[2606:4700::1]:8443/", secrets: [{env: PUSH}]}
"""


def test_a_file_with_everything() -> None:
    crm, push = parse_endpoints(WHOLE)
    assert crm.secrets == (SecretSource(env="CRM_SECRET"), SecretSource(file="/run/secrets/old"))
    assert (crm.types, crm.rate, crm.timeout) == (("campaign.action", "campaign.withheld"), 50.0, 15_000)
    assert (crm.retries, crm.max_age) == ((5_000, HOUR_MS), 48 * HOUR_MS)
    assert crm.breaker == BreakerOptions(failures=3, pause="10s", longest="5m")  # type: ignore[arg-type]  # read as text
    assert (crm.host, crm.ca_file, crm.start) == ("crm.example", Path("/etc/ca.pem"), "beginning")
    assert (push.types, push.retries, push.max_age) == (("campaign.action",), STANDARD_MS, 168 * HOUR_MS)
    assert not push.allow_private
    assert push.host == "2606:4700::1"


def file(**changes: str) -> str:
    """A file of one endpoint, a line a field; a change to "" takes its line out."""
    fields = {"name": "crm", "url": "https://crm.example/", "secrets": "[{env: CRM_SECRET}]"} | changes
    return "endpoints:\n- " + "\n  ".join(f"{name}: {value}" for name, value in fields.items() if value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected `endpoints:`"),
        ("[]", "line 1: expected `endpoints:`"),
        ("endpoints: [", "line 1: not YAML"),
        ("endpoints: []", "line 1, endpoints: [], expected at least one"),
        ("endpoints: [1]", "endpoint 1: 1, expected a mapping with name, url"),
        ("endpoint: []", "endpoint: unknown, expected one of endpoints"),
        (file(name="a b"), "line 2, endpoint 1 ('a b'), name: 'a b', expected letters, digits, - and _, at most 40"),
        (file(secrets=""), "line 2, endpoint 1 ('crm'), secrets: missing"),
        (file(secrets="[]"), "secrets: expected at least one; write `env: VARIABLE`"),
        (
            file(secrets="[{}]"),
            "line 4, endpoint 1 ('crm'), secrets[0]: expected either `env: VARIABLE` or `file: PATH`",
        ),
        (file(secrets="[{env: SEGSTREAM_X}]"), "give this one another name"),
        (
            file(types="[campaign.budget]"),
            "line 5, endpoint 1 ('crm'), types[0]: 'campaign.budget', expected 'campaign",
        ),
        (file(timeout="20"), "timeout: 20, expected a whole number and its unit: seconds 20s"),
        (file(timeout="2m"), "timeout: '2m', expected 1s to 30s"),
        (file(retries="5s"), "retries: '5s', expected a list"),
        (file(retries="[0s]"), "retries[0]: '0s', expected a whole number and its unit"),
        (file(rate="0"), "rate: 0.0, expected"),
        (file(rate=".nan"), "rate: nan, expected"),
        (file(concurrency="four"), "concurrency: 'four', expected a whole number"),
        (file(allow_http="no"), "allow_http: 'no', expected true or false"),
        (file(breaker="{fails: 3}"), "breaker.fails: unknown, expected one of failures, pause, longest"),
        (file(speed="fast"), "line 5, endpoint 1 ('crm'), speed: unknown, expected one of name, url"),
        (file(typs="[x]"), "typs: unknown, expected one of name, url, secrets, types, campaigns"),
        (file(typs="[x]"), "allow_private: did you mean types?"),
        (file(url="http://crm.example"), "line 3, endpoint 1 ('crm'), url: expected https://: everybody"),
        (file(url="http://crm.example"), "`allow_http: true` sends it nevertheless"),
        (file(url="ftp://crm.example"), "expected https://host/path"),
        (file(url="https://"), "expected https://host/path"),
        (file(url="https://crm.example:99999/"), "expected https://host/path"),
        (file(url="https://u:hunter2@crm.example/"), "user and password aren't sent"),
        (file(url="'https://crm.example/#x'"), "the part behind # is never sent"),
        (file(url="https://crm.exämple/"), "expected printable ASCII"),
        (file() + "\n  name: again", "line 5: the key 'name' stands there twice"),
        (
            file() + "\n" + file().partition("\n")[2],
            "line 5, endpoint 2 ('crm'), name: 'crm' is the name of endpoint 1 too",
        ),
        ("a: &a [1]\nendpoints: *a", "line 1: an alias (*name) leads here"),
    ],
)
def test_what_cannot_be_used_is_named_with_line_and_remedy(text: str, message: str) -> None:
    with pytest.raises(EndpointsError) as refused:
        parse_endpoints(text)
    assert message in str(refused.value)


def test_all_findings_come_at_once_in_the_order_of_their_lines() -> None:
    first = file(name="a b", url="ftp://crm.example", secrets="", typs="[x]", timeout="2m", rate="0")
    second = file(url="http://crm.example", breaker="{fails: 3}", secrets="[{}]").partition("\n")[2]
    third = file(url="http://crm.example", allow_http="si").partition("\n")[2]
    with pytest.raises(EndpointsError) as refused:
        parse_endpoints(f"{first}\n{second}\n{third}")
    assert [finding.partition(": ")[0] for finding in refused.value.findings] == [
        "line 2, endpoint 1 ('a b'), name",
        "line 2, endpoint 1 ('a b'), secrets",
        "line 3, endpoint 1 ('a b'), url",
        "line 4, endpoint 1 ('a b'), typs",
        "line 5, endpoint 1 ('a b'), timeout",
        "line 6, endpoint 1 ('a b'), rate",
        "line 8, endpoint 2 ('crm'), url",
        "line 9, endpoint 2 ('crm'), secrets[0]",
        "line 10, endpoint 2 ('crm'), breaker.fails",
        "line 11, endpoint 3 ('crm'), name",
        "line 14, endpoint 3 ('crm'), allow_http",
    ]
    assert str(refused.value) == "; ".join(refused.value.findings)


@pytest.mark.parametrize(
    "text",
    [
        file(secrets="[whsec_hunter2hunter2]"),
        file(secrets="whsec_hunter2hunter2"),
        file(secrets="[{env: whsec_hunter2+/=}]"),
        file(secrets="[{key: whsec_hunter2}]"),
        file(url="https://crm.example/ hunter2"),
        file(url="https://x:hunter2@crm.example/"),
        file(url="[hunter2]"),
        file(url="http://crm.example/?token=hunter2"),
    ],
)
def test_a_secret_in_the_file_is_refused_or_hidden(text: str) -> None:
    with pytest.raises(EndpointsError) as refused:
        parse_endpoints(text)
    assert "hunter2" not in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EndpointsError, match="can't be read: No such file"):
        read_endpoints(tmp_path / "none.yaml")
    (tmp_path / "some.yaml").write_bytes(b"\xff")
    with pytest.raises(EndpointsError, match="isn't UTF-8"):
        read_endpoints(tmp_path / "some.yaml")
    (tmp_path / "some.yaml").write_text("endpoints: []")
    with pytest.raises(EndpointsError, match=r"some\.yaml: line 1, endpoints"):
        read_endpoints(tmp_path / "some.yaml")
