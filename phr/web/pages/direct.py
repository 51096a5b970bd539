"""Direct mail: own address and certificates, whom to trust, and sending to a doctor's address.

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


@action(HERE + "/check", access=Access.PROXY)
def check(visit: Visit, form: Form) -> Response[Any]:
    """Look for the certificate of an address, say how it went, and offer to send."""
    return _mailing().check(visit, form)  # type: ignore[no-any-return] # as above


@action(HERE + "/send", access=Access.PROXY)
def send(visit: Visit, form: Form) -> Response[Any]:
    """Begin to send, once or always; needs the password."""
    return _mailing().send(visit, form)  # type: ignore[no-any-return] # as above


@action(HERE + "/stop", access=Access.PROXY)
def stop(visit: Visit, form: Form) -> Response[Any]:
    """Stop an order and say what had gone already; asks for no password."""
    return _mailing().stop(visit, form)  # type: ignore[no-any-return] # as above


@slow_page(HERE + "/{name:str}", access=Access.PROXY)
def file(visit: Visit, name: str) -> Response[Any]:
    """Give the own anchor, the lines for a zone file, or the entry for a directory."""
    return _mailing().file(visit, name)  # type: ignore[no-any-return] # as above


ROUTES: list[HTTPRouteHandler] = [
    show, save, renew, trust, distrust, check, send, stop, file
]  # fmt: skip
