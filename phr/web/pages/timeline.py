"""The timeline: what happened, newest first, all of it or one kind.

Its lines are kept with the open vault (`Vault.drawn`), so that a page seen before is only framed.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any, Final
from urllib.parse import urlencode

from litestar import Response
from litestar.handlers import HTTPRouteHandler

from phr import views
from phr.chart.timeline import FILTERS
from phr.fhir.record import Record
from phr.store import records
from phr.store.records import Row
from phr.store.vault import Vault
from phr.views import timeline as view
from phr.views.timeline import Line
from phr.web.pages import chart
from phr.web.routing import Access, Visit, page

MOST: Final = 4000  # lines kept of one vault, about 2 MB
_STAND: Final = "drawn with"  # the key under which the kept lines say so


@page("/p/{patient_id:str}/timeline", access=Access.MEMBER)
def timeline(visit: Visit) -> Response[Any]:
    """Show what happened, newest first, all of it or one kind."""
    only = visit.query.get("only", "")
    main = replace(view.VIEW.selection, before=chart.before(visit))
    if only in FILTERS:
        main = replace(main, types=FILTERS[only][1])
    with visit.vault.read() as session:
        context = chart.context(visit, session)
        rows, opened = records.stored(session, main)
        drawn = kept_lines(visit.vault, rows, opened, context, stand=visit.look.base)
        if not rows:
            context = replace(context, answered=chart.answered(session, main.types))
    return visit.render(
        "pages/section.html",
        title=view.VIEW.title,
        shown=view.show(drawn, context),
        older=_older(visit, rows) if len(rows) == main.limit else None,
        later=bool(main.before),
        tabs=_tabs(only),
        back=None,
    )


def kept_lines(
    vault: Vault,
    rows: list[Row],
    opened: Callable[[Row], Record],
    context: views.Context,
    *,
    stand: object,
) -> list[Line]:
    """Return a line for each stored row; those not drawn before are drawn and kept.

    A line is found by all that changes what it says, so a new version or a mark of the patient's
    draws it anew; another name of a source or of the patient's own, or another `stand`, draws all
    of them anew.
    """
    kept = vault.drawn
    names = tuple(sorted(context.remarks.names.items()))
    stand = stand, [context.origin_name(key) for key in context.origins], names
    if kept.get(_STAND) != stand:
        kept.clear()
        kept[_STAND] = stand
    keys = [records.seen_of(row) for row in rows]
    found = [kept.get(key) for key in keys]
    fresh = [place for place, line in enumerate(found) if line is None]
    for place, line in zip(
        fresh, view.lines([opened(rows[place]) for place in fresh], context), strict=True
    ):
        found[place] = kept[keys[place]] = line
    if len(kept) > MOST:
        for key in list(islice(kept, 1, MOST // 2)):
            kept.pop(key, None)
    return [line for line in found if line is not None]


def _tabs(only: str) -> list[tuple[str, str, bool]]:
    tabs = [("?", "All", only not in FILTERS)]
    return tabs + [(f"?only={slug}", words, slug == only) for slug, (words, _) in FILTERS.items()]


def _older(visit: Visit, rows: list[Row]) -> str:
    """Return the address of the next page."""
    when, pk = records.place_of(rows[-1])
    return f"{visit.url(visit.path)}?{urlencode({**visit.query, 'before': f'{when}.{pk}'})}"


ROUTES: list[HTTPRouteHandler] = [timeline]
