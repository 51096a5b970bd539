"""The public key by which a package of this appliance is checked (docs/export.md)."""

from litestar import Response

from phr.sharing import signing
from phr.web.routing import Access, Visit, page

PATH = "/package-keys.json"


@page(PATH, access=Access.ANYONE, always=True)
def published(visit: Visit) -> Response[bytes]:
    """Publish it as a JWK Set (RFC 7517 §5); it names nobody and opens nothing."""
    visit.set_cookies.clear()
    body = signing.as_json(signing.key_set(visit.appliance.house))
    headers = {"Cache-Control": "public, max-age=300"}
    return Response(body, media_type="application/jwk-set+json", headers=headers)


ROUTES = [published]
