"""The evidence behind one row: from how many hospitals, where they disagree, each piece linked."""

from collections.abc import Sequence
from dataclasses import replace

from phr.chart.evidence import Evidence, How
from phr.chart.ingredients import at_odds
from phr.chart.plain import clip, counted, joined, moment_words
from phr.chart.reconcile import Conflict
from phr.chart.titles import when_text
from phr.fhir.record import Record, Selection
from phr.views.frame import Context, Link, Row

PERSONS = Selection(types=("Patient",), limit=20)  # to see whose record each source means
MOST_LINKS = 12  # pieces of evidence named on one row; the rest is in the full list of their kind


def how(context: Context) -> How:
    """Return how records are gathered for this reader."""
    brought = frozenset(one for one, it in context.origins.items() if it.is_brought)
    return How(context.decisions, context.grouped, brought)


def with_evidence(row: Row, evidence: Evidence, context: Context) -> Row:
    """Return a row with what its evidence adds; a row of one sound record stays as it is."""
    told = [*row.details]
    if evidence.doubt is not None:
        told.append(
            "This may be about somebody else, so nothing was joined with it: "
            f"its source names {evidence.doubt.words}."
        )
    told += [conflict_words(one, context) for one in evidence.conflicts]
    told += remarked(evidence.records, context)
    if len(evidence.records) < 2:
        return replace(row, details=tuple(told)) if len(told) > len(row.details) else row
    first, *rest = row.aside or ("",)
    aside = (from_words(evidence, context), *rest) if len(evidence.sources) > 1 else (first, *rest)
    more = len(evidence.records) - MOST_LINKS
    if more > 0:
        told.append(f"{counted(more, 'older record')} of this in the full list.")
    count = counted(len(evidence.records), "record")
    return replace(
        row,
        details=tuple(told),
        aside=(*aside, count),
        links=(*row.links, *links(evidence.records, context)),
    )


def contradiction(concept: object) -> str:
    """Say where the codes of one medicine or allergen name different substances."""
    odd = at_odds(concept)
    return f"Its source's own codes do not agree: it also says {joined(*odd)}." if odd else ""


def remarked(records: Sequence[Record], context: Context) -> list[str]:
    """Return what the patient remarked on any of these records: an own name, notes."""
    lines = (line for one in records for line in context.remarks.words(one))
    return list(dict.fromkeys(lines))


def from_words(evidence: Evidence, context: Context) -> str:
    """Return "from 2 hospitals: Saltmarsh, Harbour", or "sources" where a file is among them."""
    kinds = {
        origin.kind if (origin := context.origins.get(one)) else "" for one in evidence.sources
    }
    noun = "hospital" if kinds <= {"smart", "demo"} else "source"
    names = joined(*(context.origin_name(one) for one in evidence.sources[:4]))
    return f"from {counted(len(evidence.sources), noun)}: {names}"


def conflict_words(conflict: Conflict, context: Context) -> str:
    """Return a disagreement in words: who says what. Nothing is chosen."""
    sides = [
        f"{clip(_said(side.words), 80)} ({joined(*_names(side.records, context))})"
        for side in conflict.sides
    ]
    return f"The sources disagree about the {conflict.about}: {joined(*sides, by='; ')}."


def _said(words: str) -> str:
    return moment_words(words) or words


def _names(records: Sequence[Record], context: Context) -> list[str]:
    return list(dict.fromkeys(context.origin(one) for one in records))[:3]


def links(records: Sequence[Record], context: Context) -> tuple[Link, ...]:
    """Return a link to each piece of evidence, one of every source before the rest."""
    ordered: list[Record] = []
    seen: set[int] = set()
    for one in records:
        if one.connection_id not in seen:
            seen.add(one.connection_id)
            ordered.append(one)
    ordered += [one for one in records if one not in ordered]
    made = []
    for one in ordered[:MOST_LINKS]:
        href = context.link(one)
        if href:
            when = moment_words(when_text(one.document).partition("T")[0])
            made.append(Link(clip(joined(context.origin(one), when), 60), href))
    return tuple(made)
