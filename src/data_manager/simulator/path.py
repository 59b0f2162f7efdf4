"""Where the price is: for every contract and instant, from hashes alone, so that nothing has to be walked to it.

A price is its contract's base price times 1 + a sum of waves from 1 second to 45 days long, each half as high for a
quarter of the length: near to a random walk on every scale, and bounded. Being continuous, it joins at every border.
"""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data_manager.domain.time import HOUR_MS, MINUTE_MS, SECOND_MS
from data_manager.simulator.contracts import Contract, interval_ms
from data_manager.simulator.noise import Index, key_of, one, smooth

STEP_MS: Final = 50  # the matching engine's beat: between two of them neither price nor book moves
_LEVELS: Final = 17  # waves of 1, 2, 4 … 65,536 minutes
_ROOTS: Final = [int(2 ** (level / 2) * 65_536) for level in range(_LEVELS)]
_BILLION: Final = 1_000_000_000


def mid_ticks(seed: int, contract: Contract, at_ms: Index) -> Index:
    """The best bid at each instant, in ticks; the best ask is one tick above."""
    swing = _swing(seed, contract, at_ms // STEP_MS * STEP_MS)
    ticks: Index = contract.base_price * (_BILLION + swing) // (_BILLION * contract.tick)
    return ticks


def sampled(seed: int, contract: Contract, what: str, at_ms: Index) -> Index:
    """mark or index price, or premium, at whole seconds, in 10**-8."""
    seconds = at_ms // SECOND_MS * SECOND_MS
    basis = smooth(key_of(seed, contract.symbol, "basis"), seconds, 22) * 60_000 // 32_768  # up to 60 ppm, over an hour
    swing = _swing(seed, contract, seconds) + basis
    index = _scaled(contract, swing)
    if what == "index":
        return index
    premium = smooth(key_of(seed, contract.symbol, "premium"), seconds, 21) * 400_000 // 32_768
    mark = _scaled(contract, swing + premium)
    if what == "mark":
        return mark
    return np.rint((mark - index) / index * 1e8).astype(np.int64)


def funding_rate(seed: int, contract: Contract, slot_ms: int) -> int:
    """The rate settled at slot_ms, in 10**-8, within the contract's cap."""
    chance = one(key_of(seed, contract.symbol, "funding"), slot_ms)
    noise = (chance & 0xFFFF) * (chance >> 16 & 0xFFFF) >> 16  # 0 to 65,535, the small ones more often
    hours = interval_ms(contract, slot_ms) // HOUR_MS
    rate = contract.interest * hours // 8 + noise * (1 if chance >> 40 & 3 else -1)
    return max(-contract.funding_cap, min(contract.funding_cap, rate))


def funding_estimate(seed: int, contract: Contract, slot_ms: int, now_ms: int) -> int:
    """The running estimate of the rate of slot_ms: it drifts, and ends at what is settled. In 10**-8."""
    if slot_ms == 0:
        return 0
    left_ms = max(0, slot_ms - now_ms)
    [wave] = smooth(key_of(seed, contract.symbol, "estimate"), np.array([now_ms // MINUTE_MS]), 4)
    return funding_rate(seed, contract, slot_ms) + int(wave) * left_ms // (8 * HOUR_MS)


def funding_time(seed: int, contract: Contract, slot_ms: int) -> int:
    """When the settlement of slot_ms says it happened: 0 to 18 ms late."""
    late = one(key_of(seed, contract.symbol, "jitter"), slot_ms)
    return slot_ms + (0 if late & 3 else (late >> 8) % 19)


def _scaled(contract: Contract, swing: Index) -> Index:
    base = contract.base_price * 10 ** (8 - contract.price_precision)
    factors: NDArray[np.float64] = (_BILLION + swing) / _BILLION
    ticks: Index = np.rint(base * factors).astype(np.int64)
    return ticks


def _swing(seed: int, contract: Contract, at_ms: Index) -> Index:
    """How far the price is from its base, in billionths."""
    minutes = at_ms // MINUTE_MS
    beyond = at_ms - minutes * MINUTE_MS
    low, high = _slow(seed, contract, minutes)
    slow: Index = (low * (MINUTE_MS - beyond) + high * beyond) // MINUTE_MS
    swing_ppb = contract.swing_ppb
    for shift, share in ((13, 23_921), (10, 8_520)):  # 8 s and 1 s: sqrt(length / a minute), in 65,536ths
        slow = (
            slow
            + smooth(key_of(seed, contract.symbol, "fast", shift), at_ms, shift) * (swing_ppb * share >> 16) // 32_768
        )
    return slow


def _slow(seed: int, contract: Contract, minutes: Index) -> tuple[Index, Index]:
    """The waves of a minute and longer, at the beginning and at the end of each of these minutes."""
    if len(minutes) == 0:
        return minutes, minutes
    first, last = int(minutes.min()), int(minutes.max())
    if last - first > 4 * len(minutes) + 1_024:
        return _waves(seed, contract, minutes), _waves(seed, contract, minutes + 1)
    if first // 60 == last // 60:
        waves, first = _waves_of_hour(seed, contract, first // 60), first // 60 * 60
    else:
        waves = _waves(seed, contract, np.arange(first, last + 2))
    return waves[minutes - first], waves[minutes - first + 1]


@lru_cache(maxsize=4_096)
def _waves_of_hour(seed: int, contract: Contract, hour: int) -> Index:
    return _waves(seed, contract, np.arange(hour * 60, hour * 60 + 61))


def _waves(seed: int, contract: Contract, minutes: Index) -> Index:
    total = np.zeros(len(minutes), np.int64)
    for level, root in enumerate(_ROOTS):
        height = contract.swing_ppb * root >> 16
        total += smooth(key_of(seed, contract.symbol, "slow", level), minutes, level) * height >> 15
    return total
