import signal
import socket
import time

import httpx
import pytest

from segcal.cli import main
from tests.service.serving import Serving


@pytest.fixture(autouse=True)
def _no_token(monkeypatch, tmp_path):
    monkeypatch.delenv("SEGCAL_TOKEN", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_it_is_not_open_to_others_without_a_token(capsys):
    assert main(["serve", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "must have a token" in capsys.readouterr().err


def test_a_short_token_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("SEGCAL_TOKEN", "short")
    assert main(["serve", "--port", "0"]) == 2
    assert "at least 16 characters, got 5" in capsys.readouterr().err


def test_a_token_file_that_is_not_there_is_refused(capsys):
    assert main(["serve", "--token-file", "none.txt"]) == 2
    assert "none.txt" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


def test_a_store_that_does_not_answer_stops_it(capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(["serve", "--port", "0"]) == 5
    assert "must answer" in capsys.readouterr().err


def test_pages_link_to_mlflow_without_the_account(monkeypatch):
    asked = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setattr("segcal.service.settings.check_settings", lambda settings: asked.append(settings))
    assert main(["serve", "--port", "0"]) == 5
    assert asked[0].mlflow_url == "http://127.0.0.1:9"
    assert asked[0].tracking_uri == "http://me:secret@127.0.0.1:9"


def test_it_serves_until_it_is_told_to_stop(tmp_path):
    token = tmp_path / "token"
    token.write_text("a token that is long enough")
    token.chmod(0o644)
    service = Serving(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path, "--token-file", str(token))
    try:
        assert service.client.get("/healthz").json() == {"status": "ok"}
        assert service.client.get("/v1/experiments").status_code == 401
        headers = {"Authorization": "Bearer a token that is long enough"}
        assert service.client.get("/v1/experiments", headers=headers).json() == {"experiments": []}
        assert httpx.get(service.url, headers={"Host": "evil.example"} | headers).status_code == 421
        began = time.monotonic()
        assert service.stop(signal.SIGINT) == 130
        assert time.monotonic() - began < 20
        assert "interrupted; analyses that were under way are finished by the next `segcal serve`" in service.log
        assert "can be read by others; chmod 600" in service.log
        assert "a token that is long enough" not in service.log
    finally:
        service.close()


def test_help_names_a_way_to_start_it(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    assert "example: segcal serve" in capsys.readouterr().out
