"""Measure the library's speed, next to the cheapest possible implementation and other libraries.

`python -m benchmarks` prints one table. It runs each workload through several *sides*: the library,
the *floor*, which sends the same bytes over a bare socket and so shows the least that the work can
cost, and those *peers*, other libraries, for which the workload is meaningful. The rules:

- Each end of each side runs in its own process, over a Unix socket. A workload that measures time
  pins all ends to one core: its figures then repeat to within a few per cent, and no second core
  hides work. A workload that measures a rate uses one core for each end.
- The sides take turns, one round each, so that a disturbance of the machine affects all of them.
  Ratios are computed within each round. The table shows the median over the rounds, and the
  extremes. The processes are started several times, and no ratio is shown of figures that were
  measured in different modes (see `modes`).
- No side is slowed down artificially, and the library's side runs as its users run it.
- These benchmarks do not pass or fail: a person reads the figures of a machine. Only the numbers of
  instructions for a frame and for a call are checked against a limit, by `make instructions`.

Read the modules in this order; each one imports only modules that are listed before it:

    payloads       the bytes that cross the wire, the same on all sides
    worker         one end of a side, in its own process; runs in any environment
    certificates   what both ends of a side need for TLS
    link           a process between two ends that delays all bytes
    loops          the loops in which clients repeat an operation
    ends           helpers that all ends on Trio share
    floors         the ends that use bare sockets, and in `floors_tls` bare TLS
    idle           the library's servers
    ours, everyday the library's clients, alone and in everyday situations
    peers          the ends of other libraries, and their virtual environment
    framing_loops  conversion of bytes to frames and back, without a socket
    model          the types that describe workloads
    sides          units and sides that several workloads have: pure data, as the next two
    situations     the workloads that users feel first
    workloads      the other workloads, and the list of all
    memory         the memory use of a process
    processor      the processor time of a process
    harness        processes, turns, rounds
    modes          whether a figure has one mode or two
    table, record  calculation, display and storage of figures
    summary        what everyday situations cost, in a few columns
    goals          which goals a run meets
    compare        our side of two recorded runs
    plot, publish  charts of a recorded run, and publication of the run in the docs
    framing        instructions per frame
    call_loops     calls in loops, with and without a socket
    calls          instructions per call
    __main__       the command line
"""
