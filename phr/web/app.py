"""THE route table: every page of the household, every door of everybody else, nothing twice.

How the two applications check hosts and send headers is in `phr.web.application`.
"""

from collections.abc import Iterator

from litestar.handlers import HTTPRouteHandler

from phr.appliance import Appliance
from phr.web import always
from phr.web.application import (
    Application,
    home_application,
    home_keeper,
    public_application,
    public_keeper,
)
from phr.web.doors import (
    consents,
    fhir,
    health_links,
    keys,
    links,
    oauth,
    packages,
    sending,
    wellknown,
    writes,
)
from phr.web.doors import emergency as emergency_door
from phr.web.doors import tickets as ticket_door
from phr.web.pages import (
    account,
    admin,
    apps,
    between,
    brought,
    catalogue,
    chart,
    connections,
    demo,
    direct,
    emergency,
    files,
    find,
    grants,
    home,
    household,
    inbox,
    own,
    papers,
    proposals,
    same,
    setup,
    shares,
    signin,
    summary,
    tickets,
    timeline,
    trust,
)
from phr.web.sessions import Doorkeeper

HOME: list[HTTPRouteHandler] = [
    *always.ROUTES,
    *setup.ROUTES,
    *signin.ROUTES,
    *home.ROUTES,
    *timeline.ROUTES,
    *chart.ROUTES,
    *connections.ROUTES,
    *find.ROUTES,
    *files.ROUTES,
    *brought.ROUTES,
    *shares.ROUTES,
    *grants.ROUTES,
    *emergency.ROUTES,
    *direct.ROUTES,
    *apps.ROUTES,
    *proposals.ROUTES,
    *tickets.ROUTES,
    *between.ROUTES,
    *inbox.ROUTES,
    *summary.ROUTES,
    *own.ROUTES,
    *papers.ROUTES,
    *same.ROUTES,
    *household.ROUTES,
    *account.ROUTES,
    *admin.ROUTES,
    *catalogue.ROUTES,
    *demo.ROUTES,
    *trust.ROUTES,
]
PUBLIC: list[HTTPRouteHandler] = [
    *always.ROUTES,
    *links.ROUTES,
    *sending.ROUTES,
    *keys.ROUTES,
    *packages.ROUTES,
    *oauth.ROUTES,
    *wellknown.ROUTES,
    *consents.ROUTES,
    *fhir.ROUTES,
    *writes.ROUTES,
    *health_links.ROUTES,
    *emergency_door.ROUTES,
    *ticket_door.ROUTES,
]


def routes() -> Iterator[tuple[str, str, str, object]]:
    """Yield every route as (application, method, path, access); access is None where forgotten."""
    for name, table in (("home", HOME), ("public", PUBLIC)):
        for handler in table:
            access = (handler.opt or {}).get("access")
            for path in sorted(handler.paths):
                for method in sorted(str(each) for each in handler.http_methods):
                    yield name, method, path, access


def create_home_app(appliance: Appliance, doorkeeper: Doorkeeper | None = None) -> Application:
    """Return the application of the home address: every page for people who sign in."""
    return home_application(HOME, doorkeeper or home_keeper(appliance))


def create_public_app(appliance: Appliance, doorkeeper: Doorkeeper | None = None) -> Application:
    """Return the application of the public address: doors only, 404 for all else."""
    return public_application(PUBLIC, doorkeeper or public_keeper(appliance))
