"""Series: ids, the predecessor's aliases, and symbols real and hostile."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_manager.domain.dataset import MARKETS, Dataset, Series, make_series, parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery
from data_manager.domain.symbols import is_symbol
from data_manager.domain.time import INTERVALS_MS

REAL = {
    "um": [
        "BTCUSDT", "1000SHIBUSDT", "1000000MOGUSDT", "1INCHUSDT", "币安人生USDT", "我踏马来了USDT", "4USDT", "BTCUSDC",
        "BTCUSDT_261225", "ETHUSDT_210924", "LUNAUSDT_SETTLED", "RENUSDT_SETTLED1", "BTCDOMUSDT", "USDCUSDT",
    ],
    "cm": ["BTCUSD_PERP", "ETHUSD_261225", "BCHUSD_PERP", "1INCHUSD_PERP"],
    "spot": ["BTCUSDT", "ETHBTC", "1000SATSUSDT", "币安人生USDT", "1MBABYDOGEUSDT"],
}  # fmt: skip
HOSTILE = [
    "", " ", "B", "btcusdt", "BTCusdt", "../x", "..", "/etc/passwd", "BTC/USDT", "BTC-USDT", "BTC.USDT", "BTCUSDT ",
    "BTC\nUSDT", "BTCUSDT\x00", "$where", "{}", "BTCUSDT;DROP", "BTCUSDT%00", "a" * 300, "A" * 300, "币" * 300,
    "BTCUSDT_", "_PERP", "BTCUSDT_26122", "BTCUSDT_2612255", "BTCUSDT_261225_261225", "BTCUSDT_SETTLED" + "1" * 300,
    "BTCUSDT_٢٦١٢٢٥", "BTC٣USDT", "ＢＴＣＵＳＤＴ２", "BTCUSDT\u202e", "🚀USDT", "BTC\ud800USDT", "*", "%", "?",
]  # fmt: skip

symbols = st.sampled_from([(market, symbol) for market in MARKETS for symbol in REAL[market]])
datasets = st.sampled_from(list(DATASETS.values()))
intervals = st.sampled_from(list(INTERVALS_MS))


def series_of(dataset: Dataset, market: str, symbol: str, interval: str) -> Series:
    return make_series(dataset, market, symbol, interval if dataset.has_interval else None)


@given(datasets, symbols, intervals)
def test_a_series_survives_its_id(dataset: Dataset, place: tuple[str, str], interval: str) -> None:
    series = series_of(dataset, *place, interval)
    assert parse_series(series.id, DATASETS, "um") == series
    assert str(series) == series.id


@given(datasets, symbols, intervals)
def test_the_predecessors_names_mean_the_default_market(
    dataset: Dataset, place: tuple[str, str], interval: str
) -> None:
    market, symbol = place
    tail = f"_{interval}" if dataset.has_interval else ""
    assert parse_series(f"{dataset.alias}_{symbol}{tail}", DATASETS, market) == series_of(dataset, *place, interval)


def test_ids_read_as_people_say_them() -> None:
    assert make_series(DATASETS["candle"], "um", "BTCUSDT", "1h").id == "um.candle.BTCUSDT.1h"
    assert make_series(DATASETS["trade"], "cm", "BTCUSD_PERP", None).id == "cm.trade.BTCUSD_PERP"
    assert parse_series("candles_BTCUSDT_1h", DATASETS, "um").id == "um.candle.BTCUSDT.1h"
    assert parse_series("trades_BTCUSDT_261225", DATASETS, "um").id == "um.trade.BTCUSDT_261225"
    assert parse_series("agg_trades_1000SHIBUSDT", DATASETS, "um").id == "um.agg_trade.1000SHIBUSDT"


def test_a_minute_is_not_a_month() -> None:
    minute, month = (make_series(DATASETS["candle"], "um", "BTCUSDT", interval) for interval in ("1m", "1M"))
    assert minute != month
    assert minute.id != month.id


@given(st.lists(st.tuples(datasets, symbols, intervals), max_size=30))
def test_different_series_have_different_ids(picks: list[tuple[Dataset, tuple[str, str], str]]) -> None:
    found = {series_of(dataset, *place, interval) for dataset, place, interval in picks}
    assert len({series.id for series in found}) == len(found)
    assert all(len(series.id) <= 64 for series in found)


@pytest.mark.parametrize("market", MARKETS)
@pytest.mark.parametrize("symbol", HOSTILE)
def test_hostile_symbols_are_refused(market: str, symbol: str) -> None:
    assert not is_symbol(symbol, market)
    with pytest.raises(BadQuery) as caught:
        make_series(DATASETS["trade"], market, symbol, None)
    assert caught.value.field == "pair"


def test_a_suffix_belongs_to_its_market() -> None:
    assert not is_symbol("BTCUSDT_PERP", "um")
    assert not is_symbol("BTCUSD", "cm")
    assert not is_symbol("BTCUSDT_261225", "spot")
    assert not is_symbol("BTCUSD_261225", "um")
    assert not is_symbol("BTCUSDT_261225", "cm")


letters = st.text(st.sampled_from("AZ09_USDTPERP币ªſ٣a ") | st.characters(), max_size=40)


@given(
    letters | st.builds(str.__add__, letters, st.sampled_from(["USD", "USD_PERP", "_261225", "USD_261225", "_PERP"]))
)
@example("BTCUSD_261225")
@example("BTCUSDT_261225")
def test_no_futures_symbol_is_of_both_futures_markets(symbol: str) -> None:
    homes = [market for market in ("um", "cm") if is_symbol(symbol, market)]
    assert len(homes) < 2
    if "_" not in symbol:
        assert is_symbol(symbol, "spot") == (homes == ["um"])
    elif homes:
        assert symbol.partition("_")[0].endswith("USD") == (homes == ["cm"])


@pytest.mark.parametrize(("market", "symbol"), [(market, one) for market in ("um", "cm") for one in REAL[market]])
def test_real_futures_symbols_are_of_their_own_market(market: str, symbol: str) -> None:
    assert [home for home in ("um", "cm") if is_symbol(symbol, home)] == [market]


@pytest.mark.parametrize("symbol", HOSTILE)
@pytest.mark.parametrize("form", ["um.trade.{}", "trades_{}", "um.candle.{}.1h", "candles_{}_1h", "{}"])
def test_hostile_ids_are_refused(symbol: str, form: str) -> None:
    with pytest.raises(BadQuery):
        parse_series(form.format(symbol), DATASETS, "um")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("xx.trade.BTCUSDT", "market"),
        ("um.trades.BTCUSDT", "dataset"),
        ("um.trade", "symbol"),
        ("um.trade.BTCUSDT.1h", "no interval"),
        ("um.candle.BTCUSDT", "must be one of 1m"),
        ("um.candle.BTCUSDT.2m", "must be one of 1m"),
        ("um.candle.BTCUSDT.1h.x", "market.dataset.SYMBOL"),
        ("candles_BTCUSDT", "must read like"),
        ("candles_BTCUSDT_2m", "must be one of 1m"),
        ("trades_BTCUSDT_1h", "must read like"),
        ("", "must read like"),
        ("nonsense_BTCUSDT", "must read like"),
    ],
)
def test_a_wrong_part_is_named(text: str, wrong: str) -> None:
    with pytest.raises(BadQuery, match=wrong):
        parse_series(text, DATASETS, "um")


@given(st.text(max_size=80))
def test_no_text_ends_in_another_error(text: str) -> None:
    try:
        series = parse_series(text, DATASETS, "um")
    except BadQuery:
        return
    assert is_symbol(series.symbol, series.market)
