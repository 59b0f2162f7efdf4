"""The service with a store whose every append takes so many seconds longer: slow_store SECONDS COMMAND…"""

import asyncio
import sys

from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.cli import main
from data_manager.domain.batch import Batch
from data_manager.ports import Receipt


def slow_down(seconds: float) -> None:
    """From now on appends take longer."""
    append = EmbeddedStore.append

    async def slow(self: EmbeddedStore, batch: Batch) -> Receipt:
        await asyncio.sleep(seconds)
        return await append(self, batch)

    EmbeddedStore.append = slow  # type: ignore[method-assign]  # that is what this program is for


if __name__ == "__main__":
    slow_down(float(sys.argv.pop(1)))
    main()
