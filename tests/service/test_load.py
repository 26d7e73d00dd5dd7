"""Many readers at once. How quick they are served is measured by `python -m benchmarks service`."""

import asyncio
import socket

import pytest
import uvicorn
from uvicorn.server import ServerState

from benchmarks.service import pages_of, read_all
from segcal.service import server
from tests.service.serving import Serving

READERS, ROUNDS = 50, 4
HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"  # but for its end


@pytest.fixture
def serving(trained, reported, tmp_path):
    made = Serving(trained[0], tmp_path, "--rate", "100000")
    yield made
    made.close()


def test_fifty_readers_meet_no_error(serving, reported):
    pages = pages_of(serving.url, reported["run_id"], "tiny", reported["analysis_id"])
    assert len(pages) >= 8
    answers = read_all(serving.url, pages, READERS, ROUNDS)
    assert len(answers) == READERS * ROUNDS * len(pages)
    assert {(answer.status, answer.path) for answer in answers if answer.status not in (200, 304)} == set()
    assert all(answer.seconds > 0 and answer.size > 0 for answer in answers if answer.status == 200)


def test_no_part_of_an_answer_waits_for_the_one_before_it(app):
    config = uvicorn.Config(app, http=server.Connection, lifespan="off", log_config=None)
    options = []

    class Looked(server.Connection):
        def connection_made(self, transport):
            super().connection_made(transport)
            options.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    async def connect():
        config.load()
        plain = socket.socket()  # as the command line opens it: without the number of the protocol
        plain.bind(("127.0.0.1", 0))
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda: Looked(config, ServerState(), {}), sock=plain)
        reader, writer = await asyncio.open_connection(*plain.getsockname())
        writer.write(HEAD + b"Connection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 200")
        writer.close()
        listener.close()

    asyncio.run(connect())
    assert options == [1]


def test_a_client_that_does_not_say_what_it_wants_is_left(app, monkeypatch):
    monkeypatch.setattr(server, "HEAD_S", 0.3)
    config = uvicorn.Config(app, http=server.Connection, lifespan="off", log_config=None)

    async def ask():
        loop = asyncio.get_running_loop()
        config.load()
        listener = await loop.create_server(lambda: server.Connection(config, ServerState(), {}), "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        ended = []
        for words in (b"", b"GE", HEAD, HEAD + b"\r\n" + HEAD):  # nothing, a part; and after an answer, a part
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(words)
            ended.append(await asyncio.wait_for(reader.read(), 10))
            writer.close()
        listener.close()
        return ended

    silent, part, head, second = asyncio.run(ask())
    assert (silent, part, head) == (b"", b"", b"")
    assert second.startswith(b"HTTP/1.1 200")
