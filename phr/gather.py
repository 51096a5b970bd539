"""Entries kept as the chart makes them: after an import, anew, and after the patient's word.

Between `phr.chart.reconcile`, which knows no store, and `phr.store.entries`, which knows no rules.
What is heavy is read without a lock; writes are short, so that urgent ones need not wait.
"""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from sqlalchemy.orm import Session

from phr import clock
from phr.chart.decision import Decision
from phr.chart.plain import code_of
from phr.chart.reconcile import JOINED, Entry, reconcile
from phr.chart.traits import Trait, by_itself, is_of_a_visit
from phr.errors import InvalidInput, NotFound
from phr.fhir.kinds import BY_NUMBER
from phr.fhir.record import Record
from phr.fhir.references import key_of
from phr.store import audit, entries, records
from phr.store.database import Priority
from phr.store.entries import Group, Row, Waiting
from phr.store.vault import Vault

WRITTEN: Final = 1000  # entries a transaction
_DAY: Final = 86_400_000
# Lists: what belongs together may lie years apart, so a touched list is looked at as a whole.
_LISTS: Final = (
    ("AllergyIntolerance",),
    ("Condition",),
    ("Immunization",),
    ("MedicationRequest", "MedicationStatement", "MedicationOrder"),
    ("Organization",),
    ("Location",),
    ("Patient",),
    ("Practitioner",),
)
_ABOUT: Final = (("Organization",), ("Location",), ("Practitioner",))  # one hospital's stay apart
_MEDICINES: Final = _LISTS[3]
_PAPERS: Final = ("DocumentReference",)  # by their bytes or number, whatever the day
_EVENTS: Final = tuple(  # only records of one day can be the same
    type_ for type_ in JOINED if type_ not in {one for some in (*_LISTS, _PAPERS) for one in some}
)


IN_LISTS: Final = frozenset(one for types in _LISTS if types not in _ABOUT for one in types)


class Ahead:
    """What an import reads of records IN_LISTS while it waits, so that `settle` has less to do."""

    def __init__(self) -> None:
        """Begin with none."""
        self.records = entries.JustWritten()
        self._traits: dict[int, Trait] = {}

    def add(self, row: records.Row, hash_: bytes, body: bytes) -> None:
        """Read a record that was just written: see `entries.JustWritten`."""
        made = self.records.add(row, hash_, body)
        if made is not None and (trait := by_itself(made)) is not None:
            self._traits[made.pk] = trait

    def traits(self, found: Iterable[Record]) -> dict[int, Trait]:
        """Return what was read of exactly these records, by pk."""
        read = ((one, self._traits.get(one.pk)) for one in found)
        return {one.pk: trait for one, trait in read if trait is not None and trait.record is one}


def settle(vault: Vault, ahead: Ahead | None = None) -> int:
    """Join what waits to be joined; return how many rows changed. Quick when nothing waits.

    `ahead` is what the import before it has read already.
    """
    with vault.read() as session:
        if not entries.waits(session):
            return 0
        waiting = entries.waiting(session)
        with uncollected():
            groups = _plan(session, vault, waiting, ahead or Ahead())
    changed = _write(vault, groups)
    with vault.write(Priority.BULK) as session:
        entries.settled(session, waiting)
    return changed


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the cyclic collector away while thousands of documents are alive at once."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def refresh(vault: Vault) -> int:
    """Make all entries anew when they were made by older rules; join what waits."""
    with vault.read() as session:
        superseded = entries.superseded(session)
    if superseded:
        with vault.write(Priority.BULK) as session:
            entries.rebuild(session)
    return settle(vault)


def _write(vault: Vault, groups: Sequence[Group]) -> int:
    changed = 0
    for begin in range(0, len(groups), WRITTEN):
        with vault.write(Priority.BULK) as session:
            changed += entries.write(session, groups[begin : begin + WRITTEN])
    return changed


# ------------------------------------------------------------------------------ what to look at


def _plan(session: Session, vault: Vault, waiting: Waiting, ahead: Ahead) -> list[Group]:
    """Return the entries that the waiting records and their neighbours should be."""
    decisions = entries.decisions(session)
    decided = _records_of(session, decisions)
    here, several = entries.types(session), entries.types(session, 2)
    touched: dict[str, list[Row]] = {type_: [] for type_ in here} if waiting.everything else {}
    for row in waiting.rows:
        touched.setdefault(BY_NUMBER[row.type].type, []).append(row)
    patients = entries.loaded(
        session, vault, entries.all_of(session, ("Patient",)), ahead=ahead.records
    )
    groups: list[Group] = []
    for types in _LISTS:
        names = {*types}
        alone = types in _ABOUT and not names & (several | set(decided.values()))
        if alone or touched.keys().isdisjoint(names):
            continue
        pks = entries.all_of(session, types)
        near = _near(session, vault, types, ahead)
        groups += _joined(session, vault, pks, [*patients, *near], decisions, ahead=ahead)
    for type_ in (*_PAPERS, *_EVENTS):
        if type_ not in touched:
            continue
        rows = touched[type_]
        days = None if waiting.everything else {row.time // _DAY for row in rows if row.time}
        pks = _candidates(session, type_, days) if type_ in several else set()
        pks |= {pk for pk, name in decided.items() if name == type_}
        pks |= _not_alone(session, [row.pk for row in rows])
        if pks:
            near = _near(session, vault, (type_,), ahead)
            groups += _joined(session, vault, pks, [*patients, *near], decisions, ahead=ahead)
    return groups


def _near(session: Session, vault: Vault, types: Sequence[str], ahead: Ahead) -> list[Record]:
    """Return what records of these types point to, as far as rules look at it."""
    pointed: tuple[str, ...] = ()
    if types == _MEDICINES or types[0].startswith("Medication"):
        pointed = ("Medication",)
    elif types == ("Encounter",):
        pointed = ("Organization", "Location")
    return entries.loaded(session, vault, entries.all_of(session, pointed), ahead=ahead.records)


def _candidates(session: Session, type_: str, touched: set[int] | None) -> set[int]:
    """Return the records of a type that may be the same as another one.

    Only what two hospitals have on one day; a document can be the same on any. `touched` are the
    days to look at; None: all.
    """
    days = entries.days(session, type_)
    if len({one for some in days.values() for one in some}) < 2:
        return set()
    if type_ in _PAPERS:
        return entries.all_of(session, _PAPERS)
    looked = days.keys() if touched is None else touched
    wanted = [
        day
        for day in sorted({near for day in looked for near in (day - 1, day, day + 1)})
        if len({one for near in (day - 1, day, day + 1) for one in days.get(near, ())}) > 1
    ]
    return entries.on_days(session, type_, wanted)


def _not_alone(session: Session, pks: Sequence[int]) -> set[int]:
    """Return those of the waiting records that share an entry now: it may have to part."""
    found = entries.evidence(session, pks)
    return {pk for some in found.values() if len(some) > 1 for pk in some}


def _records_of(session: Session, decisions: Iterable[Decision]) -> dict[int, str]:
    """Return pk and type of the records that decisions are about."""
    names = {name for one in decisions for name in (one.one, one.other)}
    return entries.by_keys(session, [key for one in names if (key := key_of(one)) is not None])


def _joined(
    session: Session,
    vault: Vault,
    pks: Iterable[int],
    near: Sequence[Record],
    decisions: Sequence[Decision],
    *,
    ahead: Ahead,
) -> list[Group]:
    whole = {pk for some in entries.evidence(session, pks).values() for pk in some} | set(pks)
    found = entries.loaded(session, vault, whole, ahead=ahead.records)
    known = {one.pk for one in found}
    others = [one for one in near if one.pk not in known]
    made = reconcile(found, decisions, near=others, known=ahead.traits(found))
    return [_group(entry) for entry in made.entries]


def _group(entry: Entry) -> Group:
    times = [clock.to_ms(one.when) for one in entry.records if one.when is not None]
    return Group(
        entry.records[0].pk,
        tuple(one.pk for one in entry.records),
        entries.LISTED if any(map(_listed, entry.records)) else entries.NOT_LISTED,
        max(times, default=None),
    )


_OVER: Final[Mapping[str, frozenset[str]]] = {
    "AllergyIntolerance": frozenset({"inactive", "resolved"}),
    "Condition": frozenset({"inactive", "remission", "resolved"}),
}


def _listed(record: Record) -> bool:
    """Say whether a source may list this as current; the chart decides about today."""
    document = record.document
    if document.get("status") == "entered-in-error":
        return False
    if record.type in _MEDICINES:
        return document.get("status") == "active"
    over = _OVER.get(record.type)
    if over is None:
        return True
    if code_of(document.get("verificationStatus")) in ("refuted", "entered-in-error"):
        return False
    if record.type == "Condition" and is_of_a_visit(document):
        return False
    return code_of(document.get("clinicalStatus")) not in over


# ------------------------------------------------------------------------------ the patient's word


Actor = Mapping[str, Any]  # as the audit log keeps it; without one no line is written


def split(
    vault: Vault, local_id: str, *, by: str, now: datetime, actor: Actor | None = None
) -> int:
    """Set a record apart from all else in its entry; return the step by which it is undone."""
    with vault.read() as session:
        own = _pk(session, local_id)
        (pks,) = entries.evidence(session, [own]).values()
    others = [pk for pk in pks if pk != own]
    if not others:
        raise InvalidInput("This stands alone already.")
    with vault.write() as session:
        pairs = [(own, other) for other in others]
        step = entries.decide(session, pairs, same=False, by=by, now=now)
        _line(session, vault, "entry.split", actor, record=local_id, step=step)
    settle(vault)
    return step


def join(
    vault: Vault, local_id: str, other: str, *, by: str, now: datetime, actor: Actor | None = None
) -> int:
    """Make one entry of two records' entries; return the step by which it is undone.

    Raises InvalidInput for what is of two kinds, one entry already, or may be another person's.
    """
    with vault.read() as session:
        one, second = _pk(session, local_id), _pk(session, other)
        kinds = {_list_of(row.type) for row in entries.rows_of(session, [one, second])}
    if len(kinds) != 1 or None in kinds:
        raise InvalidInput("Only two things of one kind can be the same.")
    if _together(vault, one, second):
        raise InvalidInput("These two are told as one thing already.")
    with vault.write() as session:
        step = entries.decide(session, [(one, second)], same=True, by=by, now=now)
        _line(session, vault, "entry.joined", actor, record=local_id, other=other, step=step)
    settle(vault)
    if not _together(vault, one, second):
        undo(vault, step, now=now, actor=actor)
        raise InvalidInput(
            "These two cannot be told as one thing: one of them may be about somebody else."
        )
    return step


def _together(vault: Vault, one: int, other: int) -> bool:
    with vault.read() as session:
        homes = entries.siblings(session, [one, other])
    return homes.get(one) is not None and homes.get(one) == homes.get(other)


def alike(type_: str) -> tuple[str, ...]:
    """Return the types whose records can be the same thing as one of this; none: it never is."""
    if type_ not in JOINED:
        return ()
    return next((types for types in _LISTS if type_ in types), (type_,))


def undo(vault: Vault, step: int, *, now: datetime, actor: Actor | None = None) -> None:
    """Take back what was said in one step."""
    with vault.write() as session:
        if not entries.undo(session, step, now=now):
            raise NotFound
        _line(session, vault, "entry.undone", actor, step=step)
    settle(vault)


def _line(session: Session, vault: Vault, event: str, actor: Actor | None, **detail: Any) -> None:
    if actor is not None:
        audit.append(session, vault, event, actor, **detail)


def _pk(session: Session, local_id: str) -> int:
    key = key_of(local_id)
    found = entries.by_keys(session, [] if key is None else [key])
    if not found:
        raise NotFound
    return next(iter(found))


def _list_of(number: int) -> str | None:
    """Return what may be joined with a type: the first type of its list, or the type itself."""
    return next(iter(alike(BY_NUMBER[number].type)), None)
