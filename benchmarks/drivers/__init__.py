"""Measure driver code of the published API on this core and on the published one.

`python -m benchmarks.drivers`, or `make bench-drivers`, runs the same drivers and the same client
code in two environments: that of `make compat`, which has this project, and that of `make
compat-baseline`, which has the published core. On this core, the async code of the drivers runs in
either lane. Each round starts one process after the other, so that a disturbance of the machine
affects all of them; figures are medians over the rounds, and ratios are computed within each round.

The exporter is a process of its own, at a Unix socket. The client is blocking code. Progress bars
are off.

    bench     the drivers
    exporter  serves them, in either environment
    worker    the client with its workloads, in either environment
    __main__  rounds, medians and the table
"""
