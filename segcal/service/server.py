"""Runs the application with uvicorn until it is told to stop."""

__all__ = ["run_server"]

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from segcal.environment import environment
from segcal.ledger.store import IMPATIENT
from segcal.service.app import create_app
from segcal.service.settings import Settings

CLOSE_S = 3  # for answers that are under way when it stops
HEAD_S = 30.0  # for a client to say what it wants


class Connection(H11Protocol):
    """A connection that is closed where no whole request comes: open ones cost a file each, and there are not many."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See uvicorn."""
        super().connection_made(transport)
        # asyncio does so where the listening socket names its protocol. Else the second part of an answer waits 40 ms
        # for the client to acknowledge the first.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._limit = self.loop.call_later(HEAD_S, self._give_up)

    def data_received(self, data: bytes) -> None:
        """See uvicorn, which waits for ever for the rest of a head."""
        super().data_received(data)
        if self._answers and self._limit:
            self._limit.cancel()
            self._limit = None
        elif not self._answers and not self._limit:
            self._limit = self.loop.call_later(HEAD_S, self._give_up)

    @property
    def _answers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _give_up(self) -> None:
        self._limit = None
        if not self._answers:
            self.transport.close()


class Server(uvicorn.Server):
    """Ctrl-C or SIGTERM stops it, with streams that are open; a second one does not wait."""

    def __init__(self, app: FastAPI, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._ready = app, ready
        self.interrupted = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        loop = asyncio.get_running_loop()

        def listen_again() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: all is over
                loop.call_soon_threadsafe(self.listen)

        self._app.state.jobs.cluster.signals_taken = listen_again
        await super().startup(sockets)
        if self.started:
            self._ready()

    def listen(self) -> None:
        """Take the signals, again."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn, which would raise the signal again when all is closed."""
        self.interrupted = self.interrupted or sig == signal.SIGINT
        self.force_exit = self.should_exit
        self.should_exit = True
        self._app.state.jobs.stop()


def run_server(
    settings: Settings, port: int, listener: socket.socket, ready: Callable[[], None], say: Callable[[str], None]
) -> None:
    """Serve on a socket that listens; `ready` is called when it does.

    Raises StoreUnreachable where the store does not answer at the start, KeyboardInterrupt after Ctrl-C.
    """
    logging.getLogger("segcal.service").setLevel(logging.INFO)
    app = create_app(replace(settings, port=port), say)
    config = uvicorn.Config(
        app, http=Connection, log_config=None, access_log=False, server_header=False, date_header=True, lifespan="on",
        timeout_graceful_shutdown=CLOSE_S, timeout_keep_alive=30, h11_max_incomplete_event_size=65536,
    )  # fmt: skip
    server = Server(app, config, ready)
    with environment(IMPATIENT):
        asyncio.run(server.serve(sockets=[listener]))
    if server.interrupted:
        raise KeyboardInterrupt("analyses that were under way are finished by the next `segcal serve`")
