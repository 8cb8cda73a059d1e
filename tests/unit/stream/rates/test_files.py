"""Files of rates: the bank's and plain ones, filled days, and what is refused."""

from __future__ import annotations

import gzip
import zipfile
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Any

import pytest

from segmentation.rates import day_number, day_text, format_rate
from stream.rates.files import RateFileError, RateRequest, read_rates_file

if TYPE_CHECKING:
    from pathlib import Path

BANK = """Date,USD,JPY,GBP,ISK,
2026-11-30,1.1600,181.05,0.8760,N/A,
2026-11-27,1.1575,180.50,0.8750,N/A,
2026-11-26,1.1550,180.00,0.8740,N/A,
"""


def rates(path: Path, base: str = "EUR", *currencies: str, **options: Any) -> dict[str, dict[str, str]]:
    """Return the rates as text, by currency and day."""
    days = {name: day_number(value) for name, value in options.items() if isinstance(value, str)}
    found = read_rates_file(path, RateRequest(base, currencies or ("USD",), **(options | days)))
    return {code: {day_text(day): format_rate(rate) for day, rate in own.items()} for code, own in found.items()}


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    path = tmp_path / "eurofxref-hist.csv"
    path.write_text(BANK)
    return path


def per_euro(text: str, base: str = "1") -> str:
    rate = (Decimal(base) / Decimal(text)).quantize(Decimal("1e-12"), ROUND_HALF_EVEN)
    return f"{rate.normalize():f}"


def test_the_banks_rates_are_turned_round_and_weekends_filled(bank: Path) -> None:
    assert rates(bank) == {
        "USD": {
            "2026-11-26": per_euro("1.1550"),
            "2026-11-27": per_euro("1.1575"),
            "2026-11-28": per_euro("1.1575"),
            "2026-11-29": per_euro("1.1575"),
            "2026-11-30": per_euro("1.1600"),
        }
    }


def test_cross_rates_and_the_euro_itself(bank: Path) -> None:
    found = rates(bank, "GBP", "USD", "EUR", "JPY")
    assert found["USD"]["2026-11-30"] == per_euro("1.1600", "0.8760")
    assert found["JPY"]["2026-11-27"] == per_euro("180.50", "0.8750")
    assert found["EUR"]["2026-11-26"] == "0.874"


def test_until_lets_the_last_line_hold_on_for_a_week_at_most(bank: Path) -> None:
    assert max(rates(bank, until="2026-12-01")["USD"]) == "2026-12-01"
    assert max(rates(bank, until="2027-01-01")["USD"]) == "2026-12-07"
    assert max(rates(bank, until="2026-11-01")["USD"]) == "2026-11-30"


def test_next_day_moves_all_lines(bank: Path) -> None:
    found = rates(bank, next_day=True)["USD"]
    assert list(found) == [f"2026-11-{day}" for day in (27, 28, 29, 30)] + ["2026-12-01"]
    assert found["2026-11-30"] == found["2026-11-28"] == per_euro("1.1575")
    assert max(rates(bank, next_day=True, until="2026-12-02")["USD"]) == "2026-12-02"


def test_each_evenings_load_agrees_with_all_others(tmp_path: Path) -> None:
    """A daily job with --next-day --until tomorrow never loads two values of one day."""
    working = [day_number(day) for day in ("2026-12-23", "2026-12-24", "2026-12-28", "2026-12-29", "2026-12-30")]
    loaded: dict[str, str] = {}
    for today in range(day_number("2026-12-23"), day_number("2026-12-31")):
        lines = [f"{day_text(day)},1.{day}," for day in working if day <= today]
        path = tmp_path / f"{today}.csv"
        path.write_text("\n".join(["Date,USD,", *reversed(lines)]))
        for day, rate in rates(path, next_day=True, until=day_text(today + 1))["USD"].items():
            assert loaded.setdefault(day, rate) == rate
    assert len(loaded) == day_number("2026-12-31") - day_number("2026-12-23")


def test_since_leaves_earlier_days_out_but_not_what_they_fill(bank: Path) -> None:
    assert list(rates(bank, since="2026-11-29")["USD"]) == ["2026-11-29", "2026-11-30"]


def test_a_plain_file(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text("currency,day,rate,source\nusd,2026-11-28,0.8653,desk\nJPY,2026-11-28,0.0055,desk\n\n")
    assert rates(path) == {"USD": {"2026-11-28": "0.8653"}}


def test_the_banks_file_of_one_day(tmp_path: Path) -> None:
    path = tmp_path / "eurofxref.csv"
    path.write_text("Date, USD, JPY, \n27 November 2026, 1.1575, 180.50, \n")
    assert rates(path) == {"USD": {"2026-11-27": per_euro("1.1575")}}


def test_packed_files(tmp_path: Path) -> None:
    packed = tmp_path / "eurofxref-hist.csv.gz"
    packed.write_bytes(gzip.compress(BANK.encode()))
    archive = tmp_path / "eurofxref-hist.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("eurofxref-hist.csv", BANK)
    assert len(rates(packed)["USD"]) == len(rates(archive)["USD"]) == 5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected Date,USD"),
        ("a,b,c\n1,2,3\n", "the first line is 'a,b,c'"),
        ("Date,JPY,\n2026-11-27,180.5,\n", "has no rate of USD"),
        ("Date,USD,\n2026-11-27,N/A,\n", "has no rate of USD"),
        ("Date,USD,\n2026-11-27,1.2.3,\n", "line 2: '1.2.3' isn't a rate"),
        ("Date,USD,\n2026-11-27,-1,\n", "line 2: '-1' isn't a rate"),
        ("Date,USD,\n27/11/2026,1.1,\n", "line 2: '27/11/2026' isn't a day"),
        ("Date,USD,\n2026-11-27,1.1,\n2026-11-27,1.2,\n", "line 3: a second rate of USD for one day"),
        ("day,currency,rate\n2026-11-27,USD,0\n", "line 2: '0' isn't a rate"),
        ("day,currency,rate\n2026-11-27,USD\n", "line 2: '' isn't a rate"),
        ("Date,USD,\n2026-11-27,0.0000001,\n", "beyond what"),
        ("Date,USD," + "X" * 70_000, "too long"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(text)
    with pytest.raises(RateFileError, match=says):
        rates(path)


def test_a_file_without_the_deployments_currency(bank: Path) -> None:
    with pytest.raises(RateFileError, match="no column SEK, which is SEGSTREAM_CURRENCY"):
        rates(bank, "SEK")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RateFileError, match="No such file"):
        rates(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"Date,USD,\n2026-11-27,\xff,\n")
    with pytest.raises(RateFileError, match="utf-8"):
        rates(tmp_path / "latin.csv")
