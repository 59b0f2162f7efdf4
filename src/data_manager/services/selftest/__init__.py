"""The self-test: faults with known seeds are put into a copy of data, and the real path must find them.

tape.py      messages with the time they were received: generated from a seed, or recorded
faults.py    what can go wrong with a tape, and exactly where it did
playing.py   a tape through decode, buffer, pack, append and audit, on a clock of its own
scoring.py   what was found of what was put in: recall, precision and detection delay
running.py   all of it, class by class
"""
