"""Records become entries: one thing, all its evidence, what its sources disagree about.

Pure: knows no store. The same function serves the pages (all records), the doors (the released
ones) and `phr.store.entries`, which keeps the result. What a record is about is read in `traits`,
when two are about the same thing is decided in `rules`; here they are gathered. A decision of the
patient goes before every rule, the newer before the older.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from phr.chart import rules
from phr.chart.book import Book
from phr.chart.decision import Decision
from phr.chart.doses import doses
from phr.chart.plain import (
    code_as_words,
    code_of,
    joined,
    mapping,
    mappings,
    moment_words,
    name_words,
    string,
)
from phr.chart.traits import JOINED, Trait, bare, traits
from phr.fhir.record import Record

__all__ = ["JOINED", "Conflict", "Decision", "Doubt", "Entry", "Reconciled", "Side", "reconcile"]

_NEAR: Final = 100  # entries that share a key and that a newcomer is held against, the latest first
_MANY: Final = 64  # members of one entry that a newcomer is held against; the rest repeat them


@dataclass(frozen=True, slots=True)
class Side:
    """What some sources say in a conflict."""

    words: str
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """What the sources disagree about: status, dose, severity, date, or that it is there at all."""

    about: str
    sides: tuple[Side, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that a person reads. `records` are its evidence in the order of arrival.

    A source that rules it out is no evidence of it: it is a side of a conflict.
    """

    kind: str
    records: tuple[Record, ...]
    conflicts: tuple[Conflict, ...] = ()

    @property
    def sources(self) -> tuple[int, ...]:
        """Return the connections that the evidence came by, each once."""
        return tuple(dict.fromkeys(one.connection_id for one in self.records))


@dataclass(frozen=True, slots=True)
class Doubt:
    """A source's Patient that is not surely the person of this record."""

    patient: Record
    near: bool  # shares the surname or the birth date; else: nothing in common
    words: str  # "Myra Jones, 1 May 1947"


@dataclass(frozen=True)
class Reconciled:
    """Entries in the order of their first record; what may be another person's stands apart."""

    entries: tuple[Entry, ...]
    flagged: Mapping[int, Doubt]  # pk of each record that may be about somebody else
    brought: frozenset[int] = frozenset()  # connections that speak only where no hospital does

    def of(self) -> Mapping[int, Entry]:
        """Return the entry of each record, by pk."""
        held: dict[int, Entry] | None = self.__dict__.get("_of")
        if held is None:
            held = {record.pk: entry for entry in self.entries for record in entry.records}
            self.__dict__["_of"] = held
        return held

    def of_record(self, record: Record) -> Entry | None:
        """Return the entry that a record is evidence of."""
        return self.of().get(record.pk)


def reconcile(
    records: Sequence[Record],
    decisions: Iterable[Decision] = (),
    *,
    near: Sequence[Record] = (),
    grouped: Mapping[int, int] | None = None,
    known: Mapping[int, Trait] | None = None,
) -> Reconciled:
    """Gather records of one person into entries.

    `near` are records that may be pointed to (Medication, Organization). `grouped` is what the
    store remembers (record pk -> entry pk): then nothing is judged again. `known` are traits of
    these records that were read before. Records of kinds that are never joined are entries of
    their own.
    """
    everything = [*records, *near]
    flagged = _flagged(everything, decisions) if _several_people(everything) else {}
    sound = [one for one in records if one.pk not in flagged]
    if grouped is None:
        found = _gather(traits(sound, Book(everything), known), decisions)
    else:
        found = _remembered(sound, grouped)
    taken = {trait.record.pk for cluster in found for trait in cluster.members}
    denied = _ruled_out(sound, everything)
    entries = [_entry(cluster, denied) for cluster in found]
    entries += [
        Entry(one.type, (one,)) for one in records if one.pk not in taken
    ]  # kinds without a rule, and what is flagged: each stands alone
    return Reconciled(tuple(sorted(entries, key=_founder)), flagged)


def _founder(entry: Entry) -> int:
    return entry.records[0].pk


# ------------------------------------------------------------------------------------ gathering


class Cluster:
    """What is taken for one thing so far."""

    __slots__ = ("_profiles", "faces", "members", "pks")

    def __init__(self, first: Trait | None = None) -> None:
        """Begin with one record, or with none."""
        self.members: list[Trait] = []
        self.faces: list[Trait] = []  # one for each profile: equal ones judge alike
        self._profiles: set[Any] = set()  # of the faces, once there are two members
        self.pks: set[int] = set()
        if first is not None:
            self.take(first)

    def take(self, trait: Trait) -> None:
        """Add a record."""
        self.members.append(trait)
        self.pks.add(trait.record.pk)
        if not self.faces:
            self.faces.append(trait)
        elif len(self.faces) < _MANY:
            self._profiles = self._profiles or {self.faces[0].profile}
            if (own := trait.profile) not in self._profiles:
                self._profiles.add(own)
                self.faces.append(trait)

    def verdict(self, trait: Trait) -> rules.Verdict:
        """Return whether a record belongs here: not if any member says no."""
        found: rules.Verdict = None
        for face in self.faces:
            said = rules.same(face, trait)
            if said is False:
                return False
            found = found or said
        return found


class _Word:
    """The patient's decisions by pk: which two are apart, which are one."""

    def __init__(self, found: Sequence[Trait], decisions: Iterable[Decision]) -> None:
        pks = {trait.record.local_id: trait.record.pk for trait in found}
        self.same: list[tuple[int, int, int]] = []
        self.apart: dict[int, dict[int, int]] = {}  # pk -> other pk -> which decision
        for place, one in enumerate(decisions):
            if one.one not in pks or one.other not in pks:
                continue
            first, second = pks[one.one], pks[one.other]
            if one.same:
                self.same.append((place, first, second))
                continue
            self.apart.setdefault(first, {})[second] = place
            self.apart.setdefault(second, {})[first] = place

    def forbids(self, pk: int, others: set[int]) -> bool:
        """Say whether a record was set apart from one of these."""
        own = self.apart.get(pk)
        return own is not None and not others.isdisjoint(own)

    def newest_split(self, one: set[int], other: set[int]) -> int:
        """Return the newest decision that sets two groups apart; -1 for none."""
        return max(
            (
                place
                for pk in one
                for second, place in self.apart.get(pk, {}).items()
                if second in other
            ),
            default=-1,
        )


def _gather(found: Sequence[Trait], decisions: Iterable[Decision]) -> list[Cluster]:
    """Gather traits; the result does not depend on their order but for their pk."""
    word = _Word(found, decisions)
    clusters: dict[int, Cluster] = {}  # by number; numbers grow
    by_key: dict[str, list[int]] = {}
    home: dict[int, int] = {}  # pk -> number
    for number, trait in enumerate(sorted(found, key=_precise_first)):
        near: set[int] = set()
        for key in trait.keys:
            if listed := by_key.get(key):
                near.update(listed[-2 * _NEAR :])  # they grow: the latest are at the end
        latest = sorted(near & clusters.keys())[-_NEAR:]
        fitting = [] if trait.alone else _fitting(clusters, latest, trait, word)
        if len(fitting) > 1:
            fitting = _bridged(clusters, fitting, trait, word, home=home, by_key=by_key)
        place = fitting[0] if len(fitting) == 1 else number
        if place == number:
            clusters[number] = Cluster(trait)
        else:
            clusters[place].take(trait)
        home[trait.record.pk] = place
        for key in trait.keys:
            listed = by_key.setdefault(key, [])
            if not listed or listed[-1] != place:
                listed.append(place)
    _unite(clusters, home, word)
    return list(clusters.values())


def _precise_first(trait: Trait) -> tuple[int, int]:
    told = trait.told
    missing = 0 if told is None else (not told.strengths) * 2 + (not told.route)
    coarse = 6 - trait.when.precision if trait.when else 0
    return missing + coarse, trait.record.pk


def _fitting(
    clusters: Mapping[int, Cluster], near: Sequence[int], trait: Trait, word: _Word
) -> list[int]:
    pk = trait.record.pk
    return [
        number
        for number in near
        if not word.forbids(pk, clusters[number].pks) and clusters[number].verdict(trait)
    ]


def _bridged(
    clusters: dict[int, Cluster],
    fitting: Sequence[int],
    newcomer: Trait,
    word: _Word,
    *,
    home: dict[int, int],
    by_key: Mapping[str, list[int]],
) -> list[int]:
    """Make one of all clusters that a newcomer fits, if no member of any says no.

    Else it leaves open which one it belongs to: it goes to its own hospital's, or stays alone.
    """
    for place, number in enumerate(fitting):
        for second in fitting[place + 1 :]:
            one, other = clusters[number], clusters[second]
            if word.newest_split(one.pks, other.pks) >= 0 or any(
                one.verdict(face) is False for face in other.faces
            ):
                return [each for each in fitting if _has(clusters[each], newcomer)]
    for number in fitting[1:]:
        _merge(clusters, fitting[0], number, home, by_key)
    return list(fitting[:1])


def _has(cluster: Cluster, newcomer: Trait) -> bool:
    connection = newcomer.record.connection_id
    return any(one.record.connection_id == connection for one in cluster.members)


def _merge(
    clusters: dict[int, Cluster],
    first: int,
    number: int,
    home: dict[int, int],
    by_key: Mapping[str, list[int]] | None = None,
) -> None:
    for trait in clusters.pop(number).members:
        clusters[first].take(trait)
        home[trait.record.pk] = first
        for key in trait.keys if by_key is not None else ():
            listed = (by_key or {}).get(key)
            if listed is not None and first not in listed:
                listed.append(first)


def _unite(clusters: dict[int, Cluster], home: dict[int, int], word: _Word) -> None:
    """Do what the patient said: join, unless a newer word sets the two apart."""
    for place, one, other in word.same:
        first, second = home[one], home[other]
        if first == second or word.newest_split(clusters[first].pks, clusters[second].pks) > place:
            continue
        _merge(clusters, min(first, second), max(first, second), home)


def _remembered(records: Sequence[Record], grouped: Mapping[int, int]) -> list[Cluster]:
    """Gather as the store remembers it."""
    clusters: dict[int, Cluster] = {}
    for one in sorted(records, key=lambda record: record.pk):
        cluster = clusters.setdefault(grouped.get(one.pk, one.pk), Cluster())
        cluster.members.append(Trait(one, _KINDS.get(one.type, one.type)))
    return list(clusters.values())


_KINDS: Final = {
    "AllergyIntolerance": "allergy",
    "Condition": "problem",
    "DiagnosticReport": "report",
    "DocumentReference": "document",
    "Encounter": "visit",
    "Immunization": "vaccine",
    "MedicationOrder": "medicine",
    "MedicationRequest": "medicine",
    "MedicationStatement": "medicine",
    "Observation": "result",
    "Patient": "patient",
    "Procedure": "procedure",
}


def _entry(cluster: Cluster, denied: Mapping[int, Sequence[Record]]) -> Entry:
    members = sorted(cluster.members, key=lambda trait: trait.record.pk)
    records = tuple(trait.record for trait in members)
    found = conflicts(members[0].kind, records)
    against = {other.pk: other for one in records for other in denied.get(one.pk, ())}
    if against:
        sides = (Side("listed", records), Side("ruled out", tuple(against.values())))
        about = "allergy" if members[0].kind == "allergy" else "diagnosis"
        found = (Conflict(about, sides), *found)
    return Entry(members[0].kind, records, found)


def _ruled_out(sound: Sequence[Record], everything: Sequence[Record]) -> dict[int, list[Record]]:
    """Return, by the pk of an allergy or problem, the records of other sources that rule it out."""
    listed = [one for one in sound if one.type in ("AllergyIntolerance", "Condition")]
    if not any(_is_refuted(one) for one in listed):
        return {}
    found = traits(listed, Book(everything))
    denials = [one for one in found if one.state == "refuted"]
    against: dict[int, list[Record]] = {}
    for one in found:
        for denial in denials:
            elsewhere = one.record.connection_id != denial.record.connection_id
            if elsewhere and not one.state and rules.same(one, replace(denial, state="")):
                against.setdefault(one.record.pk, []).append(denial.record)
    return against


def _is_refuted(one: Record) -> bool:
    return code_of(one.document.get("verificationStatus")) == "refuted"


# ------------------------------------------------------------------------------------ conflicts


def conflicts(kind: str, records: Sequence[Record]) -> tuple[Conflict, ...]:
    """Return what the sources of one entry disagree about; each speaks by its newest record."""
    readers = _READERS.get(kind, ())
    if not readers or len({one.connection_id for one in records}) < 2:
        return ()
    newest: dict[int, Record] = {}
    for one in sorted(records, key=_age):
        newest[one.connection_id] = one
    speaking = sorted(newest.values(), key=lambda one: one.pk)
    return tuple(
        made
        for about, read, differ in readers
        if (made := _conflict(about, speaking, read, differ)) is not None
    )


def _age(record: Record) -> tuple[float, int]:
    when = record.when.timestamp() if record.when else float("-inf")
    return when, record.pk


Read = Callable[[Mapping[str, Any]], str]


def _conflict(
    about: str, speaking: Sequence[Record], read: Read, differ: Callable[[str, str], bool]
) -> Conflict | None:
    sides: dict[str, list[Record]] = {}
    for one in speaking:
        if said := read(one.document):
            sides.setdefault(said, []).append(one)
    listed = list(sides)
    if not any(differ(one, other) for one in listed for other in listed if one != other):
        return None
    return Conflict(about, tuple(Side(words, tuple(some)) for words, some in sides.items()))


def _other_words(one: str, other: str) -> bool:
    return bare(one) != bare(other)


def _other_time(one: str, other: str) -> bool:
    """Say whether two FHIR dates contradict each other, not only in how exact they are."""
    return not (one.startswith(other) or other.startswith(one))


def _clinical_status(document: Mapping[str, Any]) -> str:
    return code_as_words(code_of(document.get("clinicalStatus")))


def _status(document: Mapping[str, Any]) -> str:
    """Return the status in words; one that is unknown contradicts nobody."""
    status = string(document.get("status"))
    return "" if status == "unknown" else code_as_words(status)


_SEVERITIES: Final = ("severe", "moderate", "mild")


def _severity(document: Mapping[str, Any]) -> str:
    said = {string(one.get("severity")) for one in mappings(document.get("reaction"))}
    worst = next((one for one in _SEVERITIES if one in said), "")
    if not worst and string(document.get("criticality")) == "high":
        return "high risk"
    return worst


def _problem_severity(document: Mapping[str, Any]) -> str:
    return code_of(document.get("severity")) and string(
        mapping(document.get("severity")).get("text")
    )


def _onset(document: Mapping[str, Any]) -> str:
    return string(document.get("onsetDateTime"))[:10]


def _dose(document: Mapping[str, Any]) -> str:
    return joined(*doses(document), by="; ")


_STATUS: Final = ("status", _status, _other_words)
_READERS: Final[Mapping[str, tuple[tuple[str, Read, Callable[[str, str], bool]], ...]]] = {
    "allergy": (
        ("status", _clinical_status, _other_words),
        ("severity", _severity, _other_words),
        ("date", _onset, _other_time),
    ),
    "problem": (
        ("status", _clinical_status, _other_words),
        ("severity", _problem_severity, _other_words),
        ("date", _onset, _other_time),
    ),
    "medicine": (_STATUS, ("dose", _dose, _other_words)),
    "result": (_STATUS,),
    "report": (_STATUS,),
    "procedure": (_STATUS,),
}


# ------------------------------------------------------------------------------------ people


def _several_people(records: Sequence[Record]) -> bool:
    return sum(one.type == "Patient" for one in records) > 1


def _flagged(records: Sequence[Record], decisions: Iterable[Decision]) -> dict[int, Doubt]:
    """Return the records that may be about somebody else: whose Patient is not the person's.

    The person is whom most records are about.
    """
    patients = [one for one in records if one.type == "Patient"]
    found = _gather(traits(patients, Book(())), decisions)
    if len(found) < 2:
        return {}
    whose = Counter(name for one in records if (name := _subject(one)) is not None)
    names = {
        (trait.record.connection_id, trait.record.remote_id): cluster
        for cluster in found
        for trait in cluster.members
    }
    weight = Counter[int]()
    for name, count in whose.items():
        if name in names:
            weight[id(names[name])] += count
    ours = max(found, key=lambda one: (weight[id(one)], -one.members[0].record.pk))
    doubts = {
        (trait.record.connection_id, trait.record.remote_id): _doubt(trait, ours.members[0])
        for cluster in found
        if cluster is not ours
        for trait in cluster.members
    }
    flagged: dict[int, Doubt] = {}
    for one in records:
        name = _subject(one) or (one.connection_id, one.remote_id)
        if name in doubts and (one.type == "Patient") == (_subject(one) is None):
            flagged[one.pk] = doubts[name]
    return flagged


def _subject(record: Record) -> tuple[int, str] | None:
    """Return (connection, remote id) of the Patient that a record is about."""
    document = record.document
    for field in ("subject", "patient", "beneficiary"):
        target = string(mapping(document.get(field)).get("reference"))
        if target.startswith("urn:"):
            return record.connection_id, target.rpartition(":")[2]
        if "Patient/" in target:
            return record.connection_id, target.rpartition("Patient/")[2].partition("/")[0]
    return None


def _doubt(trait: Trait, ours: Trait) -> Doubt:
    document = trait.record.document
    born = string(document.get("birthDate"))
    mine, theirs = trait.person, ours.person
    near = bool(
        mine
        and theirs
        and (
            (mine.born and mine.born == theirs.born)
            or {word for _, family in mine.names for word in family}
            & {word for _, family in theirs.names for word in family}
        )
    )
    words = joined(name_words(document.get("name")), moment_words(born))
    return Doubt(trait.record, near, words or "somebody without a name")
