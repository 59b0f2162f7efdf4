"""What the self-test needs from outside: the decoder, and empty stores in a folder that goes when they are closed."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from data_manager.adapters.binance.wire import DATASET_OF, LABELLED, Decoder
from data_manager.adapters.binance.wire_paths import path_of
from data_manager.adapters.meta.sql import open_meta
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.ports import MetadataStore, SeriesStore
from data_manager.services.selftesting.playing import Options, Tools
from data_manager.services.selftesting.reading import recorded
from data_manager.services.selftesting.tape import made
from data_manager.services.selftesting.trial import Trial, try_all

_CACHE_BYTES: Final = 64 << 20
_MARKET: Final = "um"  # of the tape that is made


async def selftest(
    options: Options,
    *,
    seed: int,
    minutes: int,
    recordings: Sequence[Path] = (),
    market: str = _MARKET,
    faults: Sequence[str] = (),
    progress: Callable[[int, int, str], None],
) -> Trial:
    """Plant faults into that many minutes of a market made from the seed, or into recordings of the market given.

    faults: only these classes; none: all. Raises what reading a recording raises.
    """
    messages = recorded(recordings) if recordings else made(seed, minutes)
    market = market if recordings else _MARKET
    with tempfile.TemporaryDirectory(prefix="data-manager-selftest-") as folder:
        empty = await _migrated(Path(folder))

        @asynccontextmanager
        async def stores() -> AsyncIterator[tuple[SeriesStore, MetadataStore]]:
            async with _stores(empty, Path(folder)) as opened:
                yield opened

        tools = Tools(market, Decoder(market), DATASET_OF, LABELLED, path_of, stores)
        ours = not recordings
        return await try_all(messages, tools, options, seed=seed, ours=ours, faults=faults, progress=progress)


async def _migrated(folder: Path) -> Path:
    """An empty metadata database, to be copied: migrating takes longer than what many of the tests do with it."""
    file = folder / "empty.db"
    await (await open_meta(f"sqlite:///{file}")).close()
    return file


@asynccontextmanager
async def _stores(empty: Path, beside: Path) -> AsyncIterator[tuple[SeriesStore, MetadataStore]]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=beside)))
        await asyncio.to_thread(shutil.copy, empty, folder / "meta.db")
        store = EmbeddedStore(folder, _CACHE_BYTES)
        stack.push_async_callback(store.close)
        meta = await open_meta(f"sqlite:///{folder / 'meta.db'}")
        stack.push_async_callback(meta.close)
        yield store, meta
