"""Attacks on a live exporter, while a good client continues to call it.

`python -m hostile`, from the directory `tests`, or `make hostile`, runs every attack against an
exporter in a process of its own. It runs the nearest equivalent against servers of grpcio, RPyC and
Pyro5 if these are installed (the extra `hostile`). It prints a line for each attack, and a Markdown
table that compares the servers. The rules:

- The server, the good client and the attacker are three processes. The attacker has a lower
  priority (nice), because in reality it would have a machine of its own. It sends raw bytes, so
  that no client library restricts it.
- Each attack has a fresh server, and continues until its time is over. An attacker that is cut off
  reconnects.
- The good client makes a call every 10 ms, and beside it a newcomer connects every 100 ms. If a
  slow call delays later calls, their delays count, too. In three seconds there are 300 calls and
  30 newcomers, so the newcomers' 99th percentile is the slowest of them.
- Memory growth is the maximum of the server's resident set during the attack, minus its size just
  before.
- Servers have their default settings, and run as their documentation shows. If a protocol lacks the
  feature that an attack needs, the cell says n/a.

`test_hostile.py` in this package runs the attacks on our own exporter for a fraction of a second
each.

The modules, bottom-up; each one imports only those above it:

    attacker   the sockets, the deadline and the counters of one attack
    attacks    the list of attacks: names, rows of the fault table, descriptions
    preambles, bombs
               the first bytes of other protocols; compressed messages that inflate
    sockets    attacks on any listening server
    wire_ours  valid and invalid frames of our protocol
    victim     the driver under attack
    frames, values, doors
               attacks on our protocol, on the values that it carries, and on admission
    peer       the interface of an adapter of a server
    peer_ours, peer_grpcio, peer_rpyc, peer_pyro5
               the adapters: how to serve and call each one, and its functions by attack
    peers      the table of adapters
    good, raid the processes of the good client and of the attacker
    target     the three processes, and their measurements
    table      verdicts and tables
    __main__   the command line
"""
