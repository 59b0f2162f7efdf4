"""The ports: what the services need from the outside, and what every adapter promises.

    Clock                                   clock.py
    Bus                                     bus.py
    SeriesStore                             rows.py
    MetaStore, and all that is kept by it   notes, truth, jobs, health, alerts, lineage; the whole in metadata.py
    Source                                  source.py
    Streams, Outbox                         feed.py, for who brings live data to the bus

No driver type crosses a port: adapters translate their driver's errors at their own door (Unavailable, Conflict,
Corrupt).
"""

from data_manager.ports.bus import Bus, BusState, Delivery, Dropped
from data_manager.ports.clock import Clock
from data_manager.ports.metadata import Lease, LeaseLost, Leases, LeaseState, MetadataStore, Records
from data_manager.ports.notes import DeadLetter, KeptDeadLetter, MetaStore, SeriesStatistics
from data_manager.ports.rows import Extent, Receipt, SeriesStore, StoreSizes

__all__ = [
    "Bus",
    "BusState",
    "Clock",
    "DeadLetter",
    "Delivery",
    "Dropped",
    "Extent",
    "KeptDeadLetter",
    "Lease",
    "LeaseLost",
    "LeaseState",
    "Leases",
    "MetaStore",
    "MetadataStore",
    "Receipt",
    "Records",
    "SeriesStatistics",
    "SeriesStore",
    "StoreSizes",
]
