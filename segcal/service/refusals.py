"""Answers to requests that cannot be met: JSON for programs, a page for browsers, no traceback for anybody."""

__all__ = ["add_handlers", "refuse"]

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from python_multipart.exceptions import FormParserError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from segcal.errors import SegcalError
from segcal.service.errors import body_of, nearest_in, status_of, wants_page
from segcal.service.render import error_page

METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


def refuse(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """The refusal, as a page for a browser."""
    if not wants_page(request.scope["path"], request.headers.get("accept", "")):
        return JSONResponse(body_of(status, message, nearest_in(message)), status, headers)
    page = error_page(request, status, message)
    page.headers.update(headers or {})
    return page


def add_handlers(app: FastAPI) -> None:
    """Every way in which a request fails."""

    @app.exception_handler(SegcalError)
    def _segcal(request: Request, error: SegcalError) -> Response:
        return refuse(request, status_of(error), str(error), getattr(error, "headers", None))

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Response:
        told = [f"{'.'.join(str(at)[:100] for at in fault['loc'])}: {fault['msg']}" for fault in error.errors()[:10]]
        return refuse(request, 422, "; ".join(told))

    @app.exception_handler(FormParserError)  # a malformed upload; newer starlettes make an HTTPException of it
    def _form(request: Request, error: FormParserError) -> Response:
        return refuse(request, 422, f"{request.method} {request.scope['path']}: {str(error).lower()}")

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        status = 422 if error.status_code == 400 else error.status_code  # a body that cannot be read
        message = f"{request.method} {request.scope['path']}: {str(error.detail).lower()}"
        headers = dict(error.headers or {})
        if status == 405:  # the router names the methods of the first route alone
            headers["Allow"] = ", ".join(_methods(request))
        return refuse(request, status, message, headers)


def _methods(request: Request) -> list[str]:
    """What the request's path may be asked."""
    scopes = {method: dict(request.scope) | {"method": method} for method in METHODS}
    routes = request.app.routes
    known = {m for m, scope in scopes.items() if any(route.matches(scope)[0] == Match.FULL for route in routes)}
    return sorted(known | ({"HEAD"} if "GET" in known else set()))
