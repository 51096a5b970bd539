"""Signing in and out, opening sealed records, and the way back with the recovery kit."""

from dataclasses import dataclass
from typing import Any

from litestar import Response

from phr.errors import InvalidInput, TooManyTries, TotpNeeded, WrongSecret
from phr.store import accounts
from phr.web.pages.setup import password_of
from phr.web.routing import Access, Form, Visit, action, page, safe_path
from phr.web.sessions import begin, finish

SAID = {
    "out": "You are signed out. Open records stay open until somebody seals them or this Homeport "
    "restarts.",
    "recovered": "Your new password works from now on, and all other browsers were signed out. "
    "The recovery kit you used is spent: sign in and make a new one.",
}


@dataclass(frozen=True, slots=True)
class Waiting:
    """A right password that waits for its second factor."""

    name: str
    password: str
    following: str

    def __repr__(self) -> str:
        """Hide the password from every log."""
        return "Waiting()"


@page("/signin", access=Access.ANYONE)
def ask(visit: Visit) -> Response[Any]:
    """Ask for name and password; who is signed in already goes on."""
    following = safe_path(visit.query.get("next", "/"))
    if visit.session is not None:
        return visit.redirect(following)
    return _form(visit, following, said=SAID.get(visit.query.get("said", "")))


def _form(
    visit: Visit,
    following: str,
    *,
    said: str | None = None,
    sentence: str | None = None,
    name: str = "",
    status: int = 200,
) -> Response[Any]:
    return visit.render(
        "pages/signin.html",
        status=status,
        following=following,
        said=said,
        sentence=sentence,
        name=name,
    )


@action("/signin", access=Access.ANYONE)
def enter(visit: Visit, form: Form) -> Response[Any]:
    """Check name and password; open every record of this account; give a new session."""
    name, password = form.text("name"), form.get("password")
    following = safe_path(form.get("next", "/"))
    try:
        return _enter(visit, name, password, None, following)
    except TotpNeeded:
        visit.put_down("waiting", Waiting(name, password, following))
        return visit.redirect("/signin/code")
    except (WrongSecret, TooManyTries) as error:
        status = 429 if isinstance(error, TooManyTries) else 422
        return _form(visit, following, sentence=error.sentence, name=name, status=status)


def _enter(
    visit: Visit, name: str, password: str, totp: str | None, following: str
) -> Response[Any]:
    appliance = visit.appliance
    signed_in = accounts.sign_in(
        appliance.house, appliance.vaults, name, password, totp=totp, network=visit.network
    )
    visit.forget("waiting")
    begin(visit, signed_in.account_id, "totp" if totp else "password")
    return visit.redirect(following)


@page("/signin/code", access=Access.ANYONE)
def ask_code(visit: Visit) -> Response[Any]:
    """Ask for the code of the second factor."""
    if visit.kept("waiting") is None:
        return visit.redirect("/signin")
    return visit.render("pages/signin_code.html", sentence=None)


@action("/signin/code", access=Access.ANYONE)
def enter_code(visit: Visit, form: Form) -> Response[Any]:
    """Check the code together with the password that waits."""
    waiting: Waiting | None = visit.kept("waiting")
    if waiting is None:
        return visit.redirect("/signin")
    try:
        code = form.get("code")
        return _enter(visit, waiting.name, waiting.password, code, waiting.following)
    except (WrongSecret, TooManyTries) as error:
        status = 429 if isinstance(error, TooManyTries) else 422
        return visit.render("pages/signin_code.html", status=status, sentence=error.sentence)


@action("/signout", access=Access.ANYONE)
def leave(visit: Visit, form: Form) -> Response[Any]:  # noqa: ARG001 - the form is its token
    """End this browser's session and ask it to forget what it holds."""
    finish(visit)
    return visit.redirect("/signin?said=out")


# ------------------------------------------------------------------ sealed records


@page("/unlock", access=Access.ACCOUNT)
def ask_unlock(visit: Visit) -> Response[Any]:
    """Say why nothing is shown and how it opens."""
    following = safe_path(visit.query.get("next", "/"))
    if all(person.is_open for person in visit.people):
        return visit.redirect(following)
    return _unlock_form(visit, following)


def _unlock_form(visit: Visit, following: str, sentence: str | None = None) -> Response[Any]:
    totp = accounts.has_totp(visit.appliance.house, visit.account_id)
    return visit.render(
        "pages/unlock.html",
        status=422 if sentence else 200,
        following=following,
        totp=totp,
        sentence=sentence,
        sealed=[person for person in visit.people if not person.is_open],
    )


@action("/unlock", access=Access.ACCOUNT)
def unlock(visit: Visit, form: Form) -> Response[Any]:
    """Open every record of the account that is signed in, by its password."""
    following = safe_path(form.get("next", "/"))
    code = form.get("code") or None
    try:
        return _enter(visit, visit.account_name, form.get("password"), code, following)
    except (WrongSecret, TooManyTries) as error:  # a missing code is a WrongSecret too
        return _unlock_form(visit, following, error.sentence)


# ------------------------------------------------------------------ forgot my password


@page("/recover", access=Access.ANYONE)
def ask_recover(visit: Visit) -> Response[Any]:
    """Ask for the recovery kit and a new password."""
    return visit.render("pages/recover.html", sentence=None, name="", kit="")


@action("/recover", access=Access.ANYONE)
def recover(visit: Visit, form: Form) -> Response[Any]:
    """Set a new password by the kit; every session of the account ends."""
    appliance = visit.appliance
    name, kit = form.text("name"), form.text("kit", limit=120)
    try:
        accounts.recover(
            appliance.house, appliance.vaults, name, kit, password_of(form), network=visit.network
        )
    except (InvalidInput, WrongSecret, TooManyTries) as error:
        status = 429 if isinstance(error, TooManyTries) else 422
        return visit.render(
            "pages/recover.html", status=status, sentence=error.sentence, name=name, kit=kit
        )
    return visit.redirect("/signin?said=recovered")


ROUTES = [
    ask,
    enter,
    ask_code,
    enter_code,
    leave,
    ask_unlock,
    unlock,
    ask_recover,
    recover,
]
