"""Direct mail: own address and certificates, and whom to trust. Sending is part of sharing.

The routes alone. What they do is `phr.web.pages.mailing`, which is loaded, and loads what Direct
needs, when somebody comes here: an idle appliance does not hold it.
"""

from typing import Any

from litestar import Response
from litestar.handlers import HTTPRouteHandler

from phr.web.routing import Access, Form, Visit, action, slow_page

HERE = "/p/{patient_id:str}/direct"


def _mailing() -> Any:
    from phr.web.pages import mailing  # noqa: PLC0415 - see above

    return mailing


@slow_page(HERE, access=Access.PROXY)
def show(visit: Visit) -> Response[Any]:
    """Show settings, own certificates, anchors, bundles and what is being sent."""
    return _mailing().draw(visit)  # type: ignore[no-any-return] # a module loaded late


@action(HERE, access=Access.PROXY)
def save(visit: Visit, form: Form) -> Response[Any]:
    """Keep address, way and mail server; needs the password."""
    return _mailing().save(visit, form)  # type: ignore[no-any-return] # as above


@action(HERE + "/renew", access=Access.PROXY)
def renew(visit: Visit) -> Response[Any]:
    """Make a new own certificate; needs the password."""
    return _mailing().renew(visit)  # type: ignore[no-any-return] # as above


@action(HERE + "/trust", access=Access.PROXY, uploads=True)
def trust(visit: Visit, form: Form) -> Response[Any]:
    """Trust a certificate from a file, or follow a bundle; needs the password."""
    return _mailing().trust(visit, form)  # type: ignore[no-any-return] # as above


@action(HERE + "/distrust", access=Access.PROXY)
def distrust(visit: Visit, form: Form) -> Response[Any]:
    """Trust a certificate, or follow a bundle, no more; asks for nothing."""
    return _mailing().distrust(visit, form)  # type: ignore[no-any-return] # as above


@action(HERE + "/test", access=Access.PROXY)
def test(visit: Visit) -> Response[Any]:
    """Send a message to oneself, to see whether it works."""
    return _mailing().test(visit)  # type: ignore[no-any-return] # as above


@action(HERE + "/look", access=Access.PROXY)
def look(visit: Visit) -> Response[Any]:
    """Look into the mailbox at the provider now."""
    return _mailing().look(visit)  # type: ignore[no-any-return] # as above


@action(HERE + "/export", access=Access.PROXY)
def export(visit: Visit, form: Form) -> Response[Any]:
    """Give the own certificate with its key, under a password; needs one's own password, too."""
    return _mailing().export(visit, form)  # type: ignore[no-any-return] # as above


@slow_page(HERE + "/{name:str}", access=Access.PROXY)
def file(visit: Visit, name: str) -> Response[Any]:
    """Give the own anchor, the lines for a zone file, or the entry for a directory."""
    return _mailing().file(visit, name)  # type: ignore[no-any-return] # as above


ROUTES: list[HTTPRouteHandler] = [
    show, save, renew, trust, distrust, test, look, export, file
]  # fmt: skip
