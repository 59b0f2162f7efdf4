"""What is played: symbols, streams, how fast time goes, and how the service is set for it."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from data_manager.domain.errors import BadQuery
from data_manager.domain.time import DAY_MS, HOUR_MS, MINUTE_MS, parse_time

_SYMBOLS: Final = (
    "BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "DOGEUSDT", "BNBUSDT", "ADAUSDT", "AVAXUSDT", "LINKUSDT", "LTCUSDT",
    "DOTUSDT", "TRXUSDT", "BCHUSDT", "SUIUSDT", "1000PEPEUSDT", "1000SHIBUSDT", "WIFUSDT", "ALGOUSDT", "ATOMUSDT",
    "币安人生USDT",
)  # fmt: skip
_LEAST: Final = 5  # the first are those that something happens to
STREAMS: Final = ("trade", "aggTrade", "kline_1m", "depth5@500ms", "markPrice@1s")

WITH_TRADES: Final = ("BTCUSDT", "ETHUSDT")
"""Symbols whose aggregate trades of the day before are fetched too."""

OUT: Final = ("btcusdt@aggTrade", "ethusdt@kline_1m", "solusdt@aggTrade")
"""Streams that say nothing for five minutes, to nobody."""

DEAF: Final = "xrpusdt@kline_1m"
"""The stream that stalls on the sockets that are open; a new socket hears it."""

DAMAGED: Final = ("um.agg_trade.BTCUSDT", "um.candle.ETHUSDT.1m", "um.agg_trade.SOLUSDT", "um.candle.XRPUSDT.1m")
"""The series they feed, in that order."""

OUTAGE_S: Final = 300
TORN: Final = "DOGEUSDT"
TORN_MINUTES: Final = 7

START_MS: Final = parse_time("2026-03-05T12:00:00Z", field="start")
"""What the exchange's clock shows at first: a Thursday noon, so that the archives of the days before are out."""

HISTORY_MS: Final = START_MS // DAY_MS * DAY_MS - 2 * DAY_MS
"""Where the history begins that is fetched: two whole days, and the morning of the third."""

TODAY_MS: Final = HISTORY_MS + 2 * DAY_MS
"""Where the day begins whose archives are not out yet."""

FUNDED_MS: Final = START_MS - HOUR_MS
"""Up to where funding rates are fetched: a rate is the venue's word some time after it was settled."""

TORN_MS: Final = HISTORY_MS + DAY_MS + 190 * MINUTE_MS

_FIXED_S: Final = 14.0  # of the machine's time: processes start, rows are compared
_PLAYED_S: Final = 560.0  # of the exchange's time
_FAST_S: Final = 45.0
_LEAST_S, _MOST_S = 40.0, 3_600.0
_PORT_MAX: Final = 65_535


class Plan(Struct, frozen=True, kw_only=True):
    """One demonstration. speed: so many times as fast goes the exchange's time, and with it the service's."""

    seed: int = 1
    speed: float = 5.0
    port: int = 0
    symbols: tuple[str, ...] = _SYMBOLS

    @property
    def per_socket(self) -> int:
        """So few streams share a socket that the one that stalls is alone in that on its own."""
        return max(1, len(self.symbols) * 3 // 5)

    def settings(self, exchange: str, folder: str, ports: tuple[int, int, int]) -> dict[str, str]:
        """The environment of the service. What is young by the exchange's time is younger by the machine's."""
        api, metrics, bus = ports
        return {
            "DATA_DIR": folder,
            "API_PORT": str(api),
            "METRICS_PORT": str(metrics),
            "NATS_OWN_PORT": str(bus),
            "LOG_FORMAT": "console",
            "BINANCE_WS_URL": exchange.replace("http", "ws", 1),
            "BINANCE_FAPI_BASE_URL": exchange,
            "BINANCE_ARCHIVE_BASE_URL": exchange,
            "SUPPORTED_PAIRS": ",".join(self.symbols),
            "BINANCE_STREAMS": ",".join(STREAMS),
            "BINANCE_STREAMS_PER_SOCKET": str(self.per_socket),
            "BINANCE_LAG_MAX_MS": str(round(5_000 * self.speed)),
            "AUDIT_INTERVAL": "30",
            "GAP_TOLERANCE_SECONDS": str(round(10 + self.speed)),
            "AUTO_BACKFILL_ASK_AGAIN_S": "30",
            "MAX_AUTO_BACKFILL_JOBS": "20",
            "API_MAX_PAGE_SIZE": "10000",
        }


def plan_of(*, seed: int, fast: bool, duration_s: float | None, port: int, symbols: int) -> Plan:
    """The plan that takes about so long by the machine's clock. Raises BadQuery."""
    if not 0 <= port <= _PORT_MAX:
        raise BadQuery("port", port, f"must be 0 (any free one) to {_PORT_MAX}")
    if not _LEAST <= symbols <= len(_SYMBOLS):
        raise BadQuery("symbols", symbols, f"must lie between {_LEAST} and {len(_SYMBOLS)}")
    wanted_s = duration_s if duration_s is not None else _FAST_S if fast else 120.0
    if not _LEAST_S <= wanted_s <= _MOST_S:
        raise BadQuery("duration", duration_s, f"must lie between {_LEAST_S:.0f} and {_MOST_S:.0f} seconds")
    speed = round(max(1.0, _PLAYED_S / (wanted_s - _FIXED_S)), 1)
    return Plan(seed=seed, speed=speed, port=port, symbols=_SYMBOLS[:symbols])
