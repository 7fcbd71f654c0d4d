"""Listening: take the port early, serve, and end gracefully on a signal."""

from __future__ import annotations

import errno
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from kvloom.config import ServerConfig
from kvloom.errors import ConfigError
from kvloom.server.edge.connection import connection_class


def bind(config: ServerConfig) -> socket.socket:
    """Bind the address, so that a port in use is reported before a model is loaded. Raises ConfigError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise ConfigError(f"cannot resolve host `{config.host}`", hint="for this machine only: 127.0.0.1") from None
    taken = socket.socket(family, kind, protocol)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        where = f"port {config.port} of {config.host}"
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"{where} is in use", hint="choose another with --port, or 0 for any free one") from None
        raise ConfigError(f"cannot listen on {where}: {error.strerror}") from None
    return taken


def check_tls(config: ServerConfig) -> None:
    """Read the certificate and its key, if TLS is wanted. Raises ConfigError, so that no model is loaded in vain."""
    if config.ssl_certfile is None or config.ssl_keyfile is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for path in filter(None, (config.ssl_certfile, config.ssl_keyfile, config.ssl_ca_certs)):
        if not Path(path).is_file():
            raise ConfigError(f"TLS: there is no file `{path}`")
    try:
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile)
        if config.ssl_ca_certs is not None:
            context.load_verify_locations(config.ssl_ca_certs)
    except OSError as error:  # what OpenSSL raises is one too
        said = getattr(error, "reason", None) or error.strerror or error
        raise ConfigError(
            f"TLS: the certificate or its key is of no use: {said}", hint="PEM files that match"
        ) from None


def url_of(bound: socket.socket, scheme: str = "http") -> str:
    """The URL of a bound socket, for example ``http://127.0.0.1:8000``."""
    host, port = bound.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"{scheme}://{host}:{port}"


class _Server(uvicorn.Server):
    """A server that reports the first stop signal."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            self._on_stop()
        super().handle_exit(sig, frame)


def make_server(app: FastAPI, config: ServerConfig, on_stop: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """Make a uvicorn server that logs warnings only. ``on_stop``: called at the first stop signal."""
    return _Server(
        uvicorn.Config(
            app,
            loop="auto",
            http=connection_class(config),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # its warnings are about clients' errors
            access_log=False,
            server_header=False,
            timeout_keep_alive=config.keep_alive_seconds,
            timeout_graceful_shutdown=config.drain_seconds,
            ssl_certfile=config.ssl_certfile,
            ssl_keyfile=config.ssl_keyfile,
            ssl_ca_certs=config.ssl_ca_certs,
            ssl_cert_reqs=ssl.CERT_NONE if config.ssl_ca_certs is None else ssl.CERT_REQUIRED,
        ),
        on_stop,
    )


def serve(app: FastAPI, bound: socket.socket, config: ServerConfig, on_stop: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGINT or SIGTERM; then wait up to ``drain_seconds`` for requests in flight, and return."""
    with _signals_return():
        make_server(app, config, on_stop).run(sockets=[bound])


def leave_within(seconds: float, say: Callable[[str], None]) -> None:
    """Terminate this process after so many seconds if it is still running, whatever its threads are doing."""

    def leave() -> None:
        say("stopped    without waiting for requests that did not finish in time")
        os._exit(0)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()


@contextmanager
def _signals_return() -> Iterator[None]:
    """Keep uvicorn from raising the signal again on exit: the engine has to be closed first."""
    names = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(name, lambda *_: None) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)
