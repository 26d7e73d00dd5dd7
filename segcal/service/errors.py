"""What a request that cannot be met is told: one schema, {error: {code, message, nearest}}, and its status."""

__all__ = ["ErrorBody", "Refusal", "body_of", "documented", "nearest_in", "status_of", "wants_page"]

import re
from typing import Any

from pydantic import BaseModel, Field

from segcal.errors import BadData, SegcalError, StoreUnreachable, UnknownName, UsageError

CODES = {
    400: "bad_request", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed",
    409: "conflict", 413: "too_large", 421: "wrong_host", 422: "invalid", 429: "too_many", 500: "failure",
    503: "unavailable",
}  # fmt: skip


class ErrorDetail(BaseModel):
    code: str = Field(description="What kind of refusal it is", examples=["not_found"])
    message: str = Field(description="The rule, the value and the remedy", examples=["no experiment named 'calb'"])
    nearest: list[str] | None = Field(default=None, description="Known names that look alike", examples=[["calib"]])


class ErrorBody(BaseModel):
    """What every refused request is told."""

    error: ErrorDetail


class Refusal(SegcalError):
    """A request that is refused with a status of its own."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What an endpoint declares of its refusals; those that any request may meet are among them."""
    everywhere = (401, 403, 413, 421, 422, 429, 503)
    return {status: {"model": ErrorBody, "description": CODES[status]} for status in sorted({*statuses, *everywhere})}


def body_of(status: int, message: str, nearest: list[str] | None = None) -> dict[str, Any]:
    """The schema's content."""
    detail: dict[str, Any] = {"code": CODES.get(status, "failure"), "message": message}
    return {"error": detail | ({"nearest": nearest} if nearest else {})}


def wants_page(path: str, accept: str) -> bool:
    """Whether a browser asks for a page, rather than a program for data."""
    return "text/html" in accept and not path.startswith("/v1/")


def nearest_in(message: str) -> list[str] | None:
    """The names that `segcal.errors.nearest` has put into a message."""
    return re.findall(r"did you mean '([^']*)'\?", message) or None


def status_of(error: SegcalError) -> int:
    """The status of an error that other rooms raise. An unknown name is 404, whoever found it."""
    if isinstance(error, Refusal):
        return error.status
    if isinstance(error, StoreUnreachable):
        return 503
    if isinstance(error, UnknownName):
        return 404
    if isinstance(error, UsageError):
        return 422
    return 409 if isinstance(error, BadData) else 500
