"""Find your hospital: search the catalogue of this house, see what is known, choose how to connect.

What is typed is posted, so that it stands in no address, history or log. The journey from there is
`phr.connect`; what a lighthouse sees when it helps is `phr.beacon`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from litestar import Response

from phr import beacon, connect
from phr.connect import Aid
from phr.errors import InvalidInput, NotFound, PhrError, Sealed, StepUpNeeded
from phr.settings import is_loopback
from phr.web.doors import keys
from phr.web.pages import connections
from phr.web.routing import Access, Form, Visit, action, page, slow_page

if TYPE_CHECKING:
    from phr.catalogue import Endpoint, Organization

HERE = "/p/{patient_id:str}/find"
LANDING = "/r"  # of a lighthouse's redirect page
WAYS = {"id": connect.OWN, "key": connect.KEYED, "register": connect.REGISTERED}


# ------------------------------------------------------------------ searching


@slow_page(HERE, access=Access.PROXY)
def begin(visit: Visit) -> Response[Any]:
    """Show the field to type into, and what the catalogue is made of."""
    return _draw(visit, "", None)


@action(HERE, access=Access.PROXY)
def search(visit: Visit, form: Form) -> Response[Any]:
    """Show who may be meant. A posted form, though it changes nothing: see above."""
    typed = " ".join(form.get("q").split())[:120]
    return _draw(visit, typed, visit.appliance.catalogue.find(typed))


def _draw(visit: Visit, typed: str, hits: Any) -> Response[Any]:
    return visit.render(
        "pages/find.html",
        block="found",
        typed=typed,
        hits=hits,
        standing=visit.appliance.catalogue.standing(),
    )


@page(HERE + "/logos/{name:str}", access=Access.PROXY)
def logo(visit: Visit, name: str) -> Response[bytes]:
    """Give a reviewed logo that lies in this house."""
    return Response(visit.appliance.catalogue.logo(name), media_type="image/png")


@slow_page(HERE + "/{organization_id:str}", access=Access.PROXY)
def one(visit: Visit, organization_id: str) -> Response[Any]:
    """Show one organisation: its portals and their addresses, with what is known of each."""
    from phr import catalogue  # noqa: PLC0415 - most starts never look for a hospital

    kept = visit.appliance.catalogue
    found = kept.organization(organization_id)
    if len(found.endpoints) == 1:
        return _ways(visit, found, found.endpoints[0])
    known = [(end, dict(catalogue.known_of(end, kept.profile(end)))) for end in found.endpoints]
    known.sort(
        key=lambda pair: ("For" in pair[1], pair[0].fhir_version in catalogue.OLD, pair[0].portal)
    )
    return visit.render(
        "pages/find_one.html", organization=found, known=known, logo=kept.logo_of(found)
    )


# ------------------------------------------------------------------ the ways to connect


@slow_page(HERE + "/{organization_id:str}/{endpoint_id:str}", access=Access.PROXY)
def ways(visit: Visit, organization_id: str, endpoint_id: str) -> Response[Any]:
    """Show the ways to connect an endpoint, with the exact values to paste at the vendor."""
    return _ways(visit, *_chosen(visit, organization_id, endpoint_id))


def _chosen(
    visit: Visit, organization_id: str, endpoint_id: str
) -> "tuple[Organization, Endpoint]":
    found = visit.appliance.catalogue.organization(organization_id)
    for end in found.endpoints:
        if end.id == endpoint_id:
            return found, end
    raise NotFound


@dataclass(frozen=True, slots=True)
class Offer:
    """What a lighthouse offers for an endpoint: its client, in which way, and what it then sees."""

    lighthouse: str
    host: str
    client_id: str
    scopes: str
    kind: str  # beacon.SIGNS, beacon.PASSES, or "" for a client that anybody may use
    url: str
    landing: str  # its redirect page, or ""

    @property
    def sees(self) -> list[str]:
        """What is said before anybody agrees."""
        kinds = [beacon.LEADS_BACK] if self.landing else []
        return [beacon.SEES[kind] for kind in (*kinds, self.kind) if kind]


def _offer(visit: Visit, end: "Endpoint") -> Offer | None:
    """Return how the lighthouse that published an endpoint would help; None where it does not."""
    kept = visit.appliance.catalogue
    publisher, client = kept.publisher(end), kept.profile(end).get("client")
    if publisher is None or not isinstance(client, dict) or not client.get("id"):
        return None
    via = str(client.get("via", ""))
    part = {beacon.SIGNS: "assertions", beacon.PASSES: "proxy"}.get(via)
    url = _of_its_own(client) or kept.help_at(end, part) if part else ""
    landing = kept.help_at(end, "redirect")
    if url is None or not landing:
        return None
    return Offer(
        publisher.name,
        urlsplit(url or landing).netloc,
        str(client["id"]),
        str(client.get("scopes", "")),
        via if part else "",
        url,
        landing + LANDING,
    )


def _of_its_own(client: Mapping[str, Any]) -> str:
    """Return the service that a lighthouse runs for this client alone; "" where it is shared."""
    url = str(client.get("at", "")).rstrip("/")
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname == "127.0.0.1"
    return url if parts.hostname and (parts.scheme == "https" or local) else ""


def _ways(
    visit: Visit,
    organization: "Organization",
    end: "Endpoint",
    form: Form | None = None,
    sentence: str | None = None,
) -> Response[Any]:
    from phr import catalogue  # noqa: PLC0415 - most starts never look for a hospital

    profile = visit.appliance.catalogue.profile(end)
    return visit.render(
        "pages/find_ways.html",
        status=422 if sentence else 200,
        organization=organization,
        logo=visit.appliance.catalogue.logo_of(organization),
        end=end,
        known=catalogue.known_of(end, profile),
        profile=profile,
        for_staff=catalogue.is_for_staff(end, profile),
        clients=list(profile.get("clients", ("public", "secret", "jwt"))),
        offer=_offer(visit, end),
        landing=_landing(visit, end),
        sees_redirect=beacon.SEES[beacon.LEADS_BACK],
        redirect_uri=connections.redirect_uri(visit),
        scopes=_scopes(end, profile),
        keys_url=visit.appliance.settings.public_url + keys.PATH,
        keys_made=bool(connect.client_keys(visit.vault)),
        home_is_refused=_is_refused(visit, profile),
        typed=form or Form(),
        sentence=sentence,
    )


def _landing(visit: Visit, end: "Endpoint") -> str:
    """Return the redirect page of a lighthouse, for homes that a vendor refuses to lead to."""
    kept = visit.appliance.catalogue
    url = kept.help_at(end, "redirect")
    return url + LANDING if url else ""


def _is_refused(visit: Visit, profile: Any) -> bool:
    home = urlsplit(visit.appliance.settings.home_url)
    plain = home.scheme != "https" or is_loopback(home.hostname or "")
    return plain and profile.get("redirect") == "https"


def _scopes(end: "Endpoint", profile: Any) -> str:
    """Return the scopes to tick at the vendor, as far as they are known before asking anybody."""
    from phr import catalogue, oauth  # noqa: PLC0415 - as above

    quirks = catalogue.quirks_of(profile, end.fhir_version)
    guess = oauth.Endpoint(end.url, "", "", quirks=quirks)
    confidential = profile.get("clients", [""])[:1] != ["public"]
    return oauth.scopes_for(guess, confidential=confidential)


@action(HERE + "/{organization_id:str}/{endpoint_id:str}", access=Access.PROXY)
def go(visit: Visit, organization_id: str, endpoint_id: str, form: Form) -> Response[Any]:
    """Connect in the way that was chosen: the hospital is asked for the first time now."""
    organization, end = _chosen(visit, organization_id, endpoint_id)
    try:
        return connections.add_and_begin(visit, _wish(visit, organization, end, form))
    except PhrError as problem:
        if isinstance(problem, Sealed | StepUpNeeded):
            raise
        return _ways(visit, organization, end, form, problem.sentence)


def _wish(visit: Visit, organization: "Organization", end: "Endpoint", form: Form) -> connect.Wish:
    from phr import catalogue  # noqa: PLC0415 - most starts never look for a hospital

    profile = visit.appliance.catalogue.profile(end)
    portal = f" ({end.portal})" if end.portal and end.portal != organization.name else ""
    common: dict[str, Any] = {
        "name": (organization.name + portal)[:80],
        "base_url": end.url,
        "quirks": catalogue.quirks_of(profile, end.fhir_version),
    }
    way = form.get("way")
    if way == "lighthouse":
        return _with_help(visit, end, form, common)
    if way not in WAYS:
        raise InvalidInput("Please choose a way to connect.")
    registered, back = form.text("registered", limit=2000), None
    if form.get("back") == "lighthouse":
        registered, back = _through(visit, end, form)
    return connect.Wish(
        **common,
        way=WAYS[way],
        client_id=form.text("client_id", limit=300),
        secret=form.text("secret", limit=2000),
        scopes=form.text("scopes", limit=4000),
        registered=registered,
        back=back,
    )


def _with_help(visit: Visit, end: "Endpoint", form: Form, common: dict[str, Any]) -> connect.Wish:
    offer = _offer(visit, end)
    if offer is None:
        raise InvalidInput("No lighthouse helps with this hospital just now.")
    if not form.has("agreed"):
        raise InvalidInput("Please read what the lighthouse sees, and tick that you agree.")
    aid = Aid(offer.kind, offer.url, offer.lighthouse, end.id) if offer.kind else None
    back = Aid(beacon.LEADS_BACK, offer.landing.removesuffix(LANDING), offer.lighthouse)
    return connect.Wish(
        **common,
        client_id=offer.client_id,
        scopes=offer.scopes,
        registered=offer.landing,
        aid=aid,
        back=back,
    )


def _through(visit: Visit, end: "Endpoint", form: Form) -> tuple[str, Aid]:
    """Return the redirect page to come back through, when the person agreed to what it sees."""
    landing, publisher = _landing(visit, end), visit.appliance.catalogue.publisher(end)
    if not landing or publisher is None or not form.has("agreed"):
        raise InvalidInput("Please read what the lighthouse sees, and tick that you agree.")
    return landing, Aid(beacon.LEADS_BACK, landing.removesuffix(LANDING), publisher.name)


# ------------------------------------------------------------------ keys of our own


@action(HERE + "/keys", access=Access.PROXY)
def make_keys(visit: Visit, form: Form) -> Response[Any]:
    """Make the keys with which this record's connections sign, and publish their public halves."""
    connect.client_keys(visit.vault, make=True)
    following = form.get("next")
    inside = following.startswith(f"/p/{visit.vault.id}/find/")
    return visit.redirect(
        following if inside else f"/p/{visit.vault.id}/find",
        flash="The keys are made. Their private halves stay in this record.",
    )


@page(HERE + "/keys.json", access=Access.PROXY)
def keys_file(visit: Visit) -> Response[bytes]:
    """Give the public keys as a file, for vendors to which they must be uploaded."""
    name = 'attachment; filename="homeport-public-keys.json"'
    return keys.answer(visit, {"Content-Disposition": name})


ROUTES = [begin, search, keys_file, logo, make_keys, one, ways, go]
