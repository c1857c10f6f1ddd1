"""Fuzz tests of all code that reads bytes from a peer: `make fuzz` and `tests/test_fuzz.py`.

    corpus      the inputs of mutation: the specification's frames, exchanges and values
    mutation    mutates the corpus, by grammar and by bytes
    framing     targets: the decoder and the scan, compared with their oracle
    rules       targets: a server's and a client's rules, without I/O
    live        target: an exporter in a process of its own
    covered     the decoder and the scan as a target of libFuzzer, which is guided by coverage
    campaign    runs a target for a given time, and minimizes a failing case

A *case* is a list of byte strings. A target generates cases from a random source, but checks them
deterministically, so that a failing case fails again and can be minimized.
"""

from __future__ import annotations
