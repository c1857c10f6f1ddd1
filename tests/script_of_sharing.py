"""Use a board for tests of exclusive use: ADDRESS NAME [block] [claim=BOARD].

It prints `in` when it has its turn, and stays until its stdin ends. With `block`, a call runs
meanwhile, which only a lost connection ends. With BOARD, it uses one of the boards of a bench.
"""

from __future__ import annotations

import sys

from jumpstarter import connect


def main() -> None:
    """Run the script."""
    address, name, *rest = sys.argv[1:]
    claim = next((word.removeprefix("claim=") for word in rest if word != "block"), "")
    with connect(address, name=name, claim=claim or True) as root:
        board = root.children[claim] if claim else root
        board.call("note", name)
        print("in", flush=True)
        if "block" in rest:
            board.call("block", name)
        sys.stdin.read()


if __name__ == "__main__":
    main()
