"""One message in a hundred is garbage, of every sort, at full speed: nothing stored changes, and every piece of it is a
dead letter with its reason and count."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import eventually
from tests.faults.conftest import FULL, Told
from tests.servers import own_server
from tests.service import Service, connected, drained, publish, running
from tests.truth import USDM, Line, lines_of, paths_of, rows_of

NAMES = USDM if FULL else ("2021-07-22_sushi-akro-keep-ctk", "2023-04-04_btcusdt", "2023-04-05_btcusdt_part1")
SHARE = 100  # one in so many
BOUND = 100  # letters kept, where that is bounded
UNREAD = 200

Poison = Callable[[dict[str, Any], random.Random], tuple[bytes, str, str | None]]
"""A good event's data made bad: the payload, and the reason and field that its dead letter must name."""


@pytest.fixture(scope="module")
def lines(recordings: Path) -> list[Line]:
    """The good stream; every line of it a trade, book ticker, mark price, candle or change of a book."""
    return list(lines_of(*paths_of(recordings, "um", NAMES)))


@pytest.fixture(scope="module")
def trades(lines: list[Line]) -> list[Line]:
    """What the garbage is made from."""
    return [line for line in lines if line.data.get("e") in ("trade", "aggTrade")]


async def test_one_in_a_hundred_is_garbage(tmp_path: Path, lines: list[Line], trades: list[Line], told: Told) -> None:
    dice = random.Random(seed := 2_610)
    bad = poison(trades, len(lines) // SHARE, dice)
    payloads = [line.enveloped for line in lines]
    for payload, times in Counter(payload for payload, _, _ in bad).items():
        for _ in range(times):
            payloads.insert(dice.randrange(len(payloads)), payload)
    async with own_server(tmp_path / "nats") as server, connected(server.url) as client:
        async with running(Service(tmp_path / "clean", nats_url=server.url)) as clean:
            clean_s = await seconds_to_store(client, clean, [line.enveloped for line in lines])
        async with running(Service(tmp_path / "service", nats_url=server.url)) as service:
            poisoned_s = await seconds_to_store(client, service, payloads)
            told(times=len(bad), published=len(payloads), clean_s=clean_s, poisoned_s=poisoned_s)
            figures = service.figures()
            figures.require_law()
            assert figures.of("messages_failed_total") == len(bad), f"seed {seed}"
            by_reason = Counter(reason for _, reason, _ in bad)
            assert {reason: figures.of("messages_failed_total", reason=reason) for reason in by_reason} == by_reason
            await service.require(rows_of(lines))
            require_letters(service, bad)
            assert service.get("/health/readiness").status_code == 200
            assert await service.stop() < 5.0
            require_quiet_log(service, by_reason)


async def test_a_flood_of_garbage_is_bounded_and_the_newest_of_it_is_kept(
    tmp_path: Path, trades: list[Line], told: Told
) -> None:
    """Twenty times as much as may be kept, in calls of any size: what made room is counted."""
    dice = random.Random(seed := 2_611)
    bad = [payload for payload, reason, _ in poison(trades, 30 * BOUND, dice) if reason == "invalid"]
    bad = list(dict.fromkeys(bad))[: 20 * BOUND]
    async with own_server(tmp_path / "nats") as server:
        service = Service(tmp_path / "service", nats_url=server.url, dead_letters_max=BOUND)
        async with running(service), connected(server.url) as client:
            await publish(client, service.subject, bad[:-BOUND])
            await drained(client, service)
            assert letters_of(service)["pagination"]["total"] == BOUND  # and what comes now is later by milliseconds
            await publish(client, service.subject, [*bad[-BOUND:], trades[0].enveloped])
            await drained(client, service)
            letters = letters_of(service)["data"]
            assert {letter["id"] for letter in letters} == {
                letter["id"] for letter in letters if payload_of(service, letter) in bad[-BOUND:]
            }, f"seed {seed}"
            assert len(letters) == BOUND
            evicted = service.figures().of("dead_letters_evicted_total")
            assert evicted == len(bad) - BOUND
            told(times=len(bad), kept=len(letters), let_go=evicted)
            await eventually(lambda: "let go for want of room" in log_of(service), what="the line of the log")
            assert service.figures().of("rows_new_total") == 1
            service.figures().require_law()


async def test_a_start_in_which_nothing_can_be_read_is_not_ready_and_says_why(
    tmp_path: Path, trades: list[Line], told: Told
) -> None:
    """As with a subject that carries something else; the first event that can be read is the end of it."""
    async with own_server(tmp_path / "nats") as server:
        service = Service(tmp_path / "service", nats_url=server.url)
        async with running(service), connected(server.url) as client:
            await publish(client, service.subject, [b"%d is no market data" % number for number in range(UNREAD)])
            await drained(client, service)
            refused = service.get("/health/readiness")
            assert refused.status_code == 503
            assert refused.json()["components"]["ingest"] == "unhealthy"
            [reason] = refused.json()["reasons"]
            assert reason == f"ingest: {UNREAD} events arrived and none could be read: see the dead letters"
            assert service.get("/health/liveness").status_code == 200
            await publish(client, service.subject, [trades[0].enveloped])
            await eventually(lambda: service.get("/health/readiness").status_code == 200, what="ready")
            service.figures().require_law()
            told(times=UNREAD)


async def seconds_to_store(client: Any, service: Service, payloads: Sequence[bytes]) -> float:
    """How long the service takes for a stream that is full when it comes to it."""
    started = asyncio.get_running_loop().time()
    await publish(client, service.subject, payloads)
    await drained(client, service)
    return asyncio.get_running_loop().time() - started


# ---- the dead letters ------------------------------------------------------------------------------------------------


def letters_of(service: Service) -> Any:
    """All dead letters, by HTTP."""
    page = service.page("/dead-letters", limit=1_000)
    letters = page["data"]
    while page["pagination"]["has_more"]:
        page = service.page("/dead-letters", limit=1_000, offset=len(letters))
        letters += page["data"]
    return {**page, "data": letters}


def payload_of(service: Service, letter: dict[str, Any]) -> bytes:
    answer = service.get(f"/dead-letters/{letter['id']}/payload")
    assert answer.status_code == 200, letter
    return answer.content


def require_letters(service: Service, bad: Sequence[tuple[bytes, str, str | None]]) -> None:
    """One letter for each, with exactly its reason, its field and how often it came; nothing else."""
    found: Counter[tuple[bytes, str, str | None]] = Counter()
    for letter in letters_of(service)["data"]:
        assert letter["whole"] == (letter["payload_bytes"] <= 65_536)
        shown = payload_of(service, letter) if letter["whole"] else b"%d bytes" % letter["payload_bytes"]
        found[shown, letter["reason"], letter["field"]] += letter["count"]
    expected = Counter((p if len(p) <= 65_536 else b"%d bytes" % len(p), reason, field) for p, reason, field in bad)
    assert found - expected == expected - found == Counter()


def log_of(service: Service) -> str:
    return (service.folder / "service.log").read_text(errors="replace")


def require_quiet_log(service: Service, by_reason: Counter[str]) -> None:
    """At most a line per reason a minute, and at least one; the payloads are not in it."""
    entries = [json.loads(line) for line in log_of(service).splitlines() if line.startswith("{")]
    about = [one for one in entries if one["event"] == "dead letters"]
    assert {one["reason"] for one in about} == set(by_reason)
    assert len(about) <= 2 * len(by_reason)
    assert max(len(json.dumps(one)) for one in entries) < 2_000


# ---- garbage of every sort -----------------------------------------------------------------------------------------------


def poison(trades: Sequence[Line], count: int, dice: random.Random) -> list[tuple[bytes, str, str | None]]:
    """So many pieces, each kind about as often; now and then one that came before comes again."""
    made: list[tuple[bytes, str, str | None]] = []
    kinds = list(KINDS)
    for number in range(count):
        if number % 20 == 19:
            made.append(dice.choice(made))
        else:
            made.append(kinds[number % len(kinds)](dict(dice.choice(trades).data), dice))
    return made


def _framed(data: dict[str, Any]) -> bytes:
    return json.dumps({"stream": f"{str(data.get('s')).lower()}@{data.get('e')}", "data": data}).encode()


def noise(_: dict[str, Any], dice: random.Random) -> tuple[bytes, str, str | None]:
    return b"\xff" + dice.randbytes(dice.randrange(600)), "undecodable", None


def cut_off(data: dict[str, Any], dice: random.Random) -> tuple[bytes, str, str | None]:
    whole = _framed(data)
    return whole[: dice.randrange(1, len(whole))], "undecodable", None


def a_bomb(_: dict[str, Any], dice: random.Random) -> tuple[bytes, str, str | None]:
    return dice.choice([b"[", b'{"data":']) * dice.randrange(2_000, 8_000), "undecodable", None


def huge(_: dict[str, Any], dice: random.Random) -> tuple[bytes, str, str | None]:
    return b"<html>" + b"x" * dice.randrange(70_000, 300_000), "undecodable", None


def a_number_for_text(data: dict[str, Any], _: random.Random) -> tuple[bytes, str, str | None]:
    return _framed({**data, "p": float(data["p"])}), "invalid", "data.p"


def text_for_a_flag(data: dict[str, Any], _: random.Random) -> tuple[bytes, str, str | None]:
    return _framed({**data, "m": "true"}), "invalid", "data.m"


def nothing_for_a_quantity(data: dict[str, Any], _: random.Random) -> tuple[bytes, str, str | None]:
    return _framed({**data, "q": None}), "invalid", "data.q"


def no_symbol(data: dict[str, Any], _: random.Random) -> tuple[bytes, str, str | None]:
    return _framed({name: value for name, value in data.items() if name != "s"}), "invalid", "data.s"


def another_market(data: dict[str, Any], _: random.Random) -> tuple[bytes, str, str | None]:
    return _framed({**data, "s": "BTCUSD_261225"}), "invalid", "data.s"


def microseconds(data: dict[str, Any], _: random.Random) -> tuple[bytes, str, str | None]:
    return _framed({**data, "T": data["T"] * 1_000}), "invalid", "data.T"


def a_negative_price(data: dict[str, Any], _: random.Random) -> tuple[bytes, str, str | None]:
    return _framed({**data, "p": f"-{data['p']}"}), "invalid", "data.p"


def words_for_a_price(data: dict[str, Any], dice: random.Random) -> tuple[bytes, str, str | None]:
    return _framed({**data, "p": dice.choice(["NaN", "1e999999", "١٢٣", "0x1", "", "9" * 60])}), "invalid", "data.p"


def two_clocks(data: dict[str, Any], _: random.Random) -> tuple[bytes, str, str | None]:
    return _framed({**data, "E": data["T"] + 30 * 86_400_000}), "invalid", "data.E"


def times_to_come(data: dict[str, Any], _: random.Random) -> tuple[bytes, str, str | None]:
    return _framed({**data, "E": 4_000_000_000_000, "T": 4_000_000_000_000}), "invalid", "data.T"


def an_unknown_kind(data: dict[str, Any], dice: random.Random) -> tuple[bytes, str, str | None]:
    return _framed({**data, "e": f"trade{dice.randrange(10_000)}"}), "unknown_kind", "data.e"


def a_row_among_none(data: dict[str, Any], _: random.Random) -> tuple[bytes, str, str | None]:
    return json.dumps([{**data, "q": "-1"}]).encode(), "invalid", "[].q"


KINDS: tuple[Poison, ...] = (
    noise, cut_off, a_bomb, a_number_for_text, text_for_a_flag, nothing_for_a_quantity, no_symbol, another_market,
    microseconds, a_negative_price, words_for_a_price, two_clocks, times_to_come, an_unknown_kind, a_row_among_none,
    huge,
)  # fmt: skip
