"""The parts of backfill: what may be asked for, which source is asked, how a job is run, and how it is told."""
