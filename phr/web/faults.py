"""What people see when something is refused or fails: one table error -> status, and its page.

The sentence comes from the error itself (`phr.errors`); no health data, no secret, no trace.
"""

import logging
from typing import Any
from urllib.parse import quote

from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException

from phr import clock, errors
from phr.errors import PhrError
from phr.store import accounts
from phr.web import outcome
from phr.web.forms import Form
from phr.web.routing import CSRF_FIELD, FOREIGN_PAGES, KEY, Visit, safe_path
from phr.web.sessions import KitFirst, SetupFirst

log = logging.getLogger("phr.web")

# The nearest class in an error's ancestry counts.
STATUS: dict[type[PhrError], int] = {
    errors.PhrError: 500,
    errors.InvalidInput: 400,
    errors.SettingsError: 500,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.DataLocked: 503,
    errors.NotSignedIn: 401,
    errors.TokenRefused: 401,
    errors.WrongSecret: 403,
    errors.TooManyTries: 429,
    errors.StepUpNeeded: 403,
    errors.Denied: 403,
    errors.Ended: 410,
    errors.OutOfMemory: 503,
    errors.VaultError: 503,
    errors.Sealed: 503,
    errors.NetError: 502,
    errors.ConnectorError: 502,
    errors.TryLater: 503,
    errors.DeliveryFailed: 502,
    errors.MailboxFailed: 502,
    errors.TrustError: 400,
}
TITLES = {
    400: "That could not be taken",
    401: "You are not signed in",
    403: "Not allowed here",
    404: "Not found",
    405: "That does not work here",
    409: "This has changed",
    410: "This has ended",
    415: "That could not be taken",
    429: "Please wait a moment",
    500: "Something went wrong here",
    502: "The other side did not answer as hoped",
    503: "Not available right now",
}
LAST_RESORT = (
    b"<!doctype html><html lang=en><meta charset=utf-8><title>Homeport</title>"
    b"<h1>Something went wrong here</h1><p>Nothing was lost. Please try again.</p>"
)


def status_of(error: PhrError) -> int:
    """Return the HTTP status of an error, by the nearest class in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def translated(error: Exception) -> tuple[PhrError, int]:
    """Return an error of our own and its status; foreign ones become plain sentences."""
    if isinstance(error, PhrError):
        return error, status_of(error)
    if isinstance(error, HTTPException) and error.status_code < 500:
        status = error.status_code
        own = errors.NotFound() if status == 404 else errors.InvalidInput()
        return own, status
    if isinstance(error, MemoryError):
        return errors.OutOfMemory(), 503
    return PhrError(), 500


def answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer any error of any route; when even that fails, with a fixed page."""
    own, status = translated(error)
    if status >= 500:
        _note(request, error, status)
    try:
        ours = outcome.is_ours(request.scope["path"])
        made = outcome.response(own, status) if ours else _page(request, own, status)
        return _with_allow(made, error, request.scope["path"])
    except Exception as second:  # noqa: BLE001 - the page of last resort must always come
        _note(request, second, 500)
        return Response(LAST_RESORT, media_type="text/html", status_code=500)


def _with_allow(response: Response[bytes], error: Exception, path: str) -> Response[bytes]:
    """Name the methods that an address has, where it has not the one asked (RFC 9110 §15.5.6)."""
    if isinstance(error, MethodNotAllowedException) and error.headers:
        named = set(error.headers["allow"].split(", "))  # Litestar's: with OPTIONS everywhere
        has = named if path.startswith(FOREIGN_PAGES) else named - {"OPTIONS"}
        response.headers["allow"] = ", ".join(sorted(has))
    return response


def _note(request: Request[Any, Any, Any], error: Exception, status: int) -> None:
    """Log the route and the kind and place of a failure, never its text (see `phr.logs`)."""
    route = request.scope.get("path_template", "-")
    line = "event=request.failed route=%s status=%d"
    log.error(line, route, status, exc_info=error, extra={"own": True})


def _page(request: Request[Any, Any, Any], error: PhrError, status: int) -> Response[bytes]:
    visit: Visit | None = request.scope.get(KEY)  # type: ignore[assignment]  # our own key
    if visit is None:
        return _bare(request, error, status)
    if elsewhere := _elsewhere(visit, error):
        return elsewhere
    asked_again = isinstance(error, errors.StepUpNeeded) or visit.confirming
    if asked_again and visit.session is not None:
        return _confirm_page(visit, error, status)
    if isinstance(error, errors.TooManyTries) and error.after is not None:
        wait = max(1, round((error.after - clock.now()).total_seconds()))
        visit.extra_headers["retry-after"] = str(wait)
    return _fault_page(visit, error, status)


def _elsewhere(visit: Visit, error: PhrError) -> Response[bytes] | None:
    """Lead a person on where a page would not help: set-up, sign-in, unlock."""
    is_page = "text/html" in visit.headers.get("accept", "") or visit.is_htmx
    here = visit.here if visit.form is None and not visit.is_htmx else "/"
    following = f"?next={_quoted(safe_path(here))}" if here != "/" else ""
    if isinstance(error, SetupFirst):
        return visit.redirect("/setup")
    if isinstance(error, KitFirst):
        return visit.redirect("/setup/kit")
    if isinstance(error, errors.NotSignedIn) and is_page:
        return visit.redirect(f"/signin{following}")
    if isinstance(error, errors.Sealed) and visit.session is not None:
        return visit.redirect(f"/unlock{following}")
    return None


def _quoted(path: str) -> str:
    return quote(path, safe="/")


def _bare(request: Request[Any, Any, Any], error: PhrError, status: int) -> Response[bytes]:
    """Answer where no route was found, or before the request could be understood."""
    visit = request.app.state.doorkeeper.visit_of({**request.scope, "query_string": b""})
    return _fault_page(visit, error, status)


def _fault_page(visit: Visit, error: PhrError, status: int) -> Response[bytes]:
    title = TITLES.get(status, TITLES[500])
    return visit.render(
        "pages/fault.html", block="content", status=status, title=title, error=error
    )


def _confirm_page(visit: Visit, error: PhrError, status: int) -> Response[bytes]:
    """Ask for the password (or a code); the form then goes on as it was, nothing typed is lost."""
    totp = accounts.has_totp(visit.appliance.house, visit.account_id)
    return visit.render(
        "pages/confirm.html",
        block="content",
        status=status,
        totp=totp,
        sentence=_not_confirmed(error, totp=totp) if visit.confirming else None,
        following=visit.here if visit.form is None else None,
        fields=[] if visit.form is None else _repeated(visit.form),
    )


def _not_confirmed(error: PhrError, *, totp: bool) -> str:
    if not isinstance(error, errors.WrongSecret):
        return error.sentence
    return "That code does not fit now." if totp else "That is not your password."


def _repeated(form: Form) -> list[tuple[str, str]]:
    return [(name, value) for name, value in form.pairs() if name != CSRF_FIELD]
