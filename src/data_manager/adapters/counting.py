"""What the stores are asked, counted: by the operation of their port, with its success and its duration."""

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

from data_manager.telemetry import Calls


def count_calls(calls: Calls, database: str, store: object, port: type) -> None:
    """From now on note every call of a method that the port promises and that has to be waited for.

    A bug is counted as an error, like a refusal. What was cancelled was not answered, and is not counted. The store
    stays the object it was: who knows more of it than its port goes on so.
    """
    for operation in dir(port):
        if operation != "close" and inspect.iscoroutinefunction(inspect.getattr_static(port, operation)):
            counted = _counted(calls, database, operation, getattr(store, operation))
            setattr(store, operation, counted)


def _counted(calls: Calls, database: str, operation: str, ask: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    async def counted(*args: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            answer = await ask(*args, **named)
        except Exception as error:
            calls.note(database, operation, time.perf_counter() - began, error)
            raise
        calls.note(database, operation, time.perf_counter() - began)
        return answer

    return counted
