"""First run: claim the box, hold the recovery kit, choose how the record opens, get a record.

Protected by the one-time code from the log; closed for ever once an account exists. Four forms at
most lie between an empty folder and a record on screen.
"""

from dataclasses import dataclass
from typing import Any

from litestar import Response

from phr.errors import InvalidInput, NotFound, TooManyTries, WrongSecret
from phr.store import accounts, limits
from phr.store.models import MemberRole
from phr.web.pages import kits
from phr.web.routing import Access, Form, Visit, action, page
from phr.web.sessions import begin

WRONG_CODE = "This is not the code from the log. It looks like ABCD-EFGH-JKLM."
COLOURS = {1: "Violet", 2: "Green", 3: "Rust", 4: "Blue"}


@dataclass(frozen=True, slots=True)
class Claim:
    """What the first form holds, cut and checked."""

    code: str
    name: str
    password: str
    person: str
    colour: int
    role: MemberRole


def colour_of(form: Form) -> int:
    """Return the chosen colour 1 to 4; anything else is the first."""
    chosen = form.get("colour", "1")
    return int(chosen) if chosen in {"1", "2", "3", "4"} else 1


def password_of(form: Form) -> str:
    """Return a new password that was typed the same way twice."""
    password = form.get("password")
    if password != form.get("again"):
        raise InvalidInput("The two passwords differ. Nothing was changed.")
    return password


def _claim(form: Form) -> Claim:
    name = form.text("name", limit=80)
    mine = form.get("whose", "me") == "me"
    person = name if mine else form.text("person", limit=80)
    if not name or not person:
        raise InvalidInput("Please fill in the names. Nothing was changed.")
    role = MemberRole.SELF if mine else MemberRole.PROXY
    return Claim(form.get("code"), name, password_of(form), person, colour_of(form), role)


@page("/setup", access=Access.SETUP)
def ask(visit: Visit) -> Response[Any]:
    """Ask for the code from the log, an account and the person the record is about."""
    return _form(visit, Form())


def _form(
    visit: Visit, form: Form, sentence: str | None = None, status: int = 200
) -> Response[Any]:
    return visit.render(
        "pages/setup.html", status=status, form=form, sentence=sentence, colours=COLOURS
    )


@action("/setup", access=Access.SETUP)
def claim(visit: Visit, form: Form) -> Response[Any]:
    """Make the first account and its first record, sign in, and hand over the recovery kit."""
    try:
        _create(visit, _claim(form))
    except (InvalidInput, WrongSecret, TooManyTries) as error:
        status = 429 if isinstance(error, TooManyTries) else 422
        return _form(visit, form, error.sentence, status)
    return visit.redirect("/setup/kit")


def _create(visit: Visit, claim: Claim) -> None:
    appliance, house = visit.appliance, visit.appliance.house
    limits.take(house, [("setup", limits.SETUP)])
    if not appliance.setup_code_fits(claim.code):
        raise WrongSecret(WRONG_CODE)
    account_id = accounts.create_account(
        house, claim.name, claim.password, administrator=True, kit_first=True
    )
    appliance.end_setup()
    limits.passed(house, "setup")
    accounts.create_patient(
        house,
        appliance.vaults,
        name=claim.person,
        colour=claim.colour,
        account_id=account_id,
        role=claim.role,
        opens_by_itself=False,
    )
    begin(visit, account_id, "password")
    kits.offer(visit, claim.password, "/setup/kit")


@page("/setup/kit", access=Access.ACCOUNT)
def kit(visit: Visit) -> Response[Any]:
    """Show the recovery kit as one printable page and ask two of its groups back."""
    return kits.show(visit, step="Step 2 of 4", target="/setup/kit")


@action("/setup/kit", access=Access.ACCOUNT)
def kit_held(visit: Visit, form: Form) -> Response[Any]:
    """Go on once two groups of the kit were typed back."""
    if sentence := kits.confirm(visit, form):
        return kits.show(visit, step="Step 2 of 4", target="/setup/kit", sentence=sentence)
    return visit.redirect("/setup/opening")


@page("/setup/opening", access=Access.ACCOUNT)
def opening(visit: Visit) -> Response[Any]:
    """Ask in plain words whether the record opens by itself or waits for a sign-in."""
    return visit.render("pages/setup_opening.html", person=_first(visit), wizard=True)


@action("/setup/opening", access=Access.ACCOUNT)
def opening_chosen(visit: Visit, form: Form) -> Response[Any]:
    """Keep the choice; it can be changed on the person's page at any time."""
    choice = form.get("opens")
    if choice not in {"itself", "sealed"}:
        raise InvalidInput("Please choose one of the two. Nothing was changed.")
    person = _first(visit)
    appliance = visit.appliance
    accounts.set_opens_by_itself(appliance.house, appliance.vaults, person.id, choice == "itself")
    return visit.redirect("/setup/start")


@page("/setup/start", access=Access.ACCOUNT)
def start(visit: Visit) -> Response[Any]:
    """Offer three ways to the first record: a hospital, a file, the demo."""
    return visit.render("pages/setup_start.html", person=_first(visit), wizard=True)


def _first(visit: Visit) -> accounts.PatientView:
    """Return the person that set-up is about: the first whom this account may act for."""
    mine = [p for p in visit.people if p.role != MemberRole.VIEWER and not p.demo]
    if not mine:
        raise NotFound
    return mine[0]


ROUTES = [ask, claim, kit, kit_held, opening, opening_chosen, start]
