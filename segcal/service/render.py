"""Turns templates into responses: escaped, with the headers of every page; a final page is rendered and packed once.

A page of a finished report never changes, so its bytes stay in memory, keyed by its URL, and readers who have them
already get 304. The pages need no script of their own in the HTML: the policy forbids it.
"""

__all__ = ["POLICY", "PageRoute", "asset", "error_page", "page", "templates"]

import functools
import gzip
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from markupsafe import Markup

import segcal
from segcal.errors import SegcalError
from segcal.service.errors import status_of

DASHBOARDS = Path(segcal.__file__).parent / "dashboards"
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)  # styles: Plotly sets them on its elements; blob and wasm: NiiVue's textures and decoders
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "vary": "accept-encoding",
}
KEPT_BYTES = 64 * 2**20
WORTH_PACKING = 1000  # bytes


@dataclass(frozen=True)
class Kept:
    """A rendered page: its bytes, the same packed, and their tag."""

    plain: bytes
    packed: bytes
    etag: str

    @classmethod
    def of(cls, html: str) -> "Kept":
        """Packed once, to be sent often."""
        plain = html.encode()
        return cls(plain, gzip.compress(plain, 6, mtime=0), f'"{hashlib.sha256(plain).hexdigest()[:24]}"')

    def response(self, request: Request, status: int = 200, cached: bool = True) -> Response:
        """304 for who has it, packed bytes for who reads them."""
        headers = HEADERS | {"cache-control": "private, no-cache" if cached else "no-store", "etag": self.etag}
        if status == 200 and self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if len(self.plain) > WORTH_PACKING and "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.packed, status, headers | {"content-encoding": "gzip"}, "text/html; charset=utf-8")
        return Response(self.plain, status, headers, "text/html; charset=utf-8")


class PageCache:
    """Final pages by URL; the least recently read go when they are more than `limit` bytes together."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit, self._bytes = limit, 0
        self._pages: OrderedDict[str, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, url: str) -> Kept | None:
        """The page of a URL, or None."""
        with self._lock:
            if url in self._pages:
                self._pages.move_to_end(url)
            return self._pages.get(url)

    def put(self, url: str, kept: Kept) -> None:
        """Keep a page; what exceeds the limit is forgotten."""
        with self._lock:
            old = self._pages.pop(url, None)
            self._pages[url] = kept
            self._bytes += _size(kept) - (_size(old) if old else 0)
            while self._bytes > self._limit and self._pages:
                self._bytes -= _size(self._pages.popitem(last=False)[1])


class PageRoute(APIRoute):
    """A route of pages: a kept page is answered at once, and an error is a page as well, in the same layout."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See FastAPI."""
        render = super().get_route_handler()

        async def answer(request: Request) -> Response:
            kept = page_cache(request.app).get(_url(request))
            if kept is not None:
                return kept.response(request)
            try:
                return await render(request)
            except SegcalError as error:
                return error_page(request, status_of(error), str(error))

        return answer


def page(request: Request, template: str, *, final: bool = False, **values: Any) -> Response:
    """Render a template. final: it is a page of a finished report, the same for ever, and kept."""
    kept = Kept.of(templates().get_template(template).render(**_frame(request.app), **values))
    if final:
        page_cache(request.app).put(_url(request), kept)
    return kept.response(request)


def error_page(request: Request, status: int, message: str) -> Response:
    """A page that says what is wrong, in the words of the error."""
    html = templates().get_template("error.html").render(**_frame(request.app), status=status, message=message)
    return Kept.of(html).response(request, status, cached=False)


@functools.cache
def templates() -> jinja2.Environment:
    """Every template of dashboards/templates, with autoescape."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(DASHBOARDS / "templates"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    found.globals |= {"asset": asset, "version": segcal.__version__}
    found.filters |= {"day": _day, "moment": _moment, "json": _json, "pair": lambda text: (text, text)}
    return found


@functools.cache
def asset(path: str) -> str:
    """URL of a file of dashboards/assets; its hash makes a changed file a new URL."""
    content = (DASHBOARDS / "assets" / path).read_bytes()
    return f"/assets/{path}?v={hashlib.sha256(content).hexdigest()[:12]}"


def page_cache(app: FastAPI) -> PageCache:
    """The pages that an application keeps; called on its event loop alone or after that."""
    if not hasattr(app.state, "page_cache"):
        app.state.page_cache = PageCache()
    found: PageCache = app.state.page_cache
    return found


def mlflow_url(app: FastAPI) -> str:
    """Where MLflow's own pages are, without a slash at the end; empty: nobody said."""
    return (app.state.settings.mlflow_url or "").rstrip("/")


def _frame(app: FastAPI) -> dict[str, Any]:
    """What the frame of every page needs."""
    return {"mlflow_url": mlflow_url(app), "has_token": app.state.settings.token is not None}


def _url(request: Request) -> str:
    return f"{request.url.path}?{request.url.query}"


def _size(kept: Kept) -> int:
    return len(kept.plain) + len(kept.packed)


def _json(value: Any) -> Markup:
    """Data for a script, in a block that no text of theirs can end."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("&", "\\u0026"))


def _moment(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _day(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}"
