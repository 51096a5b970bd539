"""Views: what Records look like to a reader. Used by pages of the household and by sharing.

Each view is one small module; VIEWS is the table of sections. Not here: fetching and permission.
"""

from phr.views import (
    allergies,
    claims,
    documents,
    immunizations,
    medications,
    one,
    other,
    people,
    problems,
    procedures,
    results,
    timeline,
    visits,
    vitals,
)
from phr.views.frame import Context, Shown, View, render, show

VIEWS: dict[str, View] = {
    view.slug: view
    for view in (
        timeline.VIEW,
        results.VIEW,
        medications.VIEW,
        allergies.VIEW,
        problems.VIEW,
        immunizations.VIEW,
        vitals.VIEW,
        visits.VIEW,
        procedures.VIEW,
        documents.VIEW,
        people.VIEW,
        claims.VIEW,
        other.VIEW,
    )
}
# Views that need more than a section's records: a code, a kind or one record.
TEST, BY_TEST, FLAGGED = results.TEST, results.BY_TEST, results.FLAGGED
KIND, HITS, RECORD = other.KIND, other.HITS, one.VIEW

__all__ = [
    "BY_TEST",
    "FLAGGED",
    "HITS",
    "KIND",
    "RECORD",
    "TEST",
    "VIEWS",
    "Context",
    "Shown",
    "View",
    "render",
    "show",
]
