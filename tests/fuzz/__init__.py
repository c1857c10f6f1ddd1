"""Mutated bytes against everything that reads a peer's: `make fuzz`, and `tests/test_fuzz.py`.

    corpus      what mutations start from: the specification's frames, exchanges and values
    mutation    how they are mutated, by grammar and by bytes
    framing     targets: the decoder and the scan, against their oracle
    rules       targets: a server's and a client's rules, without I/O
    live        target: an exporter in a process of its own
    covered     the first two once more, for libFuzzer, which sees what it has reached
    campaign    runs a target for a time, and makes what fails small

A *case* is a list of byte strings. A target makes one from a source of chance, and checks one
without any, so that a case that fails can be cut down and fails again.
"""

from __future__ import annotations
