"""A message that ends in large bytes, which leave from where they are.

Encoding a value copies it into a buffer. For large bytes, that is one copy of many in the life of a
call, and as much memory again that the processor's cache has no room for.
"""

from __future__ import annotations

from typing import Final, TypeAlias

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["LARGE", "LargeMessage", "Message", "head_of"]

# Bytes that are sent without a copy, and of a message whose frames are joined only as it is
# decoded. Over 64 KiB - 1, so that MessagePack declares them by a length of four bytes.
LARGE: Final = 64 * 1024


class LargeMessage:
    """A message in two parts. Its length is that of both, with the header space.

    Attributes:
        head: What comes before the bytes, behind space for a frame's header. Less than a frame.
        tail: The bytes.
    """

    __slots__ = ("head", "tail")

    def __init__(self, head: bytearray, tail: bytes) -> None:
        self.head: bytearray = head
        self.tail: bytes = tail

    def __len__(self) -> int:
        return len(self.head) + len(self.tail)


# An encoded message behind space for a frame's header.
Message: TypeAlias = bytearray | LargeMessage


def head_of(message: Message) -> bytearray:
    """Return the part of a message that has all but large bytes at its end."""
    return message if isinstance(message, bytearray) else message.head
