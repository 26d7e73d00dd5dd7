import os

import pytest

from segcal.errors import UsageError
from segcal.service.settings import Settings, check_settings, is_loopback, read_token


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"])
def test_a_loopback_address_needs_no_token(host):
    assert is_loopback(host)
    check_settings(Settings("sqlite:///x.db", host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "calib.example.org", "localhost.evil.example"])
def test_others_reach_a_service_with_a_token_only(host):
    assert not is_loopback(host)
    with pytest.raises(UsageError, match="must have a token"):
        check_settings(Settings("sqlite:///x.db", host=host))
    check_settings(Settings("sqlite:///x.db", host=host, token="0123456789abcdef"))


def test_a_short_token_is_refused_and_not_shown():
    with pytest.raises(UsageError, match="at least 16 characters, got 15") as refused:
        check_settings(Settings("sqlite:///x.db", token="0123456789abcde"))
    assert "0123456789" not in str(refused.value)
    assert "0123456789" not in repr(Settings("sqlite:///x.db", token="0123456789abcde"))


@pytest.mark.parametrize(
    ("name", "value"), [("port", 70000), ("jobs", 0), ("rate", 0.0), ("memory_gb", 0.5), ("keep_h", 0.0)]
)
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(UsageError, match=f"got {value:g}"):
        check_settings(Settings("sqlite:///x.db", **{name: value}))


def test_the_token_of_a_file_goes_before_that_of_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("of the file, long enough\n")
    file.chmod(0o600)
    monkeypatch.setenv("SEGCAL_TOKEN", "of the environment")
    assert read_token(str(file)) == ("of the file, long enough", "")
    assert read_token(None) == ("of the environment", "")
    monkeypatch.delenv("SEGCAL_TOKEN")
    assert read_token(None) == (None, "")


def test_a_token_that_others_can_read_is_warned_of(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("a token that is long enough")
    file.chmod(0o644)
    assert "chmod 600" in read_token(str(file))[1]
    monkeypatch.setattr("segcal.service.settings.MOUNTED", tmp_path)  # a container's secrets: readable, and its alone
    assert read_token(str(file))[1] == ""


@pytest.mark.parametrize("content", [b"", b"  \n", b"\xff\xfe\x00"])
def test_a_file_without_a_token_is_refused(tmp_path, content):
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(UsageError, match="--token-file must"):
        read_token(str(tmp_path / "token"))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_token(os.fspath(tmp_path / "none"))


@pytest.mark.parametrize(
    "changed",
    [{"public_url": "calib.example.org"}, {"mlflow_url": "ftp://x"}, {"allowed_hosts": ("calib.example.org:8350",)},
     {"allowed_hosts": ("https://calib.example.org",)}, {"allowed_hosts": ("",)}],
)  # fmt: skip
def test_names_and_urls_that_are_none_are_refused(changed):
    with pytest.raises(UsageError, match="must be a"):
        check_settings(Settings("sqlite:///x.db", **changed))


@pytest.mark.parametrize("host", ["calib.example.org", "10.0.0.7", "fd00::7", "*", "calib"])
def test_names_are_taken(host):
    check_settings(Settings("sqlite:///x.db", allowed_hosts=(host,), public_url="https://calib.example.org/x"))


@pytest.mark.parametrize("token", ["sixteen characters é", "sixteen characters\nand a line", "sixteen characters\x00"])
def test_a_token_that_no_header_carries_is_refused(token):
    with pytest.raises(UsageError, match="ASCII"):
        check_settings(Settings("sqlite:///x.db", token=token))
