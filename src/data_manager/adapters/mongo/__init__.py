"""MongoDB: the SeriesStore of a team that outgrew one machine."""
