"""Use a board for tests of exclusive use: ADDRESS NAME [block].

It prints `in` when it has its turn, and stays until its stdin ends. With `block`, a call runs
meanwhile, which only a lost connection ends.
"""

from __future__ import annotations

import sys

from jumpstarter import connect


def main() -> None:
    """Run the script."""
    address, name, *rest = sys.argv[1:]
    with connect(address, name=name) as board:
        board.call("note", name)
        print("in", flush=True)
        if rest:
            board.call("block", name)
        sys.stdin.read()


if __name__ == "__main__":
    main()
