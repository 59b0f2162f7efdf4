"""`data-manager demo`: the whole loop on one machine with no internet, narrated, and judged row for row.

plan.py        what is played: symbols, streams, how fast time goes
world.py       the processes: simulated exchange, and the service with its bus and feed
service.py     the service in the exchange's time: what the second process runs
narrator.py    how it is told: on a terminal, in a log, or not at all
acts.py        the script, act by act
watching.py    what the service says of itself while it is played
judging.py     what is held against what the exchange says is true, row for row
summary.py     what it came to

It asks the service as anybody would, over HTTP; it knows no store and no adapter.
"""
