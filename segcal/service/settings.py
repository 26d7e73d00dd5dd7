"""What a service is told when it starts, and what it refuses."""

__all__ = ["Settings", "check_settings", "is_loopback", "read_token"]

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from segcal.errors import UsageError

LEAST_TOKEN = 16  # characters
MOUNTED = Path("/run/secrets")  # where a container finds its secrets; it has no other users that could read them


@dataclass(frozen=True)
class Settings:
    """One service: where it listens, who may ask, what it works with, and how much of anything it takes."""

    tracking_uri: str
    host: str = "127.0.0.1"
    port: int = 8350
    token: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()  # names by which it is asked, beside this machine's own and `host`
    metrics_open: bool = False  # /metrics asks for no token
    storage: str | None = None  # records of sweeps, for the metrics; None: what the store says
    mlflow_url: str | None = None  # of MLflow's pages, for links
    public_url: str | None = None  # of this service, as its users see it
    address: str | None = None  # of a Ray cluster; None: Ray of this machine
    memory_gb: float = 4.0  # for scoring
    jobs: int = 1  # analyses computed at the same time; others wait
    body_bytes: int = 1_000_000  # of any request but an upload
    upload_bytes: int = 2_000_000_000  # of all files of a prediction
    predictions: int = 20  # that wait or are computed; more are refused
    keep_h: float = 24.0  # how long the results of a prediction stay
    rate: float = 50.0  # requests a second of one client, on average
    burst: int = 500  # requests that may come at once
    timeout_s: float = 60.0  # for a request that does not stream


def check_settings(settings: Settings) -> None:
    """Raises UsageError where the service would be open to others without a secret, or a number is out of range."""
    if settings.token is not None and len(settings.token) < LEAST_TOKEN:
        raise UsageError(
            f"the token must have at least {LEAST_TOKEN} characters, got {len(settings.token)}; make one with: "
            "openssl rand -hex 24"
        )
    if settings.token is not None and not (settings.token.isascii() and settings.token.isprintable()):
        raise UsageError(
            "the token must be one line of ASCII characters, as a header can carry it, got others; make one with: "
            "openssl rand -hex 24"
        )
    if settings.token is None and not is_loopback(settings.host):
        raise UsageError(
            f"a service that others reach must have a token, got --host {settings.host} without one; give "
            "--token-file or set SEGCAL_TOKEN"
        )
    for name, url in (("--public-url", settings.public_url), ("--mlflow-url", settings.mlflow_url)):
        if url is not None and not re.match(r"https?://[^/\s]+", url):
            raise UsageError(f"{name} must be a URL such as https://calib.example.org, got '{url}'")
    for host in settings.allowed_hosts:
        if not re.fullmatch(r"\*|[A-Za-z0-9.-]+|[0-9A-Fa-f:]+", host):
            raise UsageError(f"--allowed-host must be a name or an address without a port, got '{host}'")
    bounds = {
        "--port": (settings.port, 0, 65535), "--jobs": (settings.jobs, 1, 64), "--rate": (settings.rate, 0.1, 1e6),
        "--memory-gb": (settings.memory_gb, 1.0, 1e5), "--upload-mb": (settings.upload_bytes / 1e6, 0.001, 1e6),
        "--keep-hours": (settings.keep_h, 0.01, 1e5),
    }  # fmt: skip
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise UsageError(f"{name} must lie between {low:g} and {high:g}, got {value:g}")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a service that listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(file: str | None) -> tuple[str | None, str]:
    """The token of a file, else of $SEGCAL_TOKEN, else None; and a warning, or "".

    Raises UsageError where the file cannot be read or is empty.
    """
    if not file:
        return os.environ.get("SEGCAL_TOKEN", "").strip() or None, ""
    path = Path(file)
    try:
        token, mode = path.read_text().strip(), path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"--token-file must be readable, got {file}: {reason}") from None
    if not token:
        raise UsageError(f"--token-file must hold a token, got an empty {file}; make one with: openssl rand -hex 24")
    others = mode & 0o077 and path.parent != MOUNTED
    return token, f"the token in {file} can be read by others; chmod 600 {file}" if others else ""
