"""One published row on its way into the catalogue: what a list said, untouched, with its origin.

Repairs are made in `lighthouse.repair`, decisions about identity in `lighthouse.merge`.
"""

from dataclasses import dataclass

OWN = 0  # the publisher's own file
COPIED = 1  # the same in somebody else's form, a list for each publisher
COLLECTED = 2  # somebody's collection: crawls, exports, descriptions of platforms


@dataclass(frozen=True, slots=True)
class Row:
    """One organisation at one endpoint, as one list published it.

    `origin` names the list, `as_of` its date (ISO, "" where unknown). `origin_id` is the list's own
    id of the endpoint, `brand_id` the customer-supplied identifier of the organisation (website
    URI or OID), `parent` the name of the organisation it is part of. Empty text means "not said".
    """

    origin: str
    as_of: str
    vendor: str
    name: str
    url: str
    aliases: tuple[str, ...] = ()
    kind: str = ""  # prov, ins, ... (SMART user-access category)
    origin_id: str = ""
    brand_id: str = ""
    npi: str = ""
    street: str = ""
    city: str = ""
    state: str = ""
    zip: str = ""
    country: str = ""
    website: str = ""
    portal: str = ""
    parent: str = ""
    fhir_version: str = ""
    authorize: str = ""
    token: str = ""
    list: str = ""  # which list, whatever its edition; the origin itself where "" is said
    org_id: str = ""  # the list's own id of the organisation, and of what it is part of
    parent_id: str = ""
    portal_url: str = ""
    portal_about: str = ""
    about: str = ""
    places: tuple[
        tuple[str, str, str, str, str], ...
    ] = ()  # further street, city, state, zip, country
    owner: str = ""  # the organisation that runs it, where the list names one beside the brand
    hands: int = 0  # OWN, COPIED, COLLECTED: how near the list is to whom it speaks for
    evidence: bool = False  # a third party's claim: supports names and places, decides nothing
