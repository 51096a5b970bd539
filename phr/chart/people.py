"""People and places as they appear in the record: care teams, professionals, organizations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from phr.chart.book import Book, of_types
from phr.chart.evidence import NO_EVIDENCE, PLAINLY, Evidence, How, entries, gathered
from phr.chart.marks import Marks, marks
from phr.chart.plain import (
    address_words,
    concept_words,
    concepts_words,
    contacts,
    joined,
    mapping,
    mappings,
    moment_words,
    name_words,
    period_words,
    string,
)
from phr.fhir.record import Record

TEAMS = ("CareTeam",)
PEOPLE = ("Practitioner", "PractitionerRole", "RelatedPerson")
PLACES = ("Organization", "Location", "HealthcareService")


@dataclass(frozen=True, slots=True)
class Person:
    """A person or place with what is needed to reach it."""

    record: Record
    name: str
    roles: tuple[str, ...]
    contacts: tuple[tuple[str, str], ...]  # (system, value)
    address: str
    marks: Marks
    evidence: Evidence = NO_EVIDENCE


@dataclass(frozen=True, slots=True)
class Team:
    """A care team with its members as (name, role)."""

    record: Record
    name: str
    period: str
    status: str
    members: tuple[tuple[str, str], ...]
    marks: Marks


@dataclass(frozen=True, slots=True)
class Patient:
    """What one source says about the person this record is about."""

    record: Record
    name: str
    born: str
    sex: str
    facts: tuple[tuple[str, str], ...]
    marks: Marks
    evidence: Evidence = NO_EVIDENCE


def patients(records: Sequence[Record], how: How = PLAINLY) -> tuple[Patient, ...]:
    """Read each source's Patient; all stand apart, and who is not surely the person is marked."""
    doubts = entries(records, ("Patient",), how).flagged
    return tuple(
        replace(_patient(one), evidence=Evidence((one,), doubt=doubts.get(one.pk)))
        for one in of_types(records, "Patient")
    )


def of_the_person(records: Sequence[Record], how: How = PLAINLY) -> list[Record]:
    """Return the Patient records that are surely the person's: not those marked as somebody else's.

    The more of the person's other records are given, the surer it is whose most of them are.
    """
    return [one.record for one in patients(records, how) if one.evidence.doubt is None]


def _patient(record: Record) -> Patient:
    document = record.document
    facts = [(system_label(system), value) for system, value in contacts(document.get("telecom"))]
    facts.append(("Address", address_words(document.get("address"))))
    languages = (
        concept_words(one.get("language")) for one in mappings(document.get("communication"))
    )
    facts.append(("Language", joined(*dict.fromkeys(languages))))
    facts.append(("Died", moment_words(document.get("deceasedDateTime"))))
    return Patient(
        record=record,
        name=name_words(document.get("name")) or "Name not given",
        born=moment_words(document.get("birthDate")),
        sex=string(document.get("gender")),
        facts=tuple((label, value) for label, value in facts if value),
        marks=marks(record),
    )


def system_label(system: str) -> str:
    """Return a ContactPoint system as a label."""
    return {"phone": "Phone", "email": "Mail", "fax": "Fax", "url": "Web", "sms": "Text"}.get(
        system, "Contact"
    )


def teams(records: Sequence[Record]) -> tuple[Team, ...]:
    """Read every CareTeam in the order given."""
    book = Book(records)
    return tuple(_team(record, book) for record in of_types(records, *TEAMS))


def _team(record: Record, book: Book) -> Team:
    document = record.document
    members = (
        (book.name(record, one.get("member")), joined(*concepts_words(one.get("role"))))
        for one in mappings(document.get("participant"))
    )
    return Team(
        record=record,
        name=string(document.get("name"))
        or joined(*concepts_words(document.get("category")))
        or "Care team",
        period=period_words(document.get("period")),
        status=string(document.get("status")),
        members=tuple(dict.fromkeys(member for member in members if any(member))),
        marks=marks(record),
    )


def people(records: Sequence[Record], how: How = PLAINLY) -> tuple[Person, ...]:
    """Read professionals and relatives, each told once, by name."""
    return _persons(records, PEOPLE, how)


def places(records: Sequence[Record], how: How = PLAINLY) -> tuple[Person, ...]:
    """Read organizations and locations, each told once, by name."""
    return _persons(records, PLACES, how)


def _persons(records: Sequence[Record], types: tuple[str, ...], how: How) -> tuple[Person, ...]:
    book = Book(records)
    read = [_person(record, book) for record in of_types(records, *types)]
    told = gathered(read, entries(records, types, how), lambda one: len(one.contacts))
    return tuple(sorted(told, key=lambda person: person.name.casefold()))


def _person(record: Record, book: Book) -> Person:
    document = record.document
    return Person(
        record=record,
        name=_name(record, book) or "Name not given",
        roles=_roles(record, book),
        contacts=contacts(document.get("telecom")),
        address=address_words(document.get("address")),
        marks=marks(record),
    )


def _name(record: Record, book: Book) -> str:
    document = record.document
    name = document.get("name")
    if isinstance(name, str):
        return name.strip()
    return name_words(name) or book.name(record, document.get("practitioner"))


def _roles(record: Record, book: Book) -> tuple[str, ...]:
    document = record.document
    degrees = (concept_words(one.get("code")) for one in mappings(document.get("qualification")))
    found = (
        *concepts_words(document.get("code")),
        *concepts_words(document.get("specialty")),
        *concepts_words(document.get("relationship")),
        *(concepts_words(document.get("type")) if record.type in PLACES else ()),
        *degrees,
        _organization(record, book, document),
    )
    return tuple(dict.fromkeys(words for words in found if words))


def _organization(record: Record, book: Book, document: Mapping[str, Any]) -> str:
    field = "managingOrganization" if record.type == "Location" else "organization"
    return book.name(record, mapping(document.get(field)))
