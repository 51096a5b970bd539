"""Home: is anything new, did a source flag anything, what is listed as current?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from litestar import Response
from sqlalchemy.orm import Session

from phr import clock, views
from phr.chart import remarks
from phr.chart.allergies import Allergy, Knowledge, allergies
from phr.chart.evidence import How
from phr.chart.medications import Medicine, Standing, medications
from phr.chart.plain import clip, counted, day_words, joined
from phr.chart.problems import Problem, problems
from phr.chart.results import Result, by_test, component_sentence, flagged, newest_of_each
from phr.fhir.record import Record
from phr.sharing import grants
from phr.store import connections, entries, newest, records
from phr.store.models import (
    Connection,
    ConnectionState,
    Member,
    PullState,
)
from phr.store.vault import Vault
from phr.views import allergies as allergy_words
from phr.views import medications as medicine_rows
from phr.views import other
from phr.views.evidence import how
from phr.views.frame import Context, Mark, Row, day, minute, with_demo
from phr.web.pages import chart, ledger
from phr.web.routing import Access, Form, Visit, action, slow_page

MOST_TESTS = 150  # done last, of which Home reads the newest value that each place sent
TESTS = replace(views.BY_TEST.selection, limit=MOST_TESTS)
NAMED = ("Practitioner", "PractitionerRole", "Organization", "Medication")  # who and what is named
MOST = 50  # entries of one section that Home reads; with more it says "at least"
IN_ROW = 12  # newest records of one medicine that its row on Home tells of
EVIDENCE = 2  # newest records of one entry that Home reads
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
    listed = chart.kept(visit, "home", lambda: _listed(visit))
    with vault.read() as session:
        if not listed:
            return visit.render("pages/home_empty.html", health=_health(visit, session, every=True))
        member = session.get(Member, visit.account_id)
        context = chart.context(visit, session, decisions=entries.decisions(session))
        return visit.render(
            "pages/home.html",
            **listed,
            news=_news(session, vault, context, member.seen_at if member else None),
            health=_health(visit, session),
            as_of=_as_of(session),
            sharing=_sharing(session),
        )


def _listed(visit: Visit) -> dict[str, Any]:
    """Return what the record says, whoever looks; nothing where nothing is kept.

    Read from hundreds of bodies, in a transaction that begins after `chart.kept` took its mark.
    """
    vault = visit.vault
    with vault.read() as session:
        if not sum(records.counts(session).values()):
            return {}
        context = chart.context(visit, session, decisions=entries.decisions(session))
        return {
            "allergies": _strip(session, vault, context),
            "newest": _newest(session, vault, context),
            "current": _current(session, vault, context),
        }


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
    asked = _may_be_current(session, vault, "allergies", context)
    found = allergies(asked.records, asked.how)
    said = {context.origin(one.record) for one in (*found.listed, *found.none_known)}
    sources = f"Listed by {next(iter(said))}." if len(said) == 1 else ""
    if len(said) > 1:
        sources = f"Listed by {len(said)} sources."
    if asked.may_be_more((*found.listed, *found.none_known)):
        sources = f"{sources} There may be more.".strip()
    return Strip(found.knowledge is Knowledge.PRESENT, allergy_words.short(found), sources)


def _news(
    session: Session, vault: Vault, context: Context, seen: datetime | None
) -> dict[str, Any]:
    """Return what was received since the last look, newest first; what has no date stands last."""
    count, found = records.come_since(session, vault, seen, limit=SHOWN)
    bare, undated = records.undated_since(session, vault, seen, limit=SHOWN)
    undated = undated[: SHOWN - len(found)]
    if seen:
        measured = connections.arrived(session, seen).get("Observation", 0)
        measured += records.in_files_since(session, "Observation", seen)
    else:
        measured = records.counts(session).get("Observation", 0)
    return {
        "later": count - len(found),  # on the timeline
        "undated": bare - len(undated),  # in their sections only
        "measured": counted(measured, "measurement") if measured else "",  # not on the timeline
        "words": joined(
            counted(count + bare, "new thing") if count + bare else "",
            counted(measured, "new measurement") if measured else "",
        ),
        "since": day(seen) if seen else "",
        "rows": [
            other.row(record, context)
            for record in remarks.labelled((*found, *undated), context.remarks)
        ],
    }


def _newest(session: Session, vault: Vault, context: Context) -> dict[str, Any]:
    """Return what sources flagged among the newest value of each test.

    Each place speaks for itself: what another one sent later, of this test or of another, takes no
    flag away. Results without a code are those of the newest ones.
    """
    of_each = newest.of_each_place(session, vault, TESTS)
    loose = records.select(session, vault, views.VIEWS["results"].selection)
    found = list({one.pk: one for one in (*of_each, *loose)}.values())
    homes = entries.siblings(session, [one.pk for one in found])
    sent = newest_of_each(by_test(found, replace(how(context), grouped=homes)))
    sent.sort(key=lambda one: one.record.when.timestamp() if one.record.when else 0.0, reverse=True)
    marked = flagged(sent)
    places = {each for one in sent for each in one.evidence.sources or (one.record.connection_id,)}
    of_whom = "the newest value of each test" + (" of each place" if len(places) > 1 else "")
    if len(of_each) >= MOST_TESTS:
        of_whom = f"{of_whom}, of the {MOST_TESTS} done last"
    return {
        "count": len(sent),
        "flagged": len(marked),
        "among": f"among {of_whom}",
        "rows": [_flagged_row(one, context) for one in marked[:SHOWN]],
        "more": f"{len(marked) - SHOWN} more" if marked[SHOWN:] else "",
    }


def _flagged_row(one: Result, context: Context) -> Row:
    """Return a flagged result with its value and word; it leads to all values of its test."""
    series = context.test_link(*one.key) if one.key else None
    amount = joined(one.value.words, one.value.unit, by=" ") or component_sentence(one)
    return Row(
        title=one.name,
        href=series or context.link(one.record),
        details=(joined(clip(amount, 120), one.word.words if one.word.flagged else ""),),
        aside=(context.origin(one.record), day_words(one.taken) or "no date given"),
    )


def _current(session: Session, vault: Vault, context: Context) -> dict[str, Any]:
    """Return the medicines listed as current and how many problems are listed as active."""
    drugs = _may_be_current(session, vault, "medications", context)
    listed = _current_of(drugs.records, drugs.how, context)
    more = drugs.may_be_more(listed)
    conditions = _may_be_current(session, vault, "problems", context)
    active = problems(conditions.records, conditions.how).active
    told = _at_least(counted(len(active), "problem"), more=conditions.may_be_more(active))
    hidden = max(0, len(listed) - SHOWN)
    return {
        "words": _at_least(counted(len(listed), "medicine"), more=more),
        "count": len(listed),
        "problems": told[0].lower() + told[1:] if active else "no problem",
        "rows": _whole_rows(session, vault, listed[:SHOWN], drugs.how, context),
        "hidden": _at_least(counted(hidden, "more medicine"), more=more) if hidden else "",
    }


def _whole_rows(
    session: Session, vault: Vault, listed: Sequence[Medicine], told: How, context: Context
) -> list[Row]:
    """Return the rows of medicines, read anew with what else is known of them."""
    homes = told.grouped or {}
    place = {homes[one.record.pk]: number for number, one in enumerate(listed)}
    own = entries.evidence(session, [one.record.pk for one in listed])
    whole = {pk: entry for entry, some in own.items() for pk in some[-IN_ROW:]}
    everything = list(remarks.labelled(entries.loaded(session, vault, whole), context.remarks))
    named = records.pointed_to(session, vault, everything, NAMED)
    read = _current_of([*everything, *named], replace(told, grouped=whole), context)
    read.sort(key=lambda one: place[whole[one.record.pk]])
    return [
        _with_count(medicine_rows.row(one, context), len(own[whole[one.record.pk]])) for one in read
    ]


def _with_count(row: Row, count: int) -> Row:
    if count <= IN_ROW:
        return row
    said = f"Only the newest {IN_ROW} of {count:,} records are looked at here."
    return replace(row, details=(*row.details, said))


def _current_of(found: Sequence[Record], told: How, context: Context) -> list[Medicine]:
    read = medications(found, context.now, told)
    return [one for one in read if one.standing is Standing.CURRENT]


@dataclass(frozen=True, slots=True)
class Candidates:
    """What may be listed as current: the newest evidence of the newest entries of a section."""

    records: list[Record]
    how: How
    cut: frozenset[int]  # entries with more evidence than was read
    more: bool  # there are older entries too

    def may_be_more(self, listed: Sequence[Medicine | Problem | Allergy]) -> bool:
        """Say whether what was not read could add to what is listed."""
        homes = self.how.grouped or {}
        return self.more or bool(self.cut - {homes.get(one.record.pk, 0) for one in listed})


def _may_be_current(session: Session, vault: Vault, section: str, context: Context) -> Candidates:
    found, more = entries.current(session, vault, section, limit=MOST, each=EVIDENCE)
    homes = entries.siblings(session, [one.pk for one in found])
    whole = entries.evidence(session, homes)
    cut = frozenset(entry for entry, pks in whole.items() if len(pks) > EVIDENCE)
    found = list(remarks.labelled(found, context.remarks))
    return Candidates(found, replace(how(context), grouped=homes), cut, more)


def _at_least(words: str, *, more: bool) -> str:
    return f"At least {words}" if more else words


def _as_of(session: Session) -> str:
    """Return the newest pull of what gave anything, in words; "" before the first."""
    giving = connections.giving(session)
    listed = [row for row in connections.listed(session) if row.id in giving]
    pulled = [row.last_pull_at for row in listed if row.last_pull_at]
    return minute(max(pulled)) if pulled else ""


def _health(visit: Visit, session: Session, *, every: bool = False) -> list[Health]:
    """Return how each source stands; a file that gave nothing is one only while there is no other.

    It stays among the files, with the reason.
    """
    patient = visit.patient.id if visit.patient else ""
    giving = connections.giving(session)
    return [
        Health(
            name=with_demo(row.name, demo=bool(row.demo)),
            href=visit.url(f"/p/{patient}/connections/{row.id}"),
            mark=_state(session, row),
            when=_when(row),
        )
        for row in connections.listed(session)
        if row.state != ConnectionState.DRAFT
        and (
            every
            or row.id in giving
            or not ledger.is_unread(row, connections.last_pull(session, row.id))
        )
    ]


def _when(row: Connection) -> str:
    if row.last_pull_at is None:
        return ""
    did = "brought" if row.kind == connections.UPLOAD else "last answered"
    return f"{did} {minute(row.last_pull_at)}"


def _state(session: Session, row: Connection) -> Mark:
    """Return how a connection stands, in a word with its mark."""
    last = connections.last_pull(session, row.id)
    if row.kind == connections.UPLOAD and (said := ledger.of_file(last)) is not None:
        return Mark(*said, row.sentence or "")
    if row.state == ConnectionState.NEEDS_REAUTHORISATION:
        return Mark("wait", "Sign in again", row.sentence or "")
    if row.state == ConnectionState.PAUSED:
        return Mark("paused", "Paused")
    if row.failures:
        return Mark("wait", "The last try did not work", row.sentence or "")
    if row.last_pull_at is None:
        return Mark("none", "Not asked yet")
    partly = last is not None and last.state == PullState.PARTIAL
    word = ledger.ENDED[PullState.PARTIAL if partly else PullState.DONE]
    return Mark(*word, row.sentence or "")


def _sharing(session: Session) -> dict[str, Any]:
    """Return how many recipients can see something right now; what was handed over is not live."""
    live = grants.looking(session)
    return {"count": live, "words": counted(live, "recipient")}


ROUTES = [home, seen]
