"""What is not a page, on both addresses: the files of pages, and answers to watchers and robots."""

from litestar import Response
from litestar.handlers import HTTPRouteHandler

from phr.errors import NotFound
from phr.web.routing import Access, Visit, page

FOR_EVER = "public, max-age=31536000, immutable"


@page("/static/{version:str}/{name:path}", access=Access.ANYONE, always=True)
def static_file(visit: Visit, version: str, name: str) -> Response[bytes]:
    """Serve a style sheet, script or icon from memory; its version is in the path."""
    file = visit.look.files.get(name.lstrip("/"))
    if file is None:
        raise NotFound
    headers = {"Vary": "Accept-Encoding"}
    if version == visit.look.version:
        headers["Cache-Control"] = FOR_EVER
    packed = file.packed if "gzip" in visit.headers.get("accept-encoding", "") else None
    if packed is not None:
        headers["Content-Encoding"] = "gzip"
    visit.set_cookies.clear()  # an answer that may be kept must carry nobody's cookie
    return Response(packed or file.body, media_type=file.media_type, headers=headers)


@page("/healthz", access=Access.ANYONE, always=True)
def healthz(visit: Visit) -> Response[str]:
    """Say that this process lives; nothing about any record."""
    visit.set_cookies.clear()
    return Response("ok\n", media_type="text/plain")


@page("/readyz", access=Access.ANYONE, always=True)
def readyz(visit: Visit) -> Response[str]:
    """Say whether every record can be used: 503 while one is sealed or being migrated."""
    visit.set_cookies.clear()
    ready = visit.appliance.is_ready()
    return Response("ready\n" if ready else "sealed\n", status_code=200 if ready else 503)


@page("/robots.txt", access=Access.ANYONE, always=True)
def robots(visit: Visit) -> Response[str]:
    """Ask every robot to stay away."""
    visit.set_cookies.clear()
    return Response("User-agent: *\nDisallow: /\n", media_type="text/plain")


ROUTES: list[HTTPRouteHandler] = [static_file, healthz, readyz, robots]
