"""What it came to: one table of what was damaged and mended, one of what is held, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from rich.text import Text

from data_manager.demo.judging import Verdict
from data_manager.demo.narrator import Narrator
from data_manager.demo.watching import Hole
from data_manager.domain.time import iso


class Incident(Struct, kw_only=True):
    """Something that was broken on purpose, and the holes it left in one series."""

    what: str
    series: str
    holes: list[Hole]
    certificates: list[str]  # ids, of what was healed
    stays: bool = False  # the source itself has nothing there

    @property
    def missing(self) -> int:
        """Rows that were missing."""
        return sum(one.missing or 0 for one in self.holes)

    @property
    def came_out(self) -> bool:
        """Whether it ended as it must: healed and certified, or known with evidence."""
        if not self.holes:
            return False
        if self.stays:
            return all(one.state == "absent_at_source" and one.evidence for one in self.holes)
        return all(one.state == "healed" for one in self.holes) and bool(self.certificates)


class Outcome(Struct, kw_only=True):
    """The end of a demonstration."""

    seed: int
    speed: float
    seconds: float
    incidents: list[Incident]
    verdicts: list[Verdict]
    ingest: dict[str, Any]  # GET /health/ingest, without its series
    dead_letters: dict[str, int]  # by reason
    certificates: int
    proven: int  # of them, verified at the end
    stopped_s: float | None = None

    @property
    def holds(self) -> bool:
        """Whether everything came out as it must."""
        return not self.problems()

    def problems(self) -> list[str]:
        """What did not, in words."""
        found = [f"{one.series}: {one.what} did not end well" for one in self.incidents if not one.came_out]
        found += [one.first for one in self.verdicts if not one.holds]
        found += [] if self.lost + self.doubled == 0 else [f"{self.lost} rows lost, {self.doubled} doubled"]
        if self.proven != self.certificates:
            found.append(f"{self.certificates - self.proven} certificates do not hold")
        missing = self.ingest["received"] - sum(
            self.ingest[name] for name in ("new", "changed", "duplicate", "rejected", "dropped", "in_flight")
        )
        if missing:
            found.append(f"{missing} events are not accounted for")
        for reason in ("undecodable", "mislabelled"):
            if not self.dead_letters.get(reason):
                found.append(f"no dead letter says {reason}")
        return found

    @property
    def holes(self) -> list[Hole]:
        """That were torn on purpose."""
        return [hole for one in self.incidents for hole in one.holes]

    @property
    def mttd_s(self) -> float | None:
        """From the first missing row's time until an audit saw the hole, on average, of those torn while it ran."""
        return _mean([hole.detected_s for one in self.incidents if not one.stays for hole in one.holes])

    @property
    def mttr_s(self) -> float | None:
        """From then until it was healed."""
        return _mean([hole.repaired_s for hole in self.holes if hole.repaired_s is not None])

    @property
    def rows(self) -> int:
        """That the exchange says there are, of all that was compared."""
        return sum(one.rows for one in self.verdicts)

    @property
    def lost(self) -> int:
        """Rows that exist at the exchange and are not held."""
        return sum(one.lacking for one in self.verdicts)

    @property
    def doubled(self) -> int:
        """Rows held more than once, or that never were."""
        return sum(one.doubled + one.extra for one in self.verdicts)

    def facts(self) -> dict[str, Any]:
        """For programs."""
        return {
            "holds": self.holds,
            "problems": self.problems(),
            "seed": self.seed,
            "speed": self.speed,
            "seconds": round(self.seconds, 1),
            "found": len(self.holes),
            "healed": sum(hole.state == "healed" for hole in self.holes),
            "absent_at_source": sum(hole.state == "absent_at_source" for hole in self.holes),
            "mttd_s": self.mttd_s,
            "mttr_s": self.mttr_s,
            "rows": self.rows,
            "lost": self.lost,
            "doubled": self.doubled,
            "excused": sum(one.excused for one in self.verdicts),
            "certificates": self.certificates,
            "proven": self.proven,
            "dead_letters": self.dead_letters,
            "ingest": self.ingest,
            "stopped_s": self.stopped_s,
            "verdicts": self.verdicts,
            "incidents": [
                {
                    "what": one.what, "series": one.series, "holes": len(one.holes), "missing": one.missing,
                    "certificates": one.certificates, "came_out": one.came_out,
                }
                for one in self.incidents
            ],
        }  # fmt: skip


def tell_incidents(narrator: Narrator, incidents: Sequence[Incident]) -> None:
    """What was broken, and what became of it."""
    heads = ("what happened", "series", "rows", "found after", "healed after", "now", "certificate")
    narrator.table(heads, [_told(one) for one in incidents], right=("rows", "found after", "healed after"))


def _told(one: Incident) -> tuple[str | Text, ...]:
    found_s = max((hole.detected_s for hole in one.holes), default=None)
    healed_s = max((hole.repaired_s or 0.0 for hole in one.holes), default=None)
    state = "known, proven" if one.stays else "healed"
    now = Text(state, "yellow" if one.stays else "green") if one.came_out else Text(f"not {state}", "bold red")
    times = ("–", "–") if one.stays else (_seconds(found_s), _seconds(healed_s))
    certificate = f"{one.certificates[0][:8]}…" if one.certificates else "–"
    return one.what, one.series, str(one.missing), *times, now, certificate


def tell_verdicts(narrator: Narrator, verdicts: Sequence[Verdict]) -> None:
    """What is held, against the exchange's truth."""
    heads = ("dataset", "series", "rows true", "lost", "extra", "altered", "doubled", "known hole", "")
    rows = [
        (
            one.dataset, one.series, f"{one.rows:,}", one.lacking, one.extra, one.altered, one.doubled,
            one.excused or "–", Text("row for row", "green") if one.holds else Text("DIFFERS", "bold red"),
        )
        for one in verdicts
    ]  # fmt: skip
    narrator.table(heads, rows, right=("series", "rows true", "lost", "extra", "altered", "doubled", "known hole"))


def tell_outcome(narrator: Narrator, outcome: Outcome) -> None:
    """The last table."""
    found = outcome.holes
    ingest = outcome.ingest
    law = " + ".join(
        f"{ingest[name]:,} {name.replace('_', ' ')}" for name in ("new", "changed", "duplicate", "rejected", "dropped")
    )
    rows = [
        ("holes found", str(len(found))),
        ("healed", f"{sum(one.state == 'healed' for one in found)}, each certified"),
        ("known, with evidence", str(sum(one.state == "absent_at_source" for one in found))),
        (
            "mean time to detect",
            f"{_seconds(outcome.mttd_s)}, from when the first missing row was due, of holes torn meanwhile",
        ),
        ("mean time to repair", f"{_seconds(outcome.mttr_s)}, from then on; both by the exchange's clock"),
        ("rows compared", f"{outcome.rows:,}"),
        ("lost", str(outcome.lost)),
        ("doubled", str(outcome.doubled)),
        ("certificates", f"{outcome.proven} of {outcome.certificates} hold"),
        ("dead letters", ", ".join(f"{count} {reason}" for reason, count in sorted(outcome.dead_letters.items()))),
        ("live events", f"{ingest['received']:,} received = {law}"),
    ]
    narrator.table(("", ""), rows)


def proof(hole: Hole) -> str:
    """The evidence of a hole at the source, in one line."""
    told = hole.evidence
    return (
        f"GET {told.get('request')} → {told.get('status')}, {told.get('rows')} rows, sha256 "
        f"{str(told.get('sha256'))[:12]}…, answered {iso(int(told.get('answered_ms') or 0))}"
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:,.0f} s"
