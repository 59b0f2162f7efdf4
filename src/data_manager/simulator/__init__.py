"""The exchange we test against and demo with: REST, websocket, archives and faults on one loopback port.

noise.py       hashes: the only source of chance, so that everything is a function of seed, symbol and time
contracts.py   what is listed, and by which rules
path.py        where the price is at any instant; mark, index and premium; funding
market.py      aggregates, fills and candles of any span, made when asked for
books.py       the order book at any instant, and what changed between two
recorded.py    recordings instead of a market
limits.py      weights, buckets, 429 and 418
rest.py        /fapi/v1: parameters, errors, answers      (rows.py, listing.py: their shapes)
streams.py     what each stream sends between two instants
hub.py         who listens to what, and the beat that sends it
ws.py          sockets: the wire, and the control protocol (session.py)
archives.py    zips of days and months with their checksums
faults.py      switches that break all of it
app.py         everything together on one port
"""
