"""What is told to end ends, and what a stop waits for is in the log."""

import asyncio

import pytest
from structlog.testing import capture_logs

from data_manager.services.ending import ended, waited_for


async def test_a_task_that_misses_the_first_word_is_told_again() -> None:
    heard = 0

    async def hard_of_hearing() -> None:
        nonlocal heard
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                heard += 1
                if heard == 3:
                    raise

    task = asyncio.create_task(hard_of_hearing(), name="hard of hearing")
    await asyncio.sleep(0)
    with capture_logs() as log:
        async with asyncio.timeout(5):
            await ended(task, again_s=0.01)
    assert (task.cancelled(), heard) == (True, 3)
    assert [line["what"] for line in log] == [["hard of hearing"]] * 2


async def test_last_words_are_not_cut_short_and_outcomes_stay() -> None:
    said = asyncio.Event()

    async def says_something_first() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            said.set()

    async def fails() -> None:
        raise ValueError("this one")

    tasks = [asyncio.create_task(says_something_first()), asyncio.create_task(fails())]
    await asyncio.sleep(0)
    await ended(*tasks)
    assert said.is_set()
    assert tasks[0].cancelled()
    with pytest.raises(ValueError, match="this one"):
        tasks[1].result()
    await ended()


async def test_a_step_that_takes_long_is_named_until_it_is_over() -> None:
    with capture_logs() as log:
        with waited_for("the store", long_s=0.02):
            await asyncio.sleep(0.07)
        with waited_for("nobody", long_s=0.02):
            await asyncio.sleep(0)
        told = len(log)
        await asyncio.sleep(0.05)
    assert 1 <= told <= 4
    assert len(log) == told
    assert {(line["event"], line["what"]) for line in log} == {("the stop waits", "the store")}
