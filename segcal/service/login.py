"""The form where a browser shows the token once."""

__all__ = ["router"]

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from segcal.service.render import templates
from segcal.service.security import COOKIE, COOKIE_S, cookie_of, is_token

router = APIRouter(include_in_schema=False)

FORM = """{% extends "layout.html" %}
{% block title %}Token - segcal{% endblock %}
{% block body %}
<h1>This service asks for its token</h1>
{% if fault %}<p class="empty" role="alert">{{ fault }}</p>{% endif %}
<form class="choice" method="post" action="/login">
<input type="hidden" name="next" value="{{ following }}">
<label>Token <input type="password" name="token" autocomplete="current-password" required autofocus></label>
<button type="submit">Enter</button>
</form>
{% endblock %}"""


@router.get("/login")
def form(next: Annotated[str, Query(max_length=2000)] = "/") -> Response:
    """The form."""
    return _form(next)


@router.post("/login")
def enter(
    request: Request,
    token: Annotated[str, Form(max_length=1000)],
    next: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """A cookie for the right token; it cannot be read by scripts, and other sites' pages do not send it."""
    settings = request.app.state.settings
    if settings.token is None or not is_token(token.strip(), settings.token):
        return _form(next, "That is not the token.", 401)
    answer = RedirectResponse(_here(next), 303)
    secure = (settings.public_url or "").startswith("https:")
    answer.set_cookie(
        COOKIE, cookie_of(settings.token), max_age=COOKIE_S, path="/", httponly=True, samesite="strict", secure=secure
    )
    return answer


@router.post("/logout")
def leave() -> Response:
    """The browser forgets it."""
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer


def _form(following: str, fault: str = "", status: int = 200) -> Response:
    page = templates().from_string(FORM).render(mlflow_url="", has_token=False, following=following, fault=fault)
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return HTMLResponse(page, status, headers)


def _here(following: str) -> str:
    """A path of this service; anything else leads to its first page."""
    safe = following.startswith("/") and not following.startswith(("//", "/\\"))
    return following if safe and following.isprintable() else "/"
