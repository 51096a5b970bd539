"""The public keys with which connections of this house show who they are (private_key_jwt).

They name nobody and open nothing; the private halves lie in the vaults (`phr.connect`).
"""

import json
from collections.abc import Mapping

from litestar import Response

from phr import connect
from phr.web.routing import Access, Visit, page

PATH = "/client-jwks.json"


@page(PATH, access=Access.ANYONE, always=True)
def published(visit: Visit) -> Response[bytes]:
    """Publish the keys as a JWK Set (RFC 7517 §5), for vendors that fetch them."""
    visit.set_cookies.clear()
    return answer(visit, {"Cache-Control": "public, max-age=300"})


def answer(visit: Visit, headers: Mapping[str, str]) -> Response[bytes]:
    """Answer with the keys, also those of records that are sealed now."""
    found = connect.published_keys(visit.appliance.house, visit.appliance.vaults)
    kind = "application/jwk-set+json"
    return Response(json.dumps(found).encode(), media_type=kind, headers=dict(headers))


ROUTES = [published]
