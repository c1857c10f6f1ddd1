"""Serve the drivers on the core of this environment, until stdin ends.

The arguments are the lane (trio, asyncio, or published for that core), the directory of opendal's
files, and the path of the socket.
"""

from __future__ import annotations

import sys

import anyio
from jumpstarter_driver_composite.driver import Composite
from jumpstarter_driver_opendal.driver import Opendal

from jumpstarter.driver import Driver

from .bench import AsyncioBench, Bench


def tree(lane: str, directory: str) -> Composite:
    children: dict[str, Driver] = {"bench": Bench() if lane == "trio" else AsyncioBench()}
    if lane == "asyncio":  # opendal needs asyncio on either core
        children["files"] = Opendal(scheme="fs", kwargs={"root": directory})
    return Composite(children=children)


async def until_stdin_ends() -> None:
    print("ready", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.read)


async def serve_published(root: Composite, path: str) -> None:
    from jumpstarter.exporter import Session  # noqa: PLC0415 - only the published core has it

    from jumpstarter.common import ExporterStatus  # noqa: PLC0415

    with Session(root_device=root) as session:
        async with session.serve_port_async(f"unix://{path}"):
            session.update_status(ExporterStatus.LEASE_READY)
            await until_stdin_ends()


async def serve_here(root: Composite, path: str) -> None:
    from jumpstarter import serve_async  # noqa: PLC0415 - the published core has none

    async with serve_async(root, f"unix:{path}"):
        await until_stdin_ends()


if __name__ == "__main__":
    lane, directory, path = sys.argv[1:]
    if lane == "published":
        anyio.run(serve_published, tree("asyncio", directory), path)
    else:
        anyio.run(serve_here, tree(lane, directory), path, backend="trio")
