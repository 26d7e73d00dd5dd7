"""`segcal serve`: the analysis as a service, and the explorer of its cases."""

__all__ = ["add_serve"]

import argparse
import json
import os
import socket
from typing import Any

from segcal.cli.verb import add_verb, say
from segcal.errors import UsageError, needs


def add_serve(verbs: Any) -> None:
    """The verb."""
    verb = add_verb(
        verbs, "serve", _serve, "serve analyses and the explorer over HTTP; Ctrl-C stops it",
        "segcal serve --host 0.0.0.0 --token-file token.txt --allowed-host calib.example.org",
    )  # fmt: skip
    verb.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    verb.add_argument("--port", type=int, default=8350, help="port (default: 8350; 0: a free one)")
    verb.add_argument("--token-file", metavar="FILE", help="file with the token that requests must show (default: "
                      "$SEGCAL_TOKEN; none is needed on 127.0.0.1)")  # fmt: skip
    verb.add_argument("--allowed-host", action="append", default=[], metavar="NAME", dest="allowed_hosts",
                      help="a name by which the service is asked; repeat for more; * for any")  # fmt: skip
    verb.add_argument("--public-url", metavar="URL", help="where its users see it, such as behind a proxy")
    verb.add_argument("--mlflow-url", metavar="URL", help="MLflow's pages, for links (default: the tracking server)")
    verb.add_argument("--metrics-open", action="store_true", help="/metrics asks for no token")
    verb.add_argument("--storage", metavar="URI", help="records of sweeps, for /metrics (default: as the store says)")
    verb.add_argument("--address", metavar="RAY", help="a Ray cluster to compute on (default: $RAY_ADDRESS, or this "
                      "machine)")  # fmt: skip
    verb.add_argument("--memory-gb", type=float, default=4.0, metavar="GB", help="memory for scoring (default: 4)")
    verb.add_argument("--jobs", type=int, default=1, help="analyses computed at the same time (default: 1)")
    verb.add_argument("--upload-mb", type=float, default=2000.0, metavar="MB",
                      help="largest upload for a prediction (default: 2000)")  # fmt: skip
    verb.add_argument("--keep-hours", type=float, default=24.0, metavar="H",
                      help="how long results of predictions stay (default: 24)")  # fmt: skip
    verb.add_argument("--rate", type=float, default=50.0, metavar="N",
                      help="requests a second of one client, on average (default: 50)")  # fmt: skip


def _serve(arguments: argparse.Namespace) -> None:
    from segcal.ledger.location import anonymous, shown, tracking_uri
    from segcal.service.settings import Settings, check_settings, read_token

    token, warning = read_token(arguments.token_file)
    if warning:
        say(f"warning: {warning}")
    uri = tracking_uri()
    settings = Settings(
        tracking_uri=uri, host=arguments.host, port=arguments.port, token=token,
        allowed_hosts=tuple(arguments.allowed_hosts), storage=arguments.storage or None,
        metrics_open=arguments.metrics_open,
        mlflow_url=arguments.mlflow_url or (anonymous(uri) if uri.startswith("http") else None),
        public_url=arguments.public_url or None, address=arguments.address or None, memory_gb=arguments.memory_gb,
        jobs=arguments.jobs, upload_bytes=round(arguments.upload_mb * 1e6), keep_h=arguments.keep_hours,
        rate=arguments.rate, burst=max(1, round(10 * arguments.rate)),
    )  # fmt: skip
    check_settings(settings)
    with needs("service", "segcal serve"):
        import python_multipart  # noqa: F401 - without it FastAPI raises another kind of error

        from segcal.service.server import run_server
    listener = _listen(settings.host, settings.port)
    port = listener.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host

    def ready() -> None:
        say(f"serving {shown(uri)} at http://{host}:{port}   (API: /openapi.json, metrics: /metrics; Ctrl-C stops it)")
        if arguments.json:
            print(json.dumps({"url": f"http://{host}:{port}", "port": port, "pid": os.getpid()}), flush=True)

    run_server(settings, port, listener, ready, say)


def _listen(host: str, port: int) -> socket.socket:
    """Raises UsageError where somebody else listens there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"--host and --port must be free, got {host}:{port}: {reason}; give another --port") from None
