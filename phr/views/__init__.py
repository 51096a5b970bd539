"""Views: what Records look like to a reader. Used by pages of the household and by sharing.

Each view is one small module; VIEWS is the table of sections. Not here: fetching and permission.
"""

from phr.views import (
    allergies,
    claims,
    documents,
    during,
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
TEST, BY_TEST, FLAGGED, NEW = results.TEST, results.BY_TEST, results.FLAGGED, results.NEW
KIND, HITS, RECORD = other.KIND, other.HITS, one.VIEW
VISIT = during.VIEW

__all__ = [
    "BY_TEST",
    "FLAGGED",
    "HITS",
    "KIND",
    "NEW",
    "RECORD",
    "TEST",
    "VIEWS",
    "VISIT",
    "Context",
    "Shown",
    "View",
    "render",
    "show",
]
