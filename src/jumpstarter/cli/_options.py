"""Load what the command line's options name: a driver, limits, a token and TLS.

Each function takes the value of an option and returns what it stands for, or raises `SetupError`
with the one line to print. `startup_warnings` looks for access that is broader, or narrower, than
the operator may intend. This module serves nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import pkgutil
import ssl
import stat
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from .._io.addresses import Address
from .._limits import Limits
from ..client import DriverClient
from ..driver import Driver
from ..errors import ConfigurationError
from ._current_directory import add_current_directory

if TYPE_CHECKING:  # it needs an extra
    from ._hooks import HookRunner

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "HTTPS",
    "HttpSetup",
    "ServeConfig",
    "SetupError",
    "check_options",
    "check_sharing",
    "is_https",
    "load_certificate",
    "load_driver",
    "load_limits",
    "load_tls",
    "place_of",
    "read_exclusive",
    "read_token",
    "startup_warnings",
]

HTTPS: Final = "https://"
_MIN_TOKEN: Final = 16  # characters; shorter tokens can be guessed
# Files whose frames an error does not show: this package, and the code that imports modules.
_HIDDEN_FILES: Final = (
    Path(__file__).parents[1],
    Path(pkgutil.__file__),
    Path(sysconfig.get_path("stdlib"), "importlib"),
)
_INSTALLED: Final = tuple(
    Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_LIMITS: Final = dataclasses.fields(Limits)
_IN_BYTES: Final = {
    "max_frame",
    "max_message",
    "max_pending",
    "max_unsent",
    "stream_window",
    "max_window",
    "max_total_window",
    "max_hello",
}


@dataclasses.dataclass(frozen=True)
class HttpSetup:
    """Where metrics, or the status page, are served.

    Attributes:
        address: `PORT` or `HOST:PORT`.
        token: The secret that a request must show; empty for none.
        context: TLS with the server's certificate, for `https://`.
    """

    address: str
    token: str
    context: ssl.SSLContext | None = None


class SetupError(Exception):
    """Nothing can be served; the text is the line to print."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """The values of the options, loaded and checked.

    Attributes:
        address: Where to listen.
        limits: What the exporter accepts of a client.
        token: The secret that clients must show; empty for none.
        context: TLS with the server's certificate, for `tls://`.
        driver: The root of the driver tree.
        hooks: What runs around the sessions, if the configuration has hooks.
        metrics: Where metrics are served, if they are.
        status: Where the status page is served, if it is.
        name: What the page calls the exporter.
    """

    address: Address
    limits: Limits
    token: str
    context: ssl.SSLContext | None
    driver: Driver
    hooks: HookRunner | None = None
    metrics: HttpSetup | None = None
    status: HttpSetup | None = None
    name: str = ""


# ------------------------------------------------------------------------------------- the driver


def load_driver(spec: str) -> Driver:
    """Import a module and make a driver of the object that it has under a name.

    Args:
        spec: `package.module:NAME`, where NAME is a driver class, a function that returns a driver,
            or a driver.

    Raises:
        SetupError: There is no such module or name, making the driver failed, or the object is not
            a driver.
    """
    _check_spec(spec)
    add_current_directory()
    found: Any = None
    try:
        found = pkgutil.resolve_name(spec)
        driver = found if isinstance(found, Driver) or _is_client(found) else found()
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # SystemExit too: nothing can be served
        text = f"cannot make a driver of {spec!r}: {type(exc).__name__}: {exc}"
        place = place_of(exc, found)
        text = " ".join(text.split()) + (f" ({place})" if place else "")
        raise SetupError(text + _arguments_hint(spec, found, exc)) from exc
    if _is_client(driver):
        raise SetupError(f"{spec!r} is a client class: name its driver's class, which is served")
    if not isinstance(driver, Driver):
        text = f"{spec!r} gives a {type(driver).__name__}, not a jumpstarter.driver.Driver"
        raise SetupError(text)
    return driver


def _check_spec(spec: str) -> None:
    module, _, name = spec.partition(":")
    if module.endswith(".py"):
        parts = Path(module).with_suffix("").parts
        is_below = not Path(module).is_absolute() and ".." not in parts
        dotted = ".".join(parts) if is_below else parts[-1]
        where = "" if is_below else f", in the directory {Path(module).parent}"
        raise SetupError(f"{spec!r} names a file: write {dotted}:{name or 'NAME'}{where}")
    if module.endswith((".yaml", ".yml")):
        raise SetupError(f"{spec!r} names a file that is not Python: write --config {module}")
    if not module or spec.count(":") != 1:
        raise SetupError(f"{spec!r} does not name a driver: write package.module:Driver")


def _arguments_hint(spec: str, found: object, exc: BaseException) -> str:
    """Return what to write instead of a class or function that needs arguments, or nothing."""
    if not (isinstance(exc, TypeError) and callable(found)):
        return ""
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):  # callables of C code may have no signature
        return ""
    needed = [
        each.name
        for each in parameters
        if each.default is each.empty and each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD}
    ]
    if not needed:
        return ""
    module, _, name = spec.partition(":")
    values = ", ".join(f"{each}=..." for each in needed)
    text = "name an instance, or a function without arguments, instead"
    return f"; {text}: write `tree = {name}({values})` in the module, then {module}:tree"


def place_of(exc: BaseException, found: object) -> str:
    """Return the file and line where making a driver failed; empty if no file is to blame.

    This is the innermost frame of the user's own code, since an error of the user's often comes up
    in Python's library or in an installed package; or the innermost frame of these, if none is the
    user's.
    """
    if isinstance(exc, SyntaxError) and exc.filename:
        return f"{exc.filename}, line {exc.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(exc.__traceback__)
        # A name like <string> or <frozen importlib._bootstrap> is not a file.
        if not (_is_below(frame.filename, _HIDDEN_FILES) or frame.filename.startswith("<"))
    ]
    frames = [each for each in frames if not _is_below(each.filename, _INSTALLED)] or frames
    if frames:
        return f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}"
    with contextlib.suppress(TypeError, OSError):  # where the callable itself is defined
        if callable(found) and (file := inspect.getsourcefile(found)):
            return f"{file}, line {inspect.getsourcelines(found)[1]}"
    return ""


def _is_below(filename: str, places: Sequence[Path]) -> bool:
    return any(Path(filename).is_relative_to(place) for place in places)


def _is_client(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, DriverClient)


# ------------------------------------------------------------------------------ limits and access


def read_token(path: Path | None, option: str = "--token-file") -> str:
    """Read the token from a file; empty without one.

    Args:
        path: The file.
        option: The option that has named it.

    Raises:
        SetupError: The file cannot be read, or is empty.
    """
    if path is None:
        return ""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise SetupError(f"cannot read {option} {path}: {exc}") from exc
    if not token:
        raise SetupError(f"{option} {path} is empty, which would admit every client")
    return token


def load_limits(settings: Sequence[str]) -> Limits:
    """Make the limits that `--limit` sets, each given as NAME=VALUE.

    Raises:
        SetupError: There is no such limit, a value is not a number, or limits contradict each
            other.
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
            accepted = "a whole number" if kinds[name] is int else "a number"
            if name in _IN_BYTES:
                accepted += " of bytes, like 4194304"
            raise SetupError(f"--limit {setting}: {value!r} is not {accepted}") from None
    try:
        return Limits(**given)
    except ConfigurationError as exc:
        raise SetupError(f"cannot use --limit {' '.join(settings)}: {exc}") from exc


def check_options(address: Address, options: argparse.Namespace) -> None:
    """Refuse options that have no effect at an address of this scheme.

    Raises:
        SetupError: An option has no effect, or `tls://` lacks its certificate.
    """
    if address.scheme != "tcp" and options.insecure:
        raise SetupError(f"{address}: --insecure is for tcp://, and has no effect here")
    if address.scheme != "tls":
        for option in ("--tls-cert", "--tls-key", "--tls-client-ca"):
            is_given = getattr(options, option[2:].replace("-", "_")) is not None
            if is_given and not (_may_serve_https(options) and option != "--tls-client-ca"):
                raise SetupError(f"{address} has no TLS: {option} is for tls://")
    elif options.tls_cert is None:
        raise SetupError(f"{address}: give --tls-cert, a file with the certificate")


def _may_serve_https(options: argparse.Namespace) -> bool:
    """Return whether the certificate may be for metrics, or for the status page."""
    if options.config is not None or options.exporter is not None:
        return True  # `check_certificate` looks again when the configuration was read
    return any(is_https(each or "") for each in (options.metrics, options.status))


def is_https(address: str) -> bool:
    """Return whether an address of metrics, or of the status page, asks for TLS."""
    return address.startswith(HTTPS)


def check_certificate(
    address: Address, options: argparse.Namespace, *setups: HttpSetup | None
) -> None:
    """Refuse a certificate that nothing uses.

    Raises:
        SetupError: There is one.
    """
    is_used = address.scheme == "tls" or any(each is not None and each.context for each in setups)
    if not is_used and (options.tls_cert or options.tls_key) is not None:
        text = "--tls-cert is for tls://, or https:// of metrics or of the status page"
        raise SetupError(f"{address} has no TLS: {text}")


def read_exclusive(given: Sequence[str] | None) -> bool | list[str]:
    """Return what the values of `--exclusive` stand for, as `serve_async` takes it.

    Raises:
        SetupError: It is given both with and without a path.
    """
    paths = [each for each in given or () if each]
    if paths and len(paths) < len(given or ()):
        text = "--exclusive is for the whole exporter, and --exclusive=PATH for a subtree"
        raise SetupError(f"{text}: give one of them")
    return paths or bool(given)


def check_sharing(options: argparse.Namespace) -> None:
    """Refuse options of exclusive use without it, and operators whom nothing could verify.

    Raises:
        SetupError: An option has no effect.
    """
    if (options.max_session is not None or options.operator) and not options.exclusive:
        each = {"--max-session": options.max_session is not None, "--operator": options.operator}
        given = [name for name, is_given in each.items() if is_given]
        text = f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} for an exporter in"
        more = "add --exclusive, or exclusive: true to the configuration"
        raise SetupError(f"{text} exclusive use: {more}")
    if options.operator and options.tls_client_ca is None:
        text = "--operator names the owner of a client's certificate"
        raise SetupError(f"{text}: serve at tls://, and give --tls-client-ca")


# -------------------------------------------------------------------------------------------- TLS


def load_tls(address: Address, options: argparse.Namespace) -> ssl.SSLContext | None:
    """Load the server's certificate, and the authorities for clients' certificates, for `tls://`.

    Raises:
        SetupError: A file cannot be used.
    """
    if address.scheme != "tls":
        return None
    context, authorities = load_certificate(options), options.tls_client_ca
    if authorities is not None:
        _check_pem("--tls-client-ca", authorities, "CERTIFICATE")
        try:
            context.load_verify_locations(authorities)
        except OSError as exc:
            raise SetupError(f"cannot use --tls-client-ca {authorities}: {exc}") from exc
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def load_certificate(options: argparse.Namespace) -> ssl.SSLContext:
    """Load the server's certificate.

    Raises:
        SetupError: A file cannot be used.
    """
    cert, key = options.tls_cert, options.tls_key
    _check_pem("--tls-cert", cert, "CERTIFICATE")
    if key is not None:
        _check_pem("--tls-key", key, "PRIVATE KEY")
    elif not _has_pem(cert, "PRIVATE KEY"):
        raise SetupError(f"--tls-cert {cert} holds no private key: give --tls-key, a file with it")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load_certificate(context, cert, key)
    return context


def _load_certificate(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    where = f"--tls-cert {cert}" if key is None else f"--tls-key {key}"

    def refuse() -> NoReturn:  # without it, OpenSSL would ask for the passphrase at the terminal
        why = "the key has a passphrase, which is not supported: decrypt it with `openssl pkey`"
        raise SetupError(f"cannot use {where}: {why}")

    try:
        context.load_cert_chain(cert, key, password=refuse)
    except OSError as exc:  # the base class of ssl.SSLError
        if isinstance(exc, ssl.SSLError) and "MISMATCH" in (exc.reason or ""):
            why = f"the key does not fit the certificate in {cert}"
            raise SetupError(f"cannot use {where}: {why}") from exc
        raise SetupError(
            f"cannot use --tls-cert {cert} with the key in {key or cert}: {exc}"
        ) from exc


def _check_pem(option: str, path: Path, kind: str) -> None:
    """Raise if a file cannot be read or lacks a section; `ssl` would not name the file."""
    try:
        found = _has_pem(path, kind)
    except OSError as exc:
        raise SetupError(f"cannot use {option} {path}: {exc.strerror}") from exc
    if not found:
        raise SetupError(f"cannot use {option} {path}: it holds no {kind.lower()} (PEM)")


def _has_pem(path: Path, kind: str) -> bool:
    if stat.S_ISFIFO(path.stat().st_mode):  # as of a shell's <(command): it can be read only once
        return True
    return f"{kind}-----".encode() in path.read_bytes()


# --------------------------------------------------------------------------------------- warnings


def startup_warnings(config: ServeConfig, options: argparse.Namespace) -> Iterator[str]:
    """Yield a warning for access that is broader, or narrower, than the operator may intend."""
    address = config.address
    if address.scheme != "unix" and not config.token and options.tls_client_ca is None:
        yield "any user of this machine may use the drivers: give --token-file, or serve at unix:"
    if options.passphrase is not None:
        yield from _passphrase_warnings(config, options)
    if options.token_file is not None:
        yield from _token_warnings(options.token_file, config.token)
    if options.allow_user is not None:
        yield from _directory_warnings(Path(address.path))


def _passphrase_warnings(config: ServeConfig, options: argparse.Namespace) -> Iterator[str]:
    if options.is_passphrase_visible:
        text = "all users of this machine can see --passphrase in the list of processes"
        yield f"{text}: give --token-file, or set JMP_GRPC_PASSPHRASE"
    if options.insecure:
        yield "the passphrase crosses the network in cleartext: serve at tls://"
    if len(config.token) < _MIN_TOKEN:
        text = f"the passphrase has {len(config.token)} characters, and can be guessed"
        yield f"{text}: make one with `openssl rand -hex 32`"


def _token_warnings(path: Path, token: str) -> Iterator[str]:
    mode = _mode_of(path, 0o600)
    if mode & 0o044:
        yield f"--token-file {path} can be read by other users (mode {mode:04o}): chmod 600 it"
    if len(token) < _MIN_TOKEN:
        text = f"the token in --token-file {path} has {len(token)} characters, and can be guessed"
        yield f"{text}: make one with `openssl rand -hex 32`"


def _directory_warnings(socket: Path) -> Iterator[str]:
    for directory in socket.resolve().parents:
        mode = _mode_of(directory, 0o755)
        if not mode & stat.S_IXOTH:
            text = f"--allow-user may have no effect: {directory} (mode {mode:04o})"
            text += " is closed to other users"
            yield f"{text}; serve in a directory that they can enter, like one under /run"


def _mode_of(path: Path, default: int) -> int:
    """Return the permission bits of a file, or a default if they cannot be read."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return default
