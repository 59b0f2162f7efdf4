"""Bytes to events, per kind of message, beside msgspec decoding the same bytes without knowing what they are."""

import gc
from collections import defaultdict
from time import process_time

import msgspec
from _report import CAPTURES, figure, payloads, table

from data_manager.adapters.binance.wire import DATASET_OF, Decoder
from data_manager.domain.batch import STREAM, pack

_ROUNDS = 5
_MOST = 5_000


def main() -> None:
    """Print a row per dataset."""
    decode = Decoder("um")
    by_kind: dict[str, list[bytes]] = defaultdict(list)
    for payload in payloads(CAPTURES):
        (event,) = decode(payload, 0)
        kind = DATASET_OF[type(event)].name
        if len(by_kind[kind]) < _MOST:
            by_kind[kind].append(payload)
    gc.disable()
    heads = ("dataset", "messages", "bytes", "decode µs", "json.decode µs", "ratio", "pack µs/row")
    with table("decode and pack, CPU time per message, best of 5", *heads) as rows:
        for kind, some in sorted(by_kind.items()):
            ours = _best(lambda some=some: [decode(one, 0) for one in some], len(some))
            plain = _best(lambda some=some: [msgspec.json.decode(one) for one in some], len(some))
            events = [decode(one, 0)[0] for one in some]
            dataset = DATASET_OF[type(events[0])]
            packing = _best(lambda e=events, d=dataset: pack(d, "um", e, [1] * len(e), STREAM), len(some))
            size = sum(map(len, some)) // len(some)
            baseline = f"untyped JSON: {plain:.2f}"
            figure(f"decode {kind}", f"{ours:.2f} µs of CPU", baseline=baseline, ratio=ours / plain)
            rows.append((kind, f"{len(some):,}", f"{size:,}", f"{ours:.2f}", f"{plain:.2f}", f"{ours / plain:.2f}", f"{packing:.2f}"))  # fmt: skip


def _best(work, count: int) -> float:
    """Microseconds of CPU per message, the best of some rounds."""
    times = []
    for _ in range(_ROUNDS):
        started = process_time()
        work()
        times.append(process_time() - started)
    return min(times) / count * 1e6


if __name__ == "__main__":
    main()
