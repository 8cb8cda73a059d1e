"""Write the orders of a made-up shop as CSV: orders.csv has the past year, today.csv the orders of this hour.

python examples/tutorial_orders.py
"""

from __future__ import annotations

import csv
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

HEADER = ["order_id", "customer_id", "ordered_at", "amount"]
CUSTOMERS = 500


def main() -> None:
    """Write both files into the current folder: on every run the same customers, dated up to now."""
    chance = random.Random(7)  # noqa: S311  # made-up orders, no secret
    now = datetime.now(UTC).replace(microsecond=0)
    orders = []
    for number in range(CUSTOMERS):
        days_between = chance.choice([6, 20, 45, 120])  # some buy every week, others once a season
        usual_amount = chance.lognormvariate(3.4, 0.5)
        age = chance.uniform(1, 330)  # days since the first order
        last = chance.uniform(20, 200) if chance.random() < 0.4 else 0  # many have stopped buying
        while True:
            at = now - timedelta(days=int(age), seconds=chance.randrange(86_400))
            orders.append((at, f"c-{number:03}", f"{usual_amount * chance.uniform(0.6, 1.5):.2f}"))
            age -= chance.expovariate(1 / days_between)
            if age <= max(last, 1):
                break
    write("orders.csv", sorted(orders), first=1)
    buyers = chance.sample(range(CUSTOMERS), 100)
    write("today.csv", [(now, f"c-{number:03}", "89.90") for number in buyers], first=len(orders) + 1)


def write(path: str, orders: list[tuple[datetime, str, str]], first: int) -> None:
    """Write one file, its orders numbered from `first` on."""
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(HEADER)
        for number, (at, customer, amount) in enumerate(orders, first):
            rows.writerow([f"o-{number}", customer, at.isoformat(), amount])
    print(f"{path}: {len(orders):,} orders")  # noqa: T201  # a script's own voice


if __name__ == "__main__":
    main()
