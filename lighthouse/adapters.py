"""Reads published lists, whatever their shape, into rows. One function a shape; nothing is judged.

Shapes: FHIR Bundles (SMART user-access brands; HTI-1 flat, `partOf` and contained), Lantern's
normalised lists, vendors' older JSON, CSV, payers' platform descriptions, the VCI directory, and
the federal crosswalk (evidence only).
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lighthouse.rows import COLLECTED, COPIED, Row
from lighthouse.vendors import vendor_of

BRAND_SYSTEMS = {"urn:ietf:rfc:3986"}
NPI_SYSTEMS = {"http://hl7.org/fhir/sid/us-npi", "http://hl7.org.fhir/sid/us-npi"}
PORTAL = "http://hl7.org/fhir/StructureDefinition/organization-portal"
VERSION = "http://hl7.org/fhir/StructureDefinition/endpoint-fhir-version"
PLATFORMS = {"payer": "ins", "ehr": "prov", "aggregator": "prov", "lab": "laboratory",
             "government": "prov"}  # fmt: skip
LIMIT = 200 * 1024 * 1024  # bytes of one list, unpacked

Place = tuple[str, str]  # origin, as_of


class Unknown(ValueError):
    """A file that may be whole, of a shape that no list has."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__("no shape that is known")


def lists_below(folder: Path) -> list[Path]:
    """Return the list files below a folder, in an order that does not depend on the disk."""
    endings = (".json", ".json.gz", ".csv", ".csv.gz")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.name.endswith(endings)
        and not path.name.startswith(".")
        and not re.search(r"_pfile_", path.name)  # NPPES is streamed (lighthouse.nppes)
        and path.relative_to(folder).parts[0] != "held"  # waits for a human (lighthouse.register)
    )


DATED = re.compile(r"\b(20\d\d-\d\d(?:-\d\d)?)\b")


def read(path: Path, root: Path, publisher: str = "") -> Iterator[Row]:
    """Read one list file. A broken file raises ValueError, an unknown shape Unknown.

    A date in the path names the edition; the same path without it names the list. `publisher` is
    whose list it is, for addresses that do not show their vendor.
    """
    name = path.relative_to(root).as_posix()
    origin = re.sub(r"\.(?:json|csv)(?:\.gz)?$", "", name)
    dated = DATED.search(name)
    place = (origin, dated[1] if dated else "")
    series = DATED.sub("*", origin)
    try:
        text = _text(path)
        is_csv = path.name.endswith((".csv", ".csv.gz"))
        for row in _csv(text, place) if is_csv else _json(json.loads(text), place):
            yield replace(row, list=series, vendor=row.vendor or publisher)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (EOFError, zlib.error):
        raise ValueError("the packed file is cut or broken") from None
    except csv.Error as error:
        raise ValueError(f"no CSV: {error}") from None
    except (TypeError, AttributeError, LookupError):
        raise ValueError("it does not keep to the shape it begins with") from None


def _text(path: Path) -> str:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        raw = stream.read(LIMIT + 1)
    if len(raw) > LIMIT:
        raise ValueError(f"{path.name} is larger than {LIMIT // 2**20} MB")
    return raw.decode("utf-8-sig", errors="replace").replace("\0", "")


# --------------------------------------------------------------------------- JSON


def _json(data: Any, place: Place) -> Iterator[Row]:
    if isinstance(data, list):
        yield from _crawled(data, place)
    elif not isinstance(data, dict):
        raise Unknown
    elif data.get("resourceType") == "Bundle":
        yield from _bundle(data, place)
    elif "Endpoints" in data:
        yield from _lantern(data["Endpoints"], place)
    elif "endpoints" in data and isinstance(data["endpoints"], list):
        yield from _oldest(data["endpoints"], place)
    elif "participating_issuers" in data:
        return  # card issuers are no record endpoints
    elif data.get("type") in {*PLATFORMS, "sandbox"} and "display_name" in data:
        yield from _platform(data, place)
    else:
        raise Unknown


def _lantern(items: Any, place: Place) -> Iterator[Row]:
    origin, as_of = place
    publisher = re.sub(r"_?EndpointSources$", "", origin.rsplit("/", 1)[-1]).replace("_", " ")
    publisher = "" if DATED.fullmatch(publisher) else publisher  # an edition of a register
    for item in _objects(items):
        url = _word(item.get("URL"))
        yield Row(
            origin,
            as_of,
            vendor_of(url, publisher),
            _word(item.get("OrganizationName")),
            url,
            npi=_word(item.get("NPIID")),
            zip=_word(item.get("OrganizationZipCode")),
            hands=COPIED,
        )


def _oldest(items: Any, place: Place) -> Iterator[Row]:
    for item in _objects(items):
        url = _word(item.get("baseUrl"))
        yield Row(*place, vendor_of(url), _word(item.get("name")), url)


def _crawled(items: Any, place: Place) -> Iterator[Row]:
    if items and not any("url" in item and "name" in item for item in _objects(items)):
        raise Unknown
    for item in _objects(items):
        url = _word(item.get("url"))
        if not url or "name" not in item:
            continue
        yield Row(
            *place,
            vendor_of(url),
            _word(item["name"]),
            url,
            origin_id=_word(item.get("id")),
            authorize=_word(item.get("authorize")),
            token=_word(item.get("token")),
            owner=_word(item.get("managingOrganization")),
            hands=COLLECTED,
        )


def _platform(data: Mapping[str, Any], place: Place) -> Iterator[Row]:
    url = _word(data.get("fhir_base_url"))
    oauth = data.get("oauth") if isinstance(data.get("oauth"), dict) else {}
    sandbox = "sandbox" in _word(data.get("id")) or data["type"] == "sandbox"
    if not url or sandbox:
        return
    yield Row(
        *place,
        vendor_of(url, _word(data.get("display_name"))),
        _word(data.get("name")),
        url,
        aliases=tuple(_word(a) for a in data.get("aliases") or () if not _word(a).isdigit()),
        kind=PLATFORMS[data["type"]],
        fhir_version=_word(data.get("fhir_version")),
        authorize=_word((oauth or {}).get("authorize_url")),
        token=_word((oauth or {}).get("token_url")),
        hands=COLLECTED,
    )


# --------------------------------------------------------------------------- FHIR Bundles


@dataclass(frozen=True, slots=True)
class Portal:
    """A portal that a brand publishes: where its people sign in, and who may."""

    name: str = ""
    url: str = ""
    about: str = ""


NO_PORTAL = Portal()


def _bundle(data: Mapping[str, Any], place: Place) -> Iterator[Row]:
    """Read brands, flat, `partOf` and contained organisations alike."""
    endpoints = _table(data, "Endpoint")
    organizations = _table(data, "Organization")
    stamp = _word(data.get("timestamp")) or _word((data.get("meta") or {}).get("lastUpdated"))
    place = (place[0], place[1] or stamp[:10])
    claimed: set[int] = set()
    for organization in _distinct(organizations):
        for endpoint, portal in _endpoints_of(organization, organizations, endpoints):
            claimed.add(id(endpoint))
            yield _row(organization, endpoint, place, portal, organizations)
    for endpoint in _distinct(endpoints):
        if id(endpoint) not in claimed:
            managing = _resolve(_reference(endpoint.get("managingOrganization")), organizations)
            named = [managing] if managing else [{"name": endpoint.get("name")}]
            for organization in _contained(endpoint) or named:
                yield _row(organization, endpoint, place, NO_PORTAL, organizations)


def _table(bundle: Mapping[str, Any], kind: str) -> dict[str, Mapping[str, Any]]:
    """Return a Bundle's resources of one type by id and by fullUrl."""
    found: dict[str, Mapping[str, Any]] = {}
    for entry in _objects(bundle.get("entry")):
        resource = entry.get("resource")
        if isinstance(resource, dict) and resource.get("resourceType") == kind:
            for key in (_word(resource.get("id")), _word(entry.get("fullUrl"))):
                if key:
                    found[key] = resource
    return found


def _contained(endpoint: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the organisations inside an Endpoint, less their ids, which mean nothing outside."""
    held = _objects(endpoint.get("contained"))
    found = [resource for resource in held if resource.get("resourceType") == "Organization"]
    return [{key: value for key, value in one.items() if key != "id"} for one in found]


def _distinct(table: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    seen: dict[int, Mapping[str, Any]] = {}
    for resource in table.values():
        seen.setdefault(id(resource), resource)
    return list(seen.values())


def _endpoints_of(
    organization: Mapping[str, Any],
    organizations: Mapping[str, Mapping[str, Any]],
    endpoints: Mapping[str, Mapping[str, Any]],
) -> list[tuple[Mapping[str, Any], Portal]]:
    """Return (endpoint, portal) of an organisation: its own, its portals', else a parent's."""
    holder: Mapping[str, Any] | None = organization
    for _ in range(5):  # the guide says two levels; real lists have more, and cycles
        if holder is None:
            return []
        found = [(reference, NO_PORTAL) for reference in _references(holder.get("endpoint"))]
        for extension in _objects(holder.get("extension")):
            if extension.get("url") == PORTAL:
                found += _portal(extension)
        known: dict[int, tuple[Mapping[str, Any], Portal]] = {}
        for reference, portal in found:
            endpoint = _resolve(reference, endpoints)
            if endpoint is not None and (portal.name or id(endpoint) not in known):
                known[id(endpoint)] = (endpoint, portal)
        if known:
            return list(known.values())
        holder = _resolve(_reference(holder.get("partOf")), organizations)
    return []


def _portal(extension: Mapping[str, Any]) -> list[tuple[str, Portal]]:
    parts = _objects(extension.get("extension"))

    def said(name: str, kind: str) -> str:
        return next((_word(part.get(kind)) for part in parts if part.get("url") == name), "")

    portal = Portal(
        said("portalName", "valueString"),
        said("portalUrl", "valueUrl"),
        said("portalDescription", "valueMarkdown") or said("portalDescription", "valueString"),
    )
    return [
        (_reference(part.get("valueReference")), portal)
        for part in parts
        if part.get("url") == "portalEndpoint"
    ]


def _row(
    organization: Mapping[str, Any],
    endpoint: Mapping[str, Any],
    place: Place,
    portal: Portal,
    organizations: Mapping[str, Mapping[str, Any]],
) -> Row:
    addresses = [_address(one) for one in _objects(organization.get("address"))]
    street, city, state, zip_code, country = addresses[0] if addresses else ("",) * 5
    parent = _resolve(_reference(organization.get("partOf")), organizations) or {}
    url = _word(endpoint.get("address"))
    return Row(
        *place,
        vendor_of(url),
        _word(organization.get("name")) or _word(endpoint.get("name")),
        url,
        aliases=tuple(_word(a) for a in organization.get("alias") or () if _word(a)),
        kind=_kind(organization),
        origin_id=_word(endpoint.get("id")),
        brand_id=_identifier(organization, BRAND_SYSTEMS),
        npi=_identifier(organization, NPI_SYSTEMS),
        street=street,
        city=city,
        state=state,
        zip=zip_code,
        country=country,
        places=tuple(addresses[1:]),
        org_id=_word(organization.get("id")),
        parent_id=_word(parent.get("id")),
        website=next(
            (
                _word(telecom.get("value"))
                for telecom in _objects(organization.get("telecom"))
                if telecom.get("system") == "url"
            ),
            "",
        ),
        portal=portal.name,
        portal_url=portal.url,
        portal_about=portal.about,
        parent=_word(parent.get("name")),
        fhir_version=next(
            (
                _word(extension.get("valueCode"))
                for extension in _objects(endpoint.get("extension"))
                if extension.get("url") == VERSION
            ),
            "",
        ),
    )


def _address(one: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    line = ", ".join(_word(line) for line in one.get("line") or ())
    where = (_word(one.get(name)) for name in ("city", "state", "postalCode", "country"))
    city, state, zip_code, country = where
    return line, city, state, zip_code, country


def _kind(organization: Mapping[str, Any]) -> str:
    for concept in _objects(organization.get("type")):
        for coding in _objects(concept.get("coding")):
            if coding.get("code"):
                return _word(coding["code"])
    return ""


def _identifier(organization: Mapping[str, Any], systems: set[str]) -> str:
    for identifier in _objects(organization.get("identifier")):
        if _word(identifier.get("system")).replace(" ", "") in systems:
            return _word(identifier.get("value"))
    return ""


def _references(value: Any) -> list[str]:
    return [_reference(item) for item in _objects(value)]


def _reference(value: Any) -> str:
    return _word(value.get("reference")) if isinstance(value, dict) else ""


def _resolve(reference: str, table: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Find by full URL, else by the id at the end (`Endpoint/x`, `#x`)."""
    if not reference:
        return None
    return table.get(reference) or table.get(re.split(r"[/#]", reference)[-1])


# --------------------------------------------------------------------------- CSV


def _csv(text: str, place: Place) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text), restval="")
    columns = frozenset(reader.fieldnames or ())
    for needed, make in CSV_SHAPES.items():
        if set(needed) <= columns:
            for line in reader:
                row = make(line, place)
                if row is not None:
                    yield row
            return
    raise Unknown


def _crosswalk(line: Mapping[str, str], place: Place) -> Row | None:
    url = line["base_url"]
    return Row(
        *place,
        vendor_of(url),
        line["org_name"] or "",
        url,
        npi=line["org_npi"] or "",
        state=line["org_state"] or "",
        evidence=True,
    )


def _export(line: Mapping[str, str], place: Place) -> Row | None:
    names = re.findall(r'"((?:[^"\\]|\\.)*)"|([^,{}]+)', line["api_information_source_name"] or "")
    name = next((quoted or plain for quoted, plain in names if quoted or plain), "")
    url = line["url"]
    version = line["fhir_version"] if line["fhir_version"] != "Unknown" else ""
    return Row(
        *place,
        vendor_of(url, line["certified_api_developer_name"]),
        name,
        url,
        fhir_version=version,
        hands=COLLECTED,
    )


def _brand_sheet(line: Mapping[str, str], place: Place) -> Row | None:
    url = line["Prod FHIR URL (Resource URL)"]
    brand = next(value for key, value in line.items() if key and key.startswith("Brand Name"))
    parent = line["Parent Organization Name"]
    return Row(*place, vendor_of(url, "1upHealth"), brand or parent, url, kind="ins", parent=parent)


def _medicaid(line: Mapping[str, str], place: Place) -> Row | None:
    url = line["endpoint"]
    if not url:
        return None
    name = f"{line['State']} Medicaid"
    vendor, state = vendor_of(url), line["State"]
    return Row(*place, vendor, name, url, kind="ins", state=state, hands=COLLECTED)


def _payers(line: Mapping[str, str], place: Place) -> Row | None:
    if not line["URL"]:
        return None
    name = re.sub(r"^[A-Z]\w{4}\s*-\s*", "", line["Contract ID"])
    vendor = vendor_of(line["URL"])
    return Row(*place, vendor, name, line["URL"], kind="ins", hands=COLLECTED)


CSV_SHAPES: Mapping[tuple[str, ...], Callable[[Mapping[str, str], Place], Row | None]] = {
    ("base_url", "org_name", "org_npi"): _crosswalk,
    ("url", "api_information_source_name"): _export,
    ("Parent Organization Name", "Prod FHIR URL (Resource URL)"): _brand_sheet,
    ("State", "endpoint", "developer_name"): _medicaid,
    ("Contract ID", "URL", "Response Format"): _payers,
}


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _word(value: Any) -> str:
    """Return a text or number as text that every database takes: no half letters, no NUL."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    text = str(value)
    return text if text.isascii() and "\0" not in text else _storable(text)


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", "")
