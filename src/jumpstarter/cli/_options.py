"""What the command line names, loaded: a driver, limits, a token, TLS. What is wrong is one line.

Each function takes what an option says, and gives what it stands for, or raises `SetupError` with
the line that tells why nothing can be served. `doubts` looks for what is open further than may be
meant. This file serves nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import pkgutil
import ssl
import stat
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from .._io.addresses import Address
from .._limits import Limits
from ..client import DriverClient
from ..driver import Driver
from ..errors import ConfigurationError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "ServeConfig",
    "SetupError",
    "check_options",
    "load_driver",
    "load_limits",
    "load_tls",
    "read_token",
    "startup_warnings",
]

_SHORT_TOKEN: Final = 16  # characters; fewer can be guessed
_NOT_TO_BLAME: Final = (Path(__file__).parents[1], Path(pkgutil.__file__))
_INSTALLED: Final = tuple(
    Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_LIMITS: Final = dataclasses.fields(Limits)


class SetupError(Exception):
    """Nothing can be served; the text is the line that says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What the options name, loaded: all that can be wrong with them is known."""

    address: Address
    limits: Limits
    token: str
    context: ssl.SSLContext | None
    driver: Driver


def load_driver(spec: str) -> Driver:
    """Import a module, and make a driver of what it has under a name.

    Raises:
        SetupError: There is no such module or name, it raised, or it gives no driver.
    """
    if spec.count(":") != 1:
        raise SetupError(f"{spec!r} names no driver: write package.module:Driver")
    _search_here()
    found: Any = None
    try:
        found = pkgutil.resolve_name(spec)
        driver = found if isinstance(found, Driver) or _is_client(found) else found()
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # SystemExit too: nothing can be served
        text = f"cannot make a driver of {spec!r}: {type(exc).__name__}: {exc}"
        place = _place_of(exc, found)
        raise SetupError(" ".join(text.split()) + (f" ({place})" if place else "")) from exc
    if _is_client(driver):
        raise SetupError(f"{spec!r} is a client class: name its driver's class, which is served")
    if not isinstance(driver, Driver):
        text = f"{spec!r} gives a {type(driver).__name__}, which is no jumpstarter.driver.Driver"
        raise SetupError(text)
    return driver


def _search_here() -> None:
    """Have modules of the current directory found, if there is one that still exists."""
    # `python -m` has it there already, the installed command has not.
    with contextlib.suppress(OSError):
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, here)


def _place_of(exc: BaseException, found: object) -> str:
    """Give the file and the line where making a driver has failed; empty if no file is to blame.

    The innermost frame is taken, but code of the user's rather than that of Python or of installed
    packages, in which an error of the user's often comes up.
    """
    if isinstance(exc, SyntaxError) and exc.filename:
        return f"{exc.filename}, line {exc.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(exc.__traceback__)
        # Neither our own code, nor code without a file.
        if not (_is_below(frame.filename, _NOT_TO_BLAME) or frame.filename.startswith("<"))
    ]
    frames = [each for each in frames if not _is_below(each.filename, _INSTALLED)] or frames
    if frames:
        return f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}"
    with contextlib.suppress(TypeError, OSError):  # what it was called on is known at least
        if callable(found) and (file := inspect.getsourcefile(found)):
            return f"{file}, line {inspect.getsourcelines(found)[1]}"
    return ""


def _is_below(filename: str, places: Sequence[Path]) -> bool:
    return any(Path(filename).is_relative_to(place) for place in places)


def _is_client(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, DriverClient)


def read_token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise SetupError(f"cannot read --token-file {path}: {exc}") from exc
    if not token:
        raise SetupError(f"--token-file {path} is empty, which would admit everybody")
    return token


def load_limits(settings: Sequence[str]) -> Limits:
    """Make the limits of what `--limit` says, each as NAME=VALUE.

    Raises:
        SetupError: There is no such limit, or the value is none, or they contradict each other.
    """
    kinds = {field.name: int if field.type == "int" else float for field in _LIMITS}
    given: dict[str, Any] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in kinds:
            raise SetupError(f"--limit {setting}: write NAME=VALUE, of {', '.join(kinds)}")
        try:
            given[name] = kinds[name](value)
        except ValueError:
            what = "whole number" if kinds[name] is int else "number"
            raise SetupError(f"--limit {setting}: {value!r} is no {what}") from None
    try:
        return Limits(**given)
    except ConfigurationError as exc:
        raise SetupError(f"cannot use --limit {' '.join(settings)}: {exc}") from exc


def check_options(address: Address, options: argparse.Namespace) -> None:
    """Refuse what has no meaning at an address of this kind, and would be thought to have one."""
    if address.scheme != "tcp" and options.insecure:
        raise SetupError(f"{address}: --insecure is for tcp://, and means nothing here")
    if address.scheme != "tls":
        for option in ("--tls-cert", "--tls-key", "--tls-client-ca"):
            if getattr(options, option[2:].replace("-", "_")) is not None:
                raise SetupError(f"{address} has no TLS: {option} is for tls://")
    elif options.tls_cert is None:
        raise SetupError(f"{address}: give --tls-cert, a file with the certificate")


def load_tls(address: Address, options: argparse.Namespace) -> ssl.SSLContext | None:
    if address.scheme != "tls":
        return None
    cert, key, authorities = options.tls_cert, options.tls_key, options.tls_client_ca
    _check_pem("--tls-cert", cert, "CERTIFICATE")
    if key is not None:
        _check_pem("--tls-key", key, "PRIVATE KEY")
    elif not _has_pem(cert, "PRIVATE KEY"):
        raise SetupError(f"--tls-cert {cert} holds no private key: give --tls-key, a file with it")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load_certificate(context, cert, key)
    if authorities is not None:
        _check_pem("--tls-client-ca", authorities, "CERTIFICATE")
        try:
            context.load_verify_locations(authorities)
        except OSError as exc:
            raise SetupError(f"cannot use --tls-client-ca {authorities}: {exc}") from exc
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load_certificate(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    where = f"--tls-cert {cert}" if key is None else f"--tls-key {key}"

    def refuse() -> NoReturn:  # OpenSSL would ask for it at the terminal
        why = "the key has a passphrase, which is not supported: decrypt it with `openssl pkey`"
        raise SetupError(f"cannot use {where}: {why}")

    try:
        context.load_cert_chain(cert, key, password=refuse)
    except OSError as exc:  # ssl.SSLError is one
        if isinstance(exc, ssl.SSLError) and "MISMATCH" in (exc.reason or ""):
            why = f"the key does not fit the certificate in {cert}"
            raise SetupError(f"cannot use {where}: {why}") from exc
        raise SetupError(
            f"cannot use --tls-cert {cert} with the key in {key or cert}: {exc}"
        ) from exc


def _check_pem(option: str, path: Path, kind: str) -> None:
    """Raise if a file cannot be read or has no such part; `ssl` would not say which file it is."""
    try:
        found = _has_pem(path, kind)
    except OSError as exc:
        raise SetupError(f"cannot use {option} {path}: {exc.strerror}") from exc
    if not found:
        raise SetupError(f"cannot use {option} {path}: it holds no {kind.lower()} (PEM)")


def _has_pem(path: Path, kind: str) -> bool:
    if stat.S_ISFIFO(path.stat().st_mode):  # as a shell's <(command): it can be read only once
        return True
    return f"{kind}-----".encode() in path.read_bytes()


def startup_warnings(offer: ServeConfig, options: argparse.Namespace) -> Iterator[str]:
    """Say what is open further than may be meant, or less."""
    address = offer.address
    if address.scheme != "unix" and not offer.token and options.tls_client_ca is None:
        yield "any user of this machine may use the drivers: give --token-file, or serve at unix:"
    if options.token_file is not None:
        yield from _token_warnings(options.token_file, offer.token)
    if options.allow_user is not None:
        yield from _directory_warnings(Path(address.path))


def _token_warnings(path: Path, token: str) -> Iterator[str]:
    mode = _mode_of(path, 0o600)
    if mode & 0o044:
        yield f"--token-file {path} can be read by other users (mode {mode:04o}): chmod 600 it"
    if len(token) < _SHORT_TOKEN:
        text = f"the token in --token-file {path} has {len(token)} characters, and can be guessed"
        yield f"{text}: make one with `openssl rand -hex 32`"


def _directory_warnings(socket: Path) -> Iterator[str]:
    for directory in socket.resolve().parents:
        mode = _mode_of(directory, 0o755)
        if not mode & stat.S_IXOTH:
            text = (
                f"--allow-user may let nobody in: {directory} (mode {mode:04o}) is closed to others"
            )
            yield f"{text}; serve in a directory that they can enter, as under /run"


def _mode_of(path: Path, otherwise: int) -> int:
    """Give the mode of what is at a path, or another one if it cannot be told."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return otherwise
