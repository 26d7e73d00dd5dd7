import errno
import time

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from segcal.service import security
from segcal.service.refusals import add_handlers
from segcal.service.security import COOKIE, cookie_of, is_cookie, protect
from segcal.service.settings import Settings

BASE = "http://127.0.0.1"
TOKEN = "a token that is long enough"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def small_client(**changed):
    """The protection around an application of some routes."""
    app = FastAPI()

    @app.get("/read")
    def read():
        return {"read": True}

    @app.post("/write")
    async def write(content: dict):
        return {"written": len(content)}

    @app.get("/slow")
    def slow():
        time.sleep(1.0)

    @app.get("/broken")
    def broken():
        raise RuntimeError("a secret of the inside")

    @app.get("/away")
    def away():
        raise ConnectionError("nobody at 10.1.2.3")

    @app.get("/full")
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    @app.get("/gone")
    def gone():
        open("/a/file/that/is/not/there")  # noqa: SIM115

    @app.get("/stream")
    def stream():
        return StreamingResponse(iter(lambda: b"for ever", b""))

    add_handlers(app)
    protect(app, Settings("sqlite:///x.db", **({"rate": 1e5, "burst": 100_000} | changed)))
    return TestClient(app, base_url=BASE, raise_server_exceptions=False)


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer é"]
)
def test_without_the_token_nothing_is_told(given):
    headers = {} if given is None else {"Authorization": given.encode()}
    answer = small_client(token=TOKEN).get("/read", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "unauthorized"


def test_metrics_can_be_left_open():
    assert small_client(token=TOKEN).get("/metrics").status_code == 401
    client = small_client(token=TOKEN, metrics_open=True)
    assert client.get("/metrics").status_code == 404  # passed, and not there
    assert client.get("/read").status_code == 401


def test_with_the_token_all_is_told():
    client = small_client(token=TOKEN)
    assert client.get("/read", headers=BEARER).json() == {"read": True}
    assert client.post("/write", json={"a": 1}, headers=BEARER).json() == {"written": 1}


def test_a_browser_without_a_cookie_is_led_to_the_form():
    answer = small_client(token=TOKEN).get("/read?x=1", headers={"Accept": "text/html"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fread%3Fx%3D1")


def test_a_cookie_is_good_until_it_ends_and_for_one_token():
    made = cookie_of(TOKEN)
    until, _, signature = made.partition(".")
    assert is_cookie(made, TOKEN)
    assert TOKEN not in made
    assert not is_cookie(made, "another token of some length")
    assert not is_cookie(f"{int(until) + 1}.{signature}", TOKEN)
    assert not is_cookie(cookie_of(TOKEN, now=time.time() - security.COOKIE_S - 1), TOKEN)
    for nonsense in ("", ".", "x.y", "²." + signature, until, f"{'9' * 5000}.{signature}"):
        assert not is_cookie(nonsense, TOKEN)


def test_a_cookie_opens_reading_and_writing_from_own_pages_only():
    client = small_client(token=TOKEN)
    client.cookies.set(COOKIE, cookie_of(TOKEN))
    assert client.get("/read").status_code == 200
    assert client.post("/write", json={}, headers={"Origin": BASE}).status_code == 200
    assert client.post("/write", json={}, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.post("/write", json={}, headers={"Origin": "null"}).status_code == 403
    assert client.post("/write", json={}, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.post("/write", json={}, headers={"Sec-Fetch-Site": "same-site"}).status_code == 403


def test_a_page_of_another_site_cannot_write_to_a_service_without_a_token():
    client = small_client()
    assert client.post("/write", json={}).status_code == 200
    assert client.post("/write", json={}, headers={"Origin": "http://evil.example"}).status_code == 403


def test_a_page_behind_a_proxy_is_of_the_public_url():
    client = small_client(token=TOKEN, public_url="https://calib.example.org/")
    client.cookies.set(COOKIE, cookie_of(TOKEN))
    assert client.post("/write", json={}, headers={"Origin": "https://calib.example.org"}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8350", "localhost:1", "[::1]:8350", "Calib.Example.Org:443"])
def test_own_names_are_answered(host):
    client = small_client(allowed_hosts=("calib.example.org",))
    assert client.get("/read", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "[::1", "::"])
def test_other_names_are_not(host):
    answer = small_client().get("/read", headers={"Host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "wrong_host")


def test_a_body_is_read_to_its_limit_only():
    client = small_client(body_bytes=1000)
    assert client.post("/write", json={"a": "x" * 900}).status_code == 200
    assert client.post("/write", json={"a": "x" * 1000}).status_code == 413
    taken = []

    def endless():  # without a length
        for number in range(1000):
            taken.append(number)
            yield b" " * 600

    answer = client.post("/write", content=endless(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_a_client_that_asks_too_often_waits():
    now = [0.0]
    client = small_client(rate=2.0, burst=3)
    layer = client.app.build_middleware_stack()
    while not isinstance(layer, security.Rate):
        layer = layer.app
    layer._clock = lambda: now[0]
    client.app.middleware_stack = layer
    assert [client.get("/read").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    assert int(client.get("/read").headers["retry-after"]) == 1
    now[0] = 1.0
    assert [client.get("/read").status_code for _ in range(3)] == [200, 200, 429]


def test_an_answer_that_takes_too_long_is_given_up():
    began = time.monotonic()
    answer = small_client(timeout_s=0.2).get("/slow")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(("path", "status"), [("/broken", 500), ("/away", 503)])
def test_no_traceback_leaves(path, status):
    answer = small_client().get(path)
    assert answer.status_code == status
    assert "secret" not in answer.text
    assert "10.1.2.3" not in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("path", ["/read", "/none", "/broken", "/away"])
def test_every_answer_has_the_headers(path):
    headers = small_client().get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe-eval" not in headers["content-security-policy"].replace("'wasm-unsafe-eval'", "")


def test_refusals_have_the_headers():
    assert small_client(token=TOKEN).get("/read").headers["x-content-type-options"] == "nosniff"
    assert small_client().get("/read", headers={"Host": "x"}).headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(("path", "status", "word"), [("/full", 503, "disk"), ("/gone", 500, "log")])
def test_a_disk_is_not_taken_for_the_store(path, status, word):
    answer = small_client().get(path)
    assert answer.status_code == status
    assert word in answer.json()["error"]["message"]
    assert "store" not in answer.text


def test_head_is_get_without_what_it_sends():
    client = small_client(token=TOKEN)
    assert client.head("/read").status_code == 401
    answer, same = client.head("/read", headers=BEARER), client.get("/read", headers=BEARER)
    assert (answer.status_code, answer.content) == (200, b"")
    assert dict(answer.headers) == dict(same.headers)
    assert client.head("/stream", headers=BEARER).status_code == 200  # and ends
    assert client.head("/none", headers=BEARER).status_code == 404
    assert client.head("/write", headers=BEARER).status_code == 405
