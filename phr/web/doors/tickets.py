"""What others need to judge a Permission Ticket of this house: the issuer's key, and what ended.

Both are answered while a record is sealed; they name nobody and open nothing.
"""

import json
from collections.abc import Mapping
from typing import Any

from litestar import Response
from litestar.handlers import HTTPRouteHandler

from phr.errors import NotFound
from phr.sharing import tickets
from phr.web.routing import Access, Visit, slow_page

KEYS_KEPT = "public, max-age=300"
STATUS_KEPT = "public, max-age=60"


@slow_page(f"{tickets.PLACE}{{issuer_id:str}}{tickets.KEYS}", access=Access.ANYONE)
def keys(visit: Visit, issuer_id: str) -> Response[bytes]:
    """Publish the key of one issuer as a JWK Set (RFC 7517 §5)."""
    found = tickets.keys(visit.appliance.house, issuer_id)
    return _answer(visit, found, "application/jwk-set+json", KEYS_KEPT)


@slow_page(f"{tickets.PLACE}{{issuer_id:str}}{tickets.STATUS}", access=Access.ANYONE)
def status(visit: Visit, issuer_id: str) -> Response[bytes]:
    """Publish which tickets of one issuer have ended, as a list of bits."""
    found = tickets.stopped(visit.appliance.house, issuer_id)
    return _answer(visit, found, "application/json", STATUS_KEPT)


def _answer(visit: Visit, found: Mapping[str, Any] | None, kind: str, kept: str) -> Response[bytes]:
    if found is None:
        raise NotFound
    visit.set_cookies.clear()
    headers = {"Cache-Control": kept}
    return Response(json.dumps(found).encode(), media_type=kind, headers=headers)


ROUTES: list[HTTPRouteHandler] = [keys, status]
