"""Measure driver code of the published API on this core and on the published one.

`python -m benchmarks.drivers`, or `make bench-drivers`, runs the same drivers and the same client
code in two environments: that of `make compat`, which has this project, and that of `make
compat-baseline`, which has the published core. On this core, the async code of the drivers runs in
either lane. Each round starts one process after the other, so that a disturbance of the machine
affects all of them; figures are medians over the rounds, and ratios are computed within each round.

Client and exporter share a process, by `jumpstarter.common.utils.serve`, as in the tests of the
published drivers. The client is blocking code.

    worker    the drivers and the workloads, in either environment
    __main__  rounds, medians and the table
"""
