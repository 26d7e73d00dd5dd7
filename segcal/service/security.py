"""Who may ask, by which name, how often, how much, how long; and what every answer says to browsers.

Middleware in plain ASGI, so that streams stay streams. The order stands in `protect`.
"""

__all__ = ["COOKIE", "cookie_of", "protect"]

import asyncio
import contextlib
import errno
import hashlib
import hmac
import logging
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote, urlsplit

from fastapi import FastAPI, HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segcal.ledger.store import is_away
from segcal.service.errors import wants_page
from segcal.service.refusals import refuse
from segcal.service.render import POLICY
from segcal.service.settings import Settings

COOKIE = "segcal"
COOKIE_S = 7 * 24 * 3600
OPEN = ("/healthz", "/readyz", "/login")  # and /assets/: asked without a token
SAFE = ("GET", "HEAD", "OPTIONS")
CLIENTS = 10_000  # whose rates are remembered
UPLOAD = "/v1/predict"
UPLOAD_S = 1800.0
ALWAYS = {
    "content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "same-origin",
    "cache-control": "no-store", "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}  # fmt: skip

_log = logging.getLogger("segcal.service")


def protect(app: FastAPI, settings: Settings) -> None:
    """Every request passes from the last of these to the first."""
    app.add_middleware(Defects)
    app.add_middleware(Deadline, seconds=settings.timeout_s)
    app.add_middleware(Bodies, limit=settings.body_bytes, upload=settings.upload_bytes)
    app.add_middleware(Access, settings=settings)
    app.add_middleware(Rate, per_s=settings.rate, burst=settings.burst)
    app.add_middleware(Hosts, settings=settings)
    app.add_middleware(Said)
    app.add_middleware(Heads)


def cookie_of(token: str, now: float | None = None) -> str:
    """What a browser shows instead of the token: when it ends, signed with the token. The token cannot be got of it."""
    until = int((time.time() if now is None else now) + COOKIE_S)
    return f"{until}.{_signed(token, until)}"


def is_cookie(value: str, token: str) -> bool:
    """Whether we made it, and it has not ended."""
    until, _, signature = value.partition(".")
    if not (until.isascii() and until.isdigit() and len(until) < 16) or int(until) < time.time():
        return False
    return hmac.compare_digest(signature.encode(), _signed(token, int(until)).encode())


def is_token(given: str, token: str) -> bool:
    """In a time that does not depend on how much of it is right."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


class _Layer(ABC):
    """One check: `before` gives the refusal, or None where the request may pass."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self.before(Request(scope))
        await (refusal or self.app)(scope, receive, send)

    @abstractmethod
    def before(self, request: Request) -> Response | None: ...


class Said:
    """Headers of every answer, where it says nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in ALWAYS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, say)


class Heads:
    """HEAD is answered as GET is, without what GET would send."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def begin(message: Message) -> None:
            if message["type"] != "http.response.start":
                raise _Enough  # a stream would go on for ever
            await send(message)
            await send({"type": "http.response.body"})

        scope["method"] = "GET"
        with contextlib.suppress(_Enough):
            await self.app(scope, receive, begin)


class _Enough(Exception):
    """The head is sent."""


class Hosts(_Layer):
    """Asked by a name of this service only: a page elsewhere cannot have its own name lead here (DNS rebinding)."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(app)
        names = {"localhost", "127.0.0.1", "::1", *settings.allowed_hosts}
        if settings.host not in ("0.0.0.0", "::"):
            names.add(settings.host)
        if settings.public_url:
            names.add(urlsplit(settings.public_url).hostname or "")
        self._names = {name.lower() for name in names}

    def before(self, request: Request) -> Response | None:
        name = _hostname(request.headers.get("host", ""))
        if name in self._names or "*" in self._names or request.scope["path"] == "/healthz":
            return None
        return refuse(
            request, 421, f"a service must be asked by one of its names, got '{name[:100]}'; give --allowed-host"
        )


class Rate(_Layer):
    """A bucket of tokens for each client: `burst` requests at once, `per_s` on average."""

    def __init__(self, app: ASGIApp, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(app)
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> requests left, at which time

    def before(self, request: Request) -> Response | None:
        if request.scope["path"].startswith("/assets/"):
            return None
        client, now = request.client.host[:64] if request.client else "", self._clock()
        left, at = self._left.pop(client, (float(self._burst), now))
        left = min(float(self._burst), left + (now - at) * self._per_s)
        self._left[client] = max(left - 1.0, 0.0) if left >= 1.0 else left, now
        if len(self._left) > CLIENTS:
            self._left.popitem(last=False)
        if left >= 1.0:
            return None
        wait_s = max(1, round((1.0 - left) / self._per_s + 0.5))
        message = f"a client must send at most {self._per_s:g} requests a second, got more; wait {wait_s} s"
        return refuse(request, 429, message, {"retry-after": str(wait_s)})


class Access(_Layer):
    """The token, or a cookie of who gave it; and no page of another site may change anything."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(app)
        self._token = settings.token
        self._open = (*OPEN, "/metrics") if settings.metrics_open else OPEN
        self._public = urlsplit(settings.public_url).netloc.lower() if settings.public_url else None

    def before(self, request: Request) -> Response | None:
        path = request.scope["path"]
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        bearer = scheme.lower() == "bearer"
        if self._token and bearer and is_token(given.strip(), self._token):
            return None  # no browser sends it by itself
        if request.method not in SAFE and not self._same_origin(request):
            return refuse(request, 403, "a request that changes something must come from a page of this service")
        if self._token is None or path in self._open or path.startswith("/assets/"):
            return None
        if not bearer and is_cookie(_cookie(request.headers), self._token):
            return None
        if request.method == "GET" and not bearer and wants_page(path, request.headers.get("accept", "")):
            asked = request.scope["query_string"].decode("latin-1")
            query = f"?{asked}" if asked else ""
            return RedirectResponse(f"/login?next={quote(path + query, safe='')}", 303)
        message = "a request must show the service's token (Authorization: Bearer …), got "
        return refuse(request, 401, message + ("a wrong one" if bearer else "none"), {"www-authenticate": "Bearer"})

    def _same_origin(self, request: Request) -> bool:
        """Whether a browser says that it comes from here, or says nothing: then it is none, or an old one."""
        if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return False
        origin = request.headers.get("origin")
        if origin is None:
            return True
        try:
            return urlsplit(origin).netloc.lower() in (request.headers.get("host", "").lower(), self._public)
        except ValueError:  # half an IPv6 address
            return False


class Bodies:
    """Reads no more of a body than a request may have."""

    def __init__(self, app: ASGIApp, limit: int, upload: int) -> None:
        self.app, self._limit, self._upload = app, limit, upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self._upload if scope["path"] == UPLOAD and scope["method"] == "POST" else self._limit
        message = f"a body must have at most {limit:,} bytes, got more"
        length = Headers(scope=scope).get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > limit:
            await refuse(Request(scope), 413, message)(scope, receive, send)
            return
        got = 0

        async def counted() -> Message:
            nonlocal got
            part = await receive()
            got += len(part.get("body", b""))
            if got > limit:
                raise HTTPException(413, message)
            return part

        await self.app(scope, counted, send)


class Deadline:
    """An answer begins in time, or it is 503. What has begun, a stream or a download, may go on."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        seconds = max(UPLOAD_S, self._seconds) if scope["path"] == UPLOAD else self._seconds
        try:
            async with asyncio.timeout(seconds) as limit:

                async def begin(message: Message) -> None:
                    limit.reschedule(None)
                    await send(message)

                await self.app(scope, receive, begin)
        except TimeoutError:
            if not limit.expired():
                raise
            refusal = refuse(Request(scope), 503, f"an answer must begin within {seconds:g} s, got none; try again")
            await refusal(scope, receive, send)


class Defects:
    """What no handler knows: 503 where the store is away, else 500; the log has the traceback, the answer has none."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def begin(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, begin)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            request = Request(scope)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                _log.error("%s %r: %s", scope["method"], scope["path"], error.strerror)
                answer = refuse(request, 503, "the service's disk must have room, got none; tell who runs it")
            elif is_away(error) and getattr(error, "filename", None) is None:  # a file that is gone is no store
                _log.warning("%s %r: %s", scope["method"], scope["path"], str(error).strip().splitlines()[:1])
                answer = refuse(request, 503, "the tracking store must answer, got none; try again later")
            else:
                _log.exception("%s %r failed", scope["method"], scope["path"])
                answer = refuse(request, 500, "the service failed at this request; its log says why")
            await answer(scope, receive, send)


def _signed(token: str, until: int) -> str:
    return hmac.new(token.encode(), f"segcal cookie until {until}".encode(), hashlib.sha256).hexdigest()


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _hostname(host: str) -> str:
    """Of a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower() if "]" in host else ""
    return host.rpartition(":")[0].lower() if host.rpartition(":")[2].isdigit() and ":" in host else host.lower()
