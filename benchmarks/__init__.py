"""How fast the library is, beside the least that the same work can cost, and beside its peers.

`python -m benchmarks` prints one table. Each workload of it is run through the library, through its
*floor*, which is the same bytes over a bare socket, and through those *peers*, other libraries, for
which it is meaningful. The rules:

- Both ends of each side are processes of their own, over a Unix socket. Where time is measured all
  of them are pinned to one core: figures then repeat to a few per cent, and no second core hides
  what is spent. Where a rate is, each end has a core.
- The sides take turns, one round each, so that what disturbs the machine disturbs all. A ratio is
  taken within each round; the table gives the median over the rounds, and the extremes.
- No side is made slower than it can be, nor the library's side faster than users have it.
- Nothing here passes or fails: a machine's figures are to be read, by somebody. What can be held to
  a number is how many instructions the framing takes, by `python -m benchmarks.framing`.

Read from the ground up; each module knows only those above it:

    payloads       the bytes that cross, the same on all sides
    worker         one end of a side, in its own process; runs in any environment
    loops          what clients do with an operation
    ends           what all ends that run on Trio share
    floors         the ends of bare sockets
    idle, ours     the library's servers, and its clients
    peers          the ends of other libraries, and the environment they live in
    framing_loops  bytes to frames and back, with no socket
    model          the words that workloads are put in
    workloads      what is measured, and who with: pure data
    memory         what a process has of it
    harness        processes, turns, rounds
    table, record  figures, and how they are shown and kept
    plot, publish  a picture of a run on record, and both put into the docs
    framing        instructions for each frame
    __main__       the command line
"""
