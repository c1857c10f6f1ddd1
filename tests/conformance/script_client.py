"""Run a client in its own process, for test_lost_peers.py to kill or stop.

python script_client.py ADDRESS call|deadline|generator|stream|on|on_items
"""

from __future__ import annotations

import sys

import trio

from jumpstarter import connect_async


async def main(address: str, what: str) -> None:
    async with connect_async(address, name=what) as client:
        sys.stdout.write("connected\n")
        sys.stdout.flush()
        match what:
            case "call":
                await client.call_async("hold")
            case "deadline":
                with trio.fail_after(1):
                    await client.call_async("hold")
            case "generator":
                async for _ in client.streamingcall_async("hold_items"):
                    pass
            case "on":
                await client.call_async("on")
                await trio.sleep_forever()
            case "on_items":
                await client.call_async("on")
                async for _ in client.streamingcall_async("hold_items"):
                    pass
            case "stream":
                async with client.stream_async("hold_stream") as stream:
                    await stream.receive_some()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
