"""The page that helps a household's devices trust this box's own local CA. Nothing else."""

from io import BytesIO
from typing import TYPE_CHECKING

from litestar import Response

from phr.errors import NotFound
from phr.web.routing import Access, Visit, page

if TYPE_CHECKING:
    from phr.tls import Authority


@page("/trust", access=Access.ANYONE, always=True)
def trust(visit: Visit) -> Response[bytes]:
    """Show the CA's fingerprint, its certificate to download and the way there for a phone."""
    from phr import tls  # noqa: PLC0415 - reading and making certificates is much to load

    settings = visit.appliance.settings
    return visit.render(
        "pages/trust.html",
        authority=_authority(visit),
        names=tls.names(settings),
        address=settings.home_url + "/trust",
    )


@page("/trust/homeport-ca.crt", access=Access.ANYONE, always=True)
def certificate(visit: Visit) -> Response[bytes]:
    """Serve the CA certificate (DER), in the type that phones offer to install (RFC 2585 §4.2)."""
    return Response(_authority(visit).der, media_type="application/x-x509-ca-cert")


@page("/trust/code.svg", access=Access.ANYONE, always=True)
def code(visit: Visit) -> Response[bytes]:
    """Draw this page's address as a QR code."""
    _authority(visit)
    import segno  # noqa: PLC0415 - 2 MB that an idle appliance does not need

    picture = BytesIO()
    qr = segno.make(visit.appliance.settings.home_url + "/trust", micro=False)
    qr.save(picture, kind="svg", scale=6, border=4, light="white", xmldecl=False)
    return Response(picture.getvalue(), media_type="image/svg+xml")


def _authority(visit: Visit) -> "Authority":
    from phr import tls  # noqa: PLC0415 - reading and making certificates is much to load

    found = tls.authority(visit.appliance.settings)
    if found is None:
        raise NotFound("This Homeport uses no certificate authority of its own.")
    return found


ROUTES = [trust, certificate, code]
