"""One line for one thing: what was read of each record, gathered by entry.

The record that speaks for an entry is chosen by its list; the others stay at hand as evidence.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from phr.chart.decision import Decision
from phr.chart.reconcile import Conflict, Doubt, Reconciled, reconcile
from phr.fhir.record import Record

_EVENTS = frozenset({"Observation", "DiagnosticReport", "Encounter", "Appointment", "Procedure"})
_POINTED = frozenset({"Medication", "Organization", "Location", "Patient"})


@dataclass(frozen=True, slots=True)
class Evidence:
    """What stands behind one line: all its records, where they disagree, and whose it may be."""

    records: tuple[Record, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    doubt: Doubt | None = None

    @property
    def sources(self) -> tuple[int, ...]:
        """Return the connections that the evidence came by, each once."""
        return tuple(dict.fromkeys(one.connection_id for one in self.records))


NO_EVIDENCE = Evidence()


@dataclass(frozen=True, slots=True)
class How:
    """How records are gathered: by the patient's decisions, or as the store remembers.

    `brought` are the connections of files and contributions: for none of them a hospital answers.
    """

    decisions: tuple[Decision, ...] = ()
    grouped: Mapping[int, int] | None = None
    brought: frozenset[int] = frozenset()


PLAINLY = How()
Item = TypeVar("Item", bound=Any)  # has `record` and `evidence`


def entries(records: Sequence[Record], types: Iterable[str], how: How = PLAINLY) -> Reconciled:
    """Return the entries of the records of some types; the others lend names and persons."""
    wanted = frozenset(types)
    own = [one for one in records if one.type in wanted]
    near = [one for one in records if one.type in _POINTED - wanted]
    grouped = how.grouped
    if grouped is None and wanted <= _EVENTS and not how.decisions and _of_one_hospital(own):
        grouped = {}  # what one hospital holds apart stays apart
    made = reconcile(own, how.decisions, near=near, grouped=grouped)
    return replace(made, brought=how.brought) if how.brought else made


def _of_one_hospital(records: Sequence[Record]) -> bool:
    return len({one.connection_id for one in records}) < 2


def gathered(
    items: Sequence[Item],
    found: Reconciled,
    speaker: Callable[[Item], Any] = lambda item: 0,  # noqa: ARG005
) -> list[Item]:
    """Return one item for each entry, in the order of the first of each, with its evidence.

    The one with the greatest `speaker` value speaks; among equals the first given. What was
    brought speaks only where no connected hospital says the same. Of a `speaker` value that is a
    tuple the first member goes before that: what is still listed is never hidden by what is not.
    """
    of = found.of()
    together: dict[int, list[Item]] = {}
    for item in items:
        entry = of.get(item.record.pk)
        place = entry.records[0].pk if entry is not None else item.record.pk
        together.setdefault(place, []).append(item)
    return [_one(some, found, speaker) for some in together.values()]


def _one(some: Sequence[Item], found: Reconciled, speaker: Callable[[Item], Any]) -> Item:
    speaking = max(some, key=lambda item: _weight(item, found, speaker))
    records = (speaking.record, *(one.record for one in some if one is not speaking))
    entry = found.of_record(speaking.record)
    evidence = Evidence(
        records,
        entry.conflicts if entry is not None else (),
        found.flagged.get(speaking.record.pk),
    )
    return replace(speaking, evidence=evidence)


def _weight(
    item: Item, found: Reconciled, speaker: Callable[[Item], Any]
) -> tuple[Any, bool, tuple[Any, ...]]:
    value = speaker(item)
    first, *rest = value if isinstance(value, tuple) else (0, value)
    return first, item.record.connection_id not in found.brought, tuple(rest)
