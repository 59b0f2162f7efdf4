"""Whether a stream still speaks: judged by its messages alone, by how silent it may be and how silent it ever was."""

from typing import Final, Literal

from data_manager.adapters.binance.feed_names import Stream

State = Literal["live", "waiting", "silent", "never heard", "unknowable"]

_TIMES: Final = 5.0  # so many times its longest silence is too long
_LEAST_S: Final = 15.0  # but nothing shorter than this
_LEARNT_AFTER_S: Final = 120.0  # of hearing it
_RETRY_MAX_S: Final = 3_600.0  # a name that nobody knows is asked for again this often


class Pulse:
    """One stream, over all its sockets. Instants are monotonic seconds."""

    def __init__(self, stream: Stream, now_s: float) -> None:
        self.stream = stream
        self.silent = False
        self.since_s = now_s  # when it spoke last, or was subscribed if that is later
        self._heard_s: float | None = None  # when it first spoke
        self._worst_s = 0.0
        self._misses = 0  # sockets it was silent on, one after the other

    @property
    def state(self) -> State:
        """waiting: not heard yet, and not for too long. unknowable: may be silent for hours."""
        if self.stream.silent_s is None:
            return "unknowable" if self._heard_s is None else "live"
        if self.silent:
            return "silent" if self._heard_s is not None else "never heard"
        return "waiting" if self._heard_s is None else "live"

    def look(self, heard_s: float | None, subscribed_s: float, now_s: float) -> None:
        """It spoke on its socket at heard_s (None: not yet), which was subscribed at subscribed_s."""
        if heard_s is not None and heard_s != self.since_s:
            self._heard_s = heard_s if self._heard_s is None else self._heard_s
            self._misses = 0
            self.since_s = heard_s
        self.since_s = max(self.since_s, subscribed_s)
        quiet_s = now_s - self.since_s
        bound_s = self._bound_s(now_s)
        self.silent = (bound_s is not None and quiet_s > bound_s) or (self.silent and heard_s is None)
        if self._heard_s is not None and not self.silent:
            self._worst_s = max(self._worst_s, quiet_s)

    def overdue(self, now_s: float) -> bool:
        """Whether it deserves another socket: sooner the first time, then less and less often."""
        bound_s = self._bound_s(now_s)
        if bound_s is None or not self.silent:
            return False
        return now_s - self.since_s > min(bound_s * 2.0**self._misses, max(bound_s, _RETRY_MAX_S))

    def brisk_within(self, seconds: float) -> bool:
        """Whether it speaks, and was never silent for so long."""
        return self._heard_s is not None and not self.silent and self._worst_s < seconds

    def missed(self) -> None:
        """It got another socket for being silent."""
        self._misses = min(self._misses + 1, 20)

    def _bound_s(self, now_s: float) -> float | None:
        most_s = self.stream.silent_s
        if most_s is None or self._heard_s is None or now_s - self._heard_s < _LEARNT_AFTER_S:
            return most_s
        return min(most_s, max(_LEAST_S, _TIMES * self._worst_s))
