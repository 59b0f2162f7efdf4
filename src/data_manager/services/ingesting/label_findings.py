"""What is told of wrong labels: a finding per series and episode, and one for rows that were stored too trustfully."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from data_manager.domain.dataset import Series, parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery
from data_manager.domain.finding import Finding, FindingKind, found
from data_manager.ports import Clock

_LEAST: Final = 3  # books before an episode is told
_QUIET_TURNS: Final = 60  # so often none came: the episode is over
_AGAIN_TURNS: Final = 30  # so often its count is told again while it lasts
_NAMES_MAX: Final = 20  # symbols counted per episode
_EPISODES_MAX: Final = 20_000


class Episodes:
    """Books that were quarantined shortly after each other, by series. A turn is about a second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._episodes: dict[Series, _Episode] = {}
        self._found: list[Finding] = []

    @property
    def open(self) -> int:
        """Episodes that were told and are not over."""
        return sum(episode.told > 0 for episode in self._episodes.values())

    def quarantined(self, series: Series, stream: str, fitting: str | None, received_ms: int, event_ms: int) -> None:
        """A book with this label was kept out."""
        episode = self._episodes.get(series)
        if episode is None:
            if len(self._episodes) >= _EPISODES_MAX:
                return  # it is counted and a dead letter all the same
            episode = self._episodes[series] = _Episode(stream, received_ms, event_ms)
        episode.add(fitting, received_ms, event_ms)

    def stored(self, unproven: Unproven, price: float) -> None:
        """Rows that were stored before a price was known turn out to be wrong."""
        self._found.append(
            found(
                FindingKind.MISLABELLED,
                series=unproven.series.id,
                stream=DATASETS[unproven.series.dataset].wire,
                severity="critical",
                start_ms=unproven.first_ms,
                end_ms=max(unproven.last_ms, unproven.first_ms) + 1,
                evidence={
                    "why": "stored before a price of it was known, and contradicted by the first",
                    "books": unproven.books,
                    "first_event_ms": unproven.first_event_ms,
                    "last_event_ms": unproven.last_event_ms,
                    "price": f"{price:g}",
                },
                found_ms=self._clock.now_ms(),
            )
        )

    def adopt(self, findings: Sequence[Finding]) -> None:
        """Go on with what an earlier run left open; what it says of stored rows stays open until they are gone."""
        for finding in findings:
            books = finding.evidence.get("books")
            if finding.kind is not FindingKind.MISLABELLED or finding.end_ms is not None or not isinstance(books, int):
                continue
            try:
                series = parse_series(finding.series or "", DATASETS, "um")
            except BadQuery:
                continue  # of a version that knows other datasets
            episode = _Episode(finding.stream or "", finding.start_ms, finding.start_ms)
            episode.books, episode.told, episode.found_ms = books, books, finding.found_ms
            self._episodes.setdefault(series, episode)

    def turn(self) -> list[Finding]:
        """What is new, has grown or is over."""
        news, self._found = self._found, []
        now_ms = self._clock.now_ms()
        for series, episode in list(self._episodes.items()):
            over = episode.turn()
            if episode.books >= _LEAST and (over or episode.is_news()):
                finding = episode.finding(series, now_ms)
                news.append(finding.resolved(now_ms, episode.last_ms + 1) if over else finding)
            if over:
                del self._episodes[series]
        return news


class _Episode:
    """From the first such book of a series until none came for a while."""

    __slots__ = (
        "books", "first_event_ms", "first_ms", "fitting", "found_ms", "last_event_ms", "last_ms", "quiet", "stream",
        "told", "turns",
    )  # fmt: skip

    def __init__(self, stream: str, received_ms: int, event_ms: int) -> None:
        self.stream = stream
        self.books = 0
        self.first_ms = self.last_ms = received_ms
        self.first_event_ms = self.last_event_ms = event_ms
        self.fitting: Counter[str] = Counter()
        self.found_ms: int | None = None
        self.told = 0  # books, when it was told last
        self.quiet = self.turns = 0

    def add(self, fitting: str | None, received_ms: int, event_ms: int) -> None:
        """One book more."""
        self.books += 1
        self.quiet = 0
        self.last_ms = max(self.last_ms, received_ms)
        self.last_event_ms = max(self.last_event_ms, event_ms)
        name = fitting or "none"
        if name in self.fitting or len(self.fitting) < _NAMES_MAX:
            self.fitting[name] += 1

    def turn(self) -> bool:
        """A second passed; whether it is over."""
        self.turns += 1
        self.quiet += 1
        return self.quiet > _QUIET_TURNS

    def is_news(self) -> bool:
        """Whether there is something to tell of it that was not told shortly before."""
        return self.books > self.told and (self.told == 0 or self.turns >= _AGAIN_TURNS)

    def finding(self, series: Series, now_ms: int) -> Finding:
        """It, as it stands."""
        self.told, self.turns = self.books, 0
        self.found_ms = self.found_ms or now_ms
        return found(
            FindingKind.MISLABELLED,
            series=series.id,
            stream=self.stream,
            severity="warning",
            start_ms=self.first_ms,
            evidence={
                "why": "prices are not those of the symbol in the label",
                "books": self.books,
                "near_the_price_of": ", ".join(f"{name} {count}" for name, count in self.fitting.most_common(5)),
                "first_event_ms": self.first_event_ms,
                "last_event_ms": self.last_event_ms,
            },
            found_ms=self.found_ms,
        )


class Unproven:
    """Books of one symbol that were stored before anybody told its price: when, and how far they reach."""

    __slots__ = (
        "ask_min", "bid_max", "books", "first_event_ms", "first_ms", "last_event_ms", "last_ms", "series",
    )  # fmt: skip

    def __init__(self, series: Series, event_ms: int, bid: float, ask: float, received_ms: int) -> None:
        self.series = series
        self.books = 1
        self.first_event_ms = self.last_event_ms = event_ms
        self.first_ms = self.last_ms = received_ms
        self.bid_max, self.ask_min = bid, ask

    def add(self, event_ms: int, bid: float, ask: float, received_ms: int) -> None:
        """One book more."""
        self.books += 1
        self.first_event_ms, self.last_event_ms = min(self.first_event_ms, event_ms), max(self.last_event_ms, event_ms)
        self.last_ms = max(self.last_ms, received_ms)
        self.bid_max, self.ask_min = max(self.bid_max, bid), min(self.ask_min, ask)
