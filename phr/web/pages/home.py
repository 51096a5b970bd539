"""Home: is anything new, did a source flag anything, what is listed as current?"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from litestar import Response
from sqlalchemy.orm import Session

from phr import clock, views
from phr.chart.allergies import Knowledge, allergies
from phr.chart.medications import Standing, medications
from phr.chart.plain import counted, moment_words
from phr.chart.problems import problems
from phr.chart.results import groups, newest
from phr.fhir.record import Record, Selection
from phr.sharing import grants
from phr.store import connections, records
from phr.store.models import Connection, ConnectionState, GrantState, Member
from phr.store.vault import Vault
from phr.views import allergies as allergy_words
from phr.views import medications as medicine_rows
from phr.views import other
from phr.views.frame import Context, Mark, Row, day, minute
from phr.web.pages import chart
from phr.web.routing import Access, Form, Visit, action, slow_page

SHOWN = 5  # new things and current medicines on Home; the rest is one tap away


@dataclass(frozen=True, slots=True)
class Strip:
    """The allergies strip: one of three texts."""

    alert: bool
    text: str
    said: str


@dataclass(frozen=True, slots=True)
class Health:
    """How one connection stands."""

    name: str
    href: str
    mark: Mark
    when: str


@slow_page("/p/{patient_id:str}/", access=Access.MEMBER)
def home(visit: Visit) -> Response[Any]:
    """Answer the three questions, then show the details behind each."""
    vault = visit.vault
    with vault.read() as session:
        context = chart.context(visit, session)
        total = sum(records.counts(session).values())
        if not total:
            return visit.render("pages/home_empty.html", health=_health(visit, session))
        member = session.get(Member, visit.account_id)
        return visit.render(
            "pages/home.html",
            allergies=_strip(session, vault, context),
            news=_news(session, vault, context, member.seen_at if member else None),
            newest=_newest(session, vault),
            current=_current(session, vault, context),
            health=_health(visit, session),
            as_of=_as_of(session),
            sharing=_sharing(session),
        )


@action("/p/{patient_id:str}/seen", access=Access.MEMBER)
def seen(visit: Visit, form: Form) -> Response[Any]:
    """Remember that everything received so far was looked at."""
    del form
    patient = visit.patient.id if visit.patient else ""
    with visit.vault.write() as session:
        member = session.get(Member, visit.account_id)
        if member is not None:
            member.seen_at = clock.now()
    return visit.redirect(f"/p/{patient}/", flash="Marked as seen.")


def _strip(session: Session, vault: Vault, context: Context) -> Strip:
    view = views.VIEWS["allergies"]
    listed = records.select(session, vault, view.selection)
    found = allergies(listed)
    said = {context.origin(one.record) for one in (*found.listed, *found.none_known)}
    sources = f"Listed by {next(iter(said))}." if len(said) == 1 else ""
    if len(said) > 1:
        sources = f"Listed by {len(said)} sources."
    return Strip(found.knowledge is Knowledge.PRESENT, allergy_words.short(found), sources)


def _news(
    session: Session, vault: Vault, context: Context, seen: datetime | None
) -> dict[str, Any]:
    """Return what was received since the last look, newest first by its own date."""
    selection = Selection(timeline=True, received_since=seen, limit=SHOWN)
    count = records.count(session, replace(selection, limit=None))
    found = records.select(session, vault, selection)
    return {
        "count": count,
        "words": counted(count, "new thing"),
        "since": day(seen) if seen else "",
        "rows": [other.row(record, context) for record in found],
    }


def _newest(session: Session, vault: Vault) -> dict[str, Any]:
    """Return what sources flagged among all results of the newest day."""
    view = views.VIEWS["results"]
    found: list[Record] = list(records.select(session, vault, view.selection))
    for selection in view.also:
        found += records.select(session, vault, selection)
    latest = newest(groups(found))
    marked = latest.flagged
    labs = dict.fromkeys(group.lab for group in latest.groups if group.lab)
    return {
        "count": len(latest.results),
        "day": moment_words(latest.day),
        "flagged": len(marked),
        "names": [one.name for one in marked[:4]],
        "labs": list(labs)[:3],
    }


def _current(session: Session, vault: Vault, context: Context) -> dict[str, Any]:
    """Return the medicines listed as current and how many problems are listed as active."""
    view = views.VIEWS["medications"]
    found = [
        *records.select(session, vault, view.selection),
        *records.select(session, vault, Selection(types=("Medication",), limit=500)),
    ]
    listed = [one for one in medications(found, context.now) if one.standing is Standing.CURRENT]
    active = problems(records.select(session, vault, views.VIEWS["problems"].selection)).active
    rows: list[Row] = [medicine_rows.row(one, context) for one in listed[:SHOWN]]
    return {
        "words": counted(len(listed), "medicine"),
        "count": len(listed),
        "problems": counted(len(active), "problem") if active else "no problem",
        "rows": rows,
        "hidden": max(0, len(listed) - SHOWN),
    }


def _as_of(session: Session) -> str:
    """Return the newest pull in words; "" before the first."""
    pulled = [row.last_pull_at for row in connections.listed(session) if row.last_pull_at]
    return minute(max(pulled)) if pulled else ""


def _health(visit: Visit, session: Session) -> list[Health]:
    patient = visit.patient.id if visit.patient else ""
    return [
        Health(
            name=f"{row.name} (demo)" if row.demo else row.name,
            href=visit.url(f"/p/{patient}/connections/{row.id}"),
            mark=_state(row),
            when=f"last answered {minute(row.last_pull_at)}" if row.last_pull_at else "",
        )
        for row in connections.listed(session)
        if row.state != ConnectionState.DRAFT
    ]


def _state(row: Connection) -> Mark:
    """Return how a connection stands, in a word with its mark."""
    if row.state == ConnectionState.NEEDS_REAUTHORISATION:
        return Mark("wait", "Sign in again", row.sentence or "")
    if row.state == ConnectionState.PAUSED:
        return Mark("paused", "Paused")
    if row.failures:
        return Mark("wait", "The last try did not work", row.sentence or "")
    if row.last_pull_at is None:
        return Mark("none", "Not asked yet")
    return Mark("fresh", "Up to date", row.sentence or "")


def _sharing(session: Session) -> dict[str, Any]:
    """Return how many recipients can see something right now."""
    live = sum(grant.state == GrantState.ACTIVE for grant in grants.standing(session))
    return {"count": live, "words": counted(live, "recipient")}


ROUTES = [home, seen]
