"""Your account: password, recovery kit, second factor, and the browsers that are signed in."""

from typing import Any

from litestar import Response

from phr.errors import InvalidInput, TooManyTries, WrongSecret
from phr.store import accounts, sessions
from phr.web.pages import kits
from phr.web.pages.setup import password_of
from phr.web.routing import Access, Form, Visit, action, page, safe_path
from phr.web.sessions import begin

REFUSED = (InvalidInput, WrongSecret, TooManyTries)
NOT_YOURS = "That is not your password. Nothing was changed."


def _draw(visit: Visit, *, about: str = "", sentence: str | None = None) -> Response[Any]:
    """Draw the page; `sentence` says what was wrong in the part `about`."""
    house = visit.appliance.house
    return visit.render(
        "pages/account.html",
        status=422 if sentence else 200,
        about=about,
        sentence=sentence,
        account=accounts.get_account(house, visit.account_id),
        browsers=sessions.of_account(house, visit.account_id),
    )


@page("/account", access=Access.ACCOUNT)
def show(visit: Visit) -> Response[Any]:
    """Show everything about the account that is signed in."""
    return _draw(visit)


@action("/account/password", access=Access.ACCOUNT)
def change_password(visit: Visit, form: Form) -> Response[Any]:
    """Change the password; all other browsers are signed out, this one gets a new session."""
    appliance, account_id = visit.appliance, visit.account_id
    _ask_for_the_code(visit)
    try:
        accounts.change_password(
            appliance.house,
            appliance.vaults,
            account_id,
            form.get("current"),
            password_of(form),
        )
    except WrongSecret:
        return _draw(visit, about="password", sentence=NOT_YOURS)
    except REFUSED as error:
        return _draw(visit, about="password", sentence=error.sentence)
    begin(visit, account_id, "password")
    return visit.redirect(
        "/account", flash="Your password is changed. All other browsers are signed out."
    )


def _ask_for_the_code(visit: Visit) -> None:
    """Where a second factor is enrolled, a password alone changes no factor (ASVS 7.5.1)."""
    if accounts.has_totp(visit.appliance.house, visit.account_id):
        visit.require_step_up()


# ------------------------------------------------------------------ recovery kit


@action("/account/kit", access=Access.ACCOUNT)
def new_kit(visit: Visit, form: Form) -> Response[Any]:
    """Make a new recovery kit; the password must be given because the kit opens the same key."""
    _ask_for_the_code(visit)
    try:
        kits.offer(visit, form.get("password"), "/account/kit")
    except WrongSecret:
        return _draw(visit, about="kit", sentence=NOT_YOURS)
    except REFUSED as error:
        return _draw(visit, about="kit", sentence=error.sentence)
    return visit.redirect("/account/kit")


@page("/account/kit", access=Access.ACCOUNT)
def kit(visit: Visit) -> Response[Any]:
    """Show the new kit once and ask two groups back."""
    return kits.show(visit, target="/account/kit/held")


@action("/account/kit/held", access=Access.ACCOUNT)
def kit_held(visit: Visit, form: Form) -> Response[Any]:
    """Put the new kit in force once two of its groups were typed back."""
    if sentence := kits.confirm(visit, form):
        return kits.show(visit, target="/account/kit/held", sentence=sentence)
    return visit.redirect("/account", flash="The new recovery kit is in force.")


# ------------------------------------------------------------------ second factor


@action("/account/totp", access=Access.ACCOUNT)
def enrol(visit: Visit, form: Form) -> Response[Any]:  # noqa: ARG001 - the form is its token
    """Begin to enrol an authenticator app (RFC 6238)."""
    visit.require_step_up()
    visit.put_down("totp", accounts.enrol_totp(visit.appliance.house, visit.account_id))
    return visit.redirect("/account/totp")


@page("/account/totp", access=Access.ACCOUNT)
def show_totp(visit: Visit) -> Response[Any]:
    """Show the secret as QR code and as text, and ask for the first code."""
    return _draw_totp(visit)


def _draw_totp(visit: Visit, sentence: str | None = None) -> Response[Any]:
    offered = visit.kept("totp")
    if offered is None:
        return visit.redirect("/account")
    return visit.render(
        "pages/totp.html",
        status=422 if sentence else 200,
        qr=kits.qr_svg(offered.uri, "The secret for your authenticator app as a QR code"),
        secret=offered.secret,
        sentence=sentence,
    )


@action("/account/totp/confirm", access=Access.ACCOUNT)
def confirm_totp(visit: Visit, form: Form) -> Response[Any]:
    """Switch the second factor on with the app's first code."""
    try:
        accounts.confirm_totp(visit.appliance.house, visit.account_id, form.get("code"))
    except REFUSED as error:
        return _draw_totp(visit, error.sentence)
    visit.forget("totp")
    return visit.redirect("/account", flash="From now on signing in also asks for a code.")


@action("/account/totp/drop", access=Access.ACCOUNT)
def drop_totp(visit: Visit, form: Form) -> Response[Any]:
    """Switch the second factor off, by a code of it or (phone lost) by the recovery kit."""
    house, account_id = visit.appliance.house, visit.account_id
    try:
        accounts.drop_totp(house, account_id, code=form.get("code"), kit=form.get("kit"))
    except REFUSED as error:
        return _draw(visit, about="totp", sentence=error.sentence)
    return visit.redirect("/account", flash="Signing in asks for the password only.")


# ------------------------------------------------------------------ browsers


@action("/account/sessions/end", access=Access.ACCOUNT)
def end_session(visit: Visit, form: Form) -> Response[Any]:
    """Sign one other browser out, or all others."""
    house, browser = visit.appliance.house, visit.session
    if form.has("all"):
        sessions.end_others(house, visit.account_id, keep=browser.public_id if browser else None)
    else:
        sessions.end(house, visit.account_id, form.get("session"))
    return visit.redirect("/account", flash="Signed out there.")


@action("/account/confirm", access=Access.ACCOUNT)
def confirm(visit: Visit, form: Form) -> Response[Any]:
    """Go back to the page that asked for the password; it was checked before this runs."""
    visit.require_step_up()
    return visit.redirect(safe_path(form.get("next", "/")))


ROUTES = [
    show,
    change_password,
    new_kit,
    kit,
    kit_held,
    enrol,
    show_totp,
    confirm_totp,
    drop_totp,
    end_session,
    confirm,
]
