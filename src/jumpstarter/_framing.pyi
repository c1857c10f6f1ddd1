from typing import Final, Self, final

from .errors import FramingError

HEADER_SIZE: Final[int]

@final
class FrameDecoder:
    def __new__(cls, max_frame: int) -> Self: ...
    max_frame: int
    @property
    def failure(self) -> FramingError | None: ...
    @property
    def buffered(self) -> int: ...
    def feed(self, data: bytes | bytearray | memoryview) -> list[tuple[int, int, int, bytes]]: ...

def pack_frame(
    type: int, flags: int, slot: int, payload: bytes | bytearray | memoryview = b""
) -> bytes: ...
def pack_header(type: int, flags: int, slot: int, length: int) -> bytes: ...
def seal(buffer: bytearray, type: int, flags: int, slot: int) -> None: ...
def scan(
    message: bytes | bytearray | memoryview,
    max_depth: int,
    max_items: int,
    max_containers: int,
) -> int: ...
