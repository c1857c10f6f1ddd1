"""Attacks on a live exporter, while a good client goes on calling it.

`python -m hostile`, from the directory `tests`, or `make hostile`: runs every attack against an
exporter in a process of its own, and the nearest equivalent against servers of grpcio, RPyC and
Pyro5 where these are installed (the extra `hostile`). Prints a line for each, and a table in
Markdown that compares them. The rules:

- The server, the good client and the attacker are three processes. The attacker is niced, as it
  would be on a machine of its own, and speaks from bytes: no client library holds it back.
- Each attack has a fresh server, and goes on until its time is over. Who is cut off comes back.
- The good client makes a call every 10 ms, and a newcomer beside it connects every 100 ms. Calls
  that a slow one has kept from being made in time count as having waited, too. In three seconds
  there are 300 calls and 30 newcomers: the latter's 99th percentile is the slowest of them.
- Memory is the server's resident set, at its highest during the attack, over that just before.
- Servers have their defaults, and run as their documentation shows. Where a protocol has no such
  thing as the attack needs, the cell says n/a.

`test_hostile.py` beside it runs the attacks on our own exporter for a fraction of a second each.

Read from the ground up; each module knows only those above it:

    attacker   one attack's sockets, its time, and what is counted
    attacks    what there is: names, rows of the fault table, what each does
    preambles, bombs
               what speaks another protocol; much in few bytes
    sockets    attacks on anything that listens
    wire_ours  our frames, right and wrong
    victim     the driver that is attacked
    frames, values, doors
               attacks on our protocol, on what it carries, and on who may come in
    peer       what an adapter of a server has to say
    peer_ours, peer_grpcio, peer_rpyc, peer_pyro5
               how each is served and called, and which function is which attack
    peers      the table of them
    good, raid the good client's process, and the attacker's
    target     the processes, and what is measured of them
    table      figures, and how they are shown
    __main__   the command line
"""
