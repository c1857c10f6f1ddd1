"""The list of attacks, as pure data.

A *row* is the fault's number in our fault table. Descriptions use the terms of our own protocol;
the other servers get the nearest equivalent in theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

__all__ = ["ATTACKS", "PEACE", "Attack", "Setting"]

Setting: TypeAlias = Literal["plain", "token", "tls"]


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        name: The key to the attack's function in each peer.
        row: The row of the fault table.
        what: A description of the attack.
        setting: The server's configuration.
    """

    name: str
    row: str
    what: str
    setting: Setting = "plain"


PEACE: Final = Attack(
    "peace", "-", "nothing: what the machine and the good client do by themselves"
)

ATTACKS: Final = (
    PEACE,
    # --- frames ---
    Attack("rapid cancel", "A1", "CALL and CANCEL together, in all slots, answers read"),
    Attack("rapid cancel, unread", "A1", "the same on 20 connections that read nothing"),
    Attack("made resets", "A2", "500 calls, and then a CREDIT that none of them may be sent"),
    Attack("refused calls", "A2", "calls of methods that there are not, as fast as answered"),
    Attack("ping flood", "A3", "PING without end, answers not read"),
    Attack("goaway flood", "A3", "GOAWAY without end, answers not read"),
    Attack("second hello", "A3", "HELLO again and again (settings)"),
    Attack("late frames", "A4", "CANCEL and CREDIT without end for a call that has ended"),
    Attack("tiny credits", "A5", "CREDIT of one byte for each of 100 generators, in turn"),
    Attack("tiny data", "A5", "DATA of one byte on each of 100 streams, in turn"),
    Attack("results unread", "A6", "10,000 results of 1 MiB are asked for, none is read"),
    Attack("empty frames", "A7", "DATA of no bytes, and parts of no bytes"),
    Attack("tiny parts", "A7", "a message in parts of one byte each (continuations)"),
    Attack("small parts", "A7", "the same in the smallest parts that are allowed, up to the most"),
    Attack("endless messages", "A7", "parts of the largest messages, none of which ends"),
    Attack("window overflow", "A8", "CREDIT beyond 2**31-1, and DATA beyond the credit"),
    Attack("length bombs", "A9", "headers that promise the most, on 300 connections"),
    Attack("wrong protocols", "A10", "20 preambles of other protocols, and chance"),
    Attack("slow-loris", "A11", "500 connections that say HELLO a byte at a time"),
    Attack("slow-loris, admitted", "A11", "200 connections that send a call a byte at a time"),
    Attack("idle", "A11", "500 connections that never say anything"),
    Attack("stalled items", "A12", "1,000 generators whose items are never read"),
    Attack("stalled data", "A12", "1,000 streams are filled that the driver does not read"),
    Attack("broken promises", "A13", "calls in all slots of which half a part has come"),
    Attack("versions", "A14", "HELLO of every other version, and with broken fields"),
    # --- values ---
    Attack("depth", "B1", "arguments nested as deep as a frame holds"),
    Attack("lying lengths", "B2", "containers and texts that promise 4 Gi elements"),
    Attack("many values", "B2", "arguments of as many values as may be, and more"),
    Attack("many containers", "B2", "arguments of as many empty lists as may be, and more"),
    Attack("keys", "B3", "maps of crafted integers, of one key again and again, of odd keys"),
    Attack("malformed values", "B4", "bad UTF-8, 0xc1, extension types, trailing bytes"),
    Attack("bad results", "B5", "methods whose results cannot be sent"),
    Attack("names", "B7", "dunder names, properties, what is not exported, any other text"),
    Attack("log flood", "B11", "methods that raise, and texts with newlines and escapes"),
    Attack("decompression bomb", "B12", "a compressed message of 256 MiB of zeros"),
    # --- admission ---
    Attack("wrong token", "B14", "thousands of HELLOs with a wrong secret", "token"),
    Attack("half handshakes", "B14", "TLS handshakes of 300 connections that stop", "tls"),
    Attack("connect and close", "C1", "connections that end as soon as they begin"),
    Attack("hoard", "C1", "500 connections that are admitted and stay"),
    Attack("reset storm", "C3", "connections reset (RST) in the midst of calls and streams"),
)
