# example.py: the driver API reference's own example
from collections.abc import Generator
from contextlib import asynccontextmanager
from anyio import connect_tcp, sleep
from jumpstarter.client import DriverClient
from jumpstarter.common.utils import serve
from jumpstarter.driver import Driver, export, exportstream

class ExampleDriver(Driver):
    @classmethod
    def client(cls) -> str:
        return "example.ExampleClient"

    @export
    def echo(self, message) -> str:
        return message

    @export
    async def echo_async(self, message) -> str:      # sync or async
        await sleep(5)
        return message

    @export
    def echo_generator(self, message) -> Generator[str, None, None]:
        for _ in range(10):
            yield message

    @exportstream
    @asynccontextmanager
    async def connect_tcp(self):                     # yields an anyio or a trio stream
        async with await connect_tcp(remote_host="127.0.0.1", remote_port=80) as stream:
            yield stream

class ExampleClient(DriverClient):
    def echo(self, message) -> str:
        return self.call("echo", message)

    def echo_generator(self, message) -> Generator[str, None, None]:
        yield from self.streamingcall("echo_generator", message)

with serve(ExampleDriver()) as client:
    assert client.echo("hello") == "hello"
    assert list(client.echo_generator("hello")) == ["hello"] * 10
