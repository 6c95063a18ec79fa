"""Flows of some shops. Copied into a rendered project, whose Python runs them."""

from __future__ import annotations

import time
from pathlib import Path

from data_flows.heartbeat import Run, flow
from pydantic import BaseModel, Field

RATES = {"EUR": 1.0, "CHF": 0.94, "USD": 1.09}


class Shop(BaseModel):
    """A shop, and what to import from it."""

    currency: str = Field("EUR", description="One of EUR, CHF and USD")
    orders: int = Field(3, ge=0, le=1_000, description="How many orders to import at most")
    with_returns: bool = False


@flow(every="1d", configuration=Shop)
def import_orders(run: Run) -> dict[str, float]:
    """Import the orders of a shop."""
    shop: Shop = run.configuration
    # Tests see the run in progress so.
    while Path("var/hold").exists():
        time.sleep(0.1)
    run.log.info("%d orders in %s", shop.orders, shop.currency)
    return {"total": shop.orders * rate_of(shop.currency)}


@flow(every="1d", configuration={"error": ""})
def read_feed(run: Run) -> None:
    """Read a feed that is away while the file `var/outage` exists."""
    error = run.configuration["error"]
    run.log.info("reading %s", error or "the feed")
    if error or Path("var/outage").exists():
        raise ConnectionError(error or "the feed does not answer")


def rate_of(currency: str) -> float:
    """Return what a euro is worth in a currency. Raises LookupError."""
    if currency not in RATES:
        message = f"no rate for the currency {currency!r}: known are {', '.join(RATES)}"
        raise LookupError(message)
    return RATES[currency]
