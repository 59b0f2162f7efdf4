"""What is said of a contract at one moment: mark price and funding, the last day, the best price, open interest."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from data_manager.domain.time import DAY_MS, MINUTE_MS, parse_time
from data_manager.simulator import path, rows
from data_manager.simulator.answers import Units, decimal
from data_manager.simulator.books import Book
from data_manager.simulator.contracts import Contract, next_settlement, settlements
from data_manager.simulator.faults import Faults, Place
from data_manager.simulator.market import Tape
from data_manager.simulator.noise import key_of, smooth

_MARKED_SINCE_MS: Final = parse_time("2022-01-02")  # settlements before say no mark price


class Quotes:
    """Of all contracts of a tape."""

    def __init__(self, tape: Tape, seed: int) -> None:
        self._tape = tape
        self.seed = seed

    def mark(self, contract: Contract, what: str, at_ms: int) -> int:
        """mark or index price at a moment, in 10**-8."""
        return int(path.sampled(self.seed, contract, what, np.array([at_ms]))[0])

    def premium(self, contract: Contract, now_ms: int, shown_ms: int) -> dict[str, Any]:
        """As premiumIndex has it."""
        slot_ms = next_settlement(contract, now_ms)
        index = self.mark(contract, "index", now_ms)
        return {
            "symbol": contract.symbol,
            "markPrice": decimal(self.mark(contract, "mark", now_ms), 8),
            "indexPrice": decimal(index, 8),
            "estimatedSettlePrice": decimal(index, 8),
            "lastFundingRate": decimal(path.funding_estimate(self.seed, contract, slot_ms, now_ms), 8),
            "interestRate": decimal(contract.interest if slot_ms else 0, 8),
            "nextFundingTime": slot_ms,
            "time": shown_ms,
        }

    def settled(
        self, contract: Contract, faults: Faults, place: Place, first_ms: int, last_ms: int
    ) -> Iterator[dict[str, Any]]:
        """Settlements whose time lies in [first_ms, last_ms], as fundingRate has them."""
        slots = faults.slots(place, contract.symbol, settlements(contract, first_ms - 1_000, last_ms))
        for slot_ms in slots:
            at_ms = path.funding_time(self.seed, contract, slot_ms)
            if first_ms <= at_ms <= last_ms:
                mark = decimal(self.mark(contract, "mark", slot_ms), 8) if slot_ms >= _MARKED_SINCE_MS else ""
                yield {
                    "symbol": contract.symbol,
                    "fundingRate": decimal(path.funding_rate(self.seed, contract, slot_ms), 8),
                    "fundingTime": at_ms,
                    "markPrice": mark,
                    "rateType": "Regular",
                }

    def day(self, contract: Contract, now_ms: int) -> dict[str, Any]:
        """The rolling 24 hours, as ticker/24hr has them."""
        until_ms = min(now_ms, contract.delivery_ms - 1)
        start_ms = now_ms // MINUTE_MS * MINUTE_MS - DAY_MS
        found = self._tape.candles(contract, "1m", start_ms, until_ms + 1, now_ms)
        if len(found) == 0:
            found = np.zeros((1, 12), np.int64)
            found[:, 1:5] = 1
        last = self._tape.aggregates(contract, until_ms - 3 * MINUTE_MS, until_ms + 1)
        quantity = int(self._tape.fills(last, contract).quantity[-1]) if len(last) else 0
        return rows.day_of(contract, found, quantity, now_ms)

    def best(self, contract: Contract, book: Book) -> dict[str, Any]:
        """As ticker/bookTicker has it."""
        units = Units.of(contract)
        [bid], [ask] = rows.levels(book.bids, units), rows.levels(book.asks, units)
        return {
            "symbol": contract.symbol, "bidPrice": bid[0], "bidQty": bid[1], "askPrice": ask[0], "askQty": ask[1],
            "time": book.at_ms, "lastUpdateId": book.update_id,
        }  # fmt: skip

    def open_interest(self, contract: Contract, now_ms: int) -> dict[str, Any]:
        """As openInterest has it."""
        held = decimal(self.held(contract, now_ms), contract.quantity_precision)
        return {"openInterest": held, "symbol": contract.symbol, "time": now_ms}

    def held(self, contract: Contract, at_ms: int) -> int:
        """Open interest at a moment, in units of quantity: a wave around fifty thousand of the largest orders."""
        [wave] = smooth(key_of(self.seed, contract.symbol, "interest"), np.array([at_ms // MINUTE_MS]), 8)
        return contract.quantity_scale * (200_000 + int(wave)) // 4
