"""How fast the library is, beside the least that the same work can cost.

`python -m benchmarks` prints one table. Each workload of it is run through the library and through
its *floor*: the same bytes over a bare socket. The rules:

- Both ends of each side are processes of their own, over a Unix socket, and all of them are pinned
  to one core: figures then repeat to a few per cent, and no second core hides what is spent.
- The sides take turns, one round each, so that what disturbs the machine disturbs both. A ratio is
  taken within each pair of rounds; the table gives the median over the rounds, and the extremes.
- A floor is not made slower than it can be, nor the library's side faster than users have it.
- Nothing here passes or fails: a machine's figures are to be read, by somebody.

Read from the ground up; each module knows only those above it:

    payloads   the bytes that cross, the same on all sides
    worker     one end of a side, in its own process; runs in any environment
    ends       what all ends that run on Trio share
    floors     the ends of bare sockets
    ours       the ends of the library
    workloads  what is measured, and who with: pure data
    harness    processes, turns, rounds
    table      figures, and how they are shown
    __main__   the command line
"""
