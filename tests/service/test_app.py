import asyncio
import time

import anyio
import httpx
import pytest
from mlflow.exceptions import MlflowException

from segcal.errors import StoreUnreachable
from segcal.service.app import Readiness, create_app
from segcal.service.security import COOKIE
from segcal.service.settings import Settings
from tests.service.conftest import BASE

TOKEN = "a token that is long enough"


def test_a_store_that_is_not_there_stops_the_start():
    with pytest.raises(StoreUnreachable):
        create_app(Settings("http://127.0.0.1:9"))


def test_it_lives_and_is_ready(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}


def test_it_is_not_ready_while_the_store_is_away(client, app):
    before = app.state.readiness
    app.state.readiness = lambda: "the tracking store must answer, got none; see whether it runs"
    answer = client.get("/readyz")
    app.state.readiness = before
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert "must answer" in answer.json()["error"]["message"]
    assert client.get("/healthz").status_code == 200


def test_readiness_does_not_wait_for_a_store_that_hangs(monkeypatch):
    class Hanging:
        def search_experiments(self, max_results):
            time.sleep(0.5)

    class Away:
        def search_experiments(self, max_results):
            raise MlflowException("no", error_code=14)

    monkeypatch.setattr("segcal.service.app.READY_S", 0.1)
    began = time.monotonic()
    assert "within 0.1 s" in Readiness(Hanging()).reason()
    assert time.monotonic() - began < 0.45
    assert "got none" in Readiness(Away()).reason()


def test_a_store_that_goes_away_is_503(client, app, monkeypatch):
    def away(*_, **__):
        raise ConnectionError("refused by 10.1.2.3")

    monkeypatch.setattr(app.state.catalogue, "experiments", away)
    answer = client.get("/v1/experiments")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert "10.1.2.3" not in answer.text


def test_another_method_is_told_the_right_ones(client):
    answer = client.put("/v1/analyses")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert answer.json()["error"]["code"] == "method_not_allowed"


def test_a_browser_gets_a_page_of_what_is_wrong(client):
    answer = client.get("/nothing/<script>alert(1)", headers={"Accept": "text/html"})
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "<script>alert" not in answer.text


def test_assets_by_their_hash_are_kept_for_ever(client):
    assert "immutable" in client.get("/assets/segcal.css?v=1").headers["cache-control"]
    assert client.get("/assets/segcal.css").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path", ["../templates/layout.html", "%2e%2e/templates/layout.html", "..%2ftemplates/layout.html"]
)
def test_assets_are_all_that_is_served_of_the_dashboards(client, path):
    assert client.get(f"/assets/{path}").status_code == 404


def test_the_form_gives_a_cookie_for_the_token(make_client):
    client = make_client(token=TOKEN)
    assert client.get("/", headers={"Accept": "text/html"}, follow_redirects=False).status_code == 303
    wrong = client.post("/login", data={"token": "a wrong one of some length"})
    assert wrong.status_code == 401
    assert "set-cookie" not in wrong.headers
    right = client.post("/login", data={"token": TOKEN, "next": "/experiments/tiny?x=1"}, follow_redirects=False)
    assert (right.status_code, right.headers["location"]) == (303, "/experiments/tiny?x=1")
    said = right.headers["set-cookie"].lower()
    assert "httponly" in said
    assert "samesite=strict" in said
    assert TOKEN not in right.headers["set-cookie"]
    assert client.cookies[COOKIE]
    assert client.get("/v1/experiments").status_code == 200
    assert 'action="/logout"' in client.get("/").text
    assert client.post("/logout", follow_redirects=False).status_code == 303
    assert client.get("/v1/experiments").status_code == 401


@pytest.mark.parametrize("leads", ["//evil.example", "https://evil.example/", "/\\evil.example", "evil", "/a\r\nb: c"])
def test_the_form_leads_nowhere_else(make_client, leads):
    answer = make_client(token=TOKEN).post("/login", data={"token": TOKEN, "next": leads}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_the_form_shows_what_it_is_given_as_text(make_client):
    text = make_client(token=TOKEN).get("/login", params={"next": '/"><script>alert(1)</script>'}).text
    assert "alert(1)</script>" not in text
    assert "alert(1)&lt;/script&gt;" in text


def test_the_schema_names_every_error_and_no_other_site(client):
    schema = client.get("/openapi.json").json()
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            refused = set(operation["responses"])
            assert {"421", "429"} <= refused, (path, method)
            for status, answer in operation["responses"].items():
                if status >= "400":
                    assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody"), (
                        path,
                        status,
                    )
    assert client.get("/docs").status_code == 404


def test_it_is_known_to_live_while_every_thread_waits(app):
    async def ask():
        limiter = anyio.to_thread.current_default_thread_limiter()
        limiter.total_tokens = 1
        await limiter.acquire_on_behalf_of("a store that hangs")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as client:
            answers = [await asyncio.wait_for(client.get(path), 10) for path in ("/healthz", "/readyz")]
        limiter.release_on_behalf_of("a store that hangs")
        return [answer.status_code for answer in answers]

    assert asyncio.run(ask()) == [200, 200]


@pytest.mark.parametrize(
    "following",
    ["http://[x", "//evil.example", "/\\evil.example", "/\t/evil.example", "https://evil.example", "javascript:x"],
)  # fmt: skip
def test_the_form_leads_to_pages_of_this_service_only(make_client, following):
    form = {"token": TOKEN, "next": following}
    answer = make_client(token=TOKEN).post("/login", data=form, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
