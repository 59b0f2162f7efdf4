"""The self-test: faults planted with known seeds into a copy of data, and what the service says of them.

tape (made from a seed, or recordings) ──> planting ──> messages + what was planted
                                              │                      │
    buffer, screen, append, watch, audit <────┘                      │
              └──> account of all that was said ──> scoring <────────┘
                                                       └──> recall, precision, delay by class of fault

tape        a small market, as the publisher sends it: bytes that follow from the seed
reading     which message says which row: what planting chooses from
planting    pure: a tape in, damaged messages and a list of truths out
playing     the real path over real stores, in the time of the data
scoring     pure: truths and account in, scores out
trial       all classes, one after the other
"""
