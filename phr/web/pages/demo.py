"""The demo: one button starts a made-up hospital and a record of its own, one removes both."""

from typing import Any

from litestar import Response

from phr import connect
from phr.errors import NotFound
from phr.store import accounts
from phr.store.models import MemberRole
from phr.web.routing import Access, Form, Visit, action
from phr.web.sessions import CHANGING_ROLES

NAME = "Sample person"


@action("/demo/start", access=Access.ACCOUNT)
def start(visit: Visit, form: Form) -> Response[Any]:  # noqa: ARG001 - the form is its token
    """Start the demo hospital and lead to connecting it to a record made for it alone."""
    visit.appliance.start_demo()
    mine = [person.id for person in visit.people if person.demo]
    patient_id = mine[0] if mine else _new_person(visit)
    return visit.redirect(f"/p/{patient_id}/connections/add?demo=1")


def _new_person(visit: Visit) -> str:
    """Make a record of its own: made-up data never mixes with a real person's."""
    return accounts.create_patient(
        visit.appliance.house,
        visit.appliance.vaults,
        name=NAME,
        colour=4,
        account_id=visit.account_id,
        role=MemberRole.PROXY,
        opens_by_itself=True,
        demo=True,
    )


@action("/demo/remove", access=Access.ACCOUNT)
def remove(visit: Visit, form: Form) -> Response[Any]:  # noqa: ARG001 - the form is its token
    """Remove the demo and all it brought: its records, its people, the hospital."""
    appliance = visit.appliance
    for person in _removable(visit):
        accounts.shred(appliance.house, appliance.vaults, person.id)
    for person in visit.people:
        if person.role in CHANGING_ROLES and appliance.vaults.is_open(person.id):
            vault = appliance.vault(person.id)
            connect.remove_demo(vault, http=appliance.http, actor=visit.actor)
    appliance.stop_demo()
    return visit.redirect("/", flash="The demo and all it brought are gone.")


def _removable(visit: Visit) -> list[accounts.PatientView]:
    """Return the demo people: all of them for who runs this Homeport, else one's own."""
    everybody = accounts.all_patients(visit.appliance.house)
    own = {person.id for person in visit.people if person.role != MemberRole.VIEWER}
    found = [p for p in everybody if p.demo and (visit.is_administrator or p.id in own)]
    if not found and not visit.is_administrator:
        raise NotFound
    return found


ROUTES = [start, remove]
