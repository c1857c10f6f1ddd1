"""Run the test suites inside the published driver packages, unmodified, on an installed core.

suites     the packages: names, time limits, the short lane
recorder   pytest plugin, which writes down the outcome of each test as it happens
loopback   starts a command in a network namespace that has only the loopback interface
runner     runs the suite of one package, in a process and a directory of its own
verdict    compares outcomes with the baseline of the published core
report     the table, and the list of failures
"""
