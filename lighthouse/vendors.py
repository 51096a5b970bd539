"""Whose software answers at an address: told by host or path, else by the list's publisher."""

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

_BY_ADDRESS = tuple(
    (re.compile(pattern, re.IGNORECASE), vendor)
    for pattern, vendor in (
        (r"healow\.com|eclinicalworks\.com", "eClinicalWorks"),
        (r"athenahealth\.com|athenanet", "athenahealth"),
        (r"practicefusion\.com|patientfusion\.com", "Practice Fusion"),
        (r"cerner\.com", "Oracle Health"),
        (r"fhirpoint|veradigm|professional.*allscripts|\bpro\w*\.open\.allscripts", "Veradigm"),
        (r"meldrx\.com", "MeldRx"),
        (r"carepaths\.com", "CarePaths"),
        (r"allscripts|altera", "Altera"),
        (r"argonaut/v1|uscore/R4|meditech", "MEDITECH"),
        (r"greenwayhealth|primesuite|intergy|fhir\.mygreenway", "Greenway"),
        (r"ficintegrations\.com", "First Insight"),
        (r"modmed|ema-api|mmiemr", "ModMed"),
        (r"officepracticum", "Office Practicum"),
        (r"nextgen\.com", "NextGen"),
        (r"advancedmd\.com", "AdvancedMD"),
        (r"epichosted|/api/FHIR/(?:R4|DSTU2|STU3)|epicproxy|/FHIR-?Proxy/|fhir\.epic\.com", "Epic"),
    )
)


def vendor_of(url: str, publisher: str = "") -> str:
    """Return the vendor's name as people know it, or the list's publisher, or ""."""
    for pattern, vendor in _BY_ADDRESS:
        if pattern.search(url):
            return vendor
    return publisher


_TENANT = (
    re.compile(r"cerner\.com/(?:dstu2|r4)/([^/?]+)", re.IGNORECASE),
    re.compile(r"(?:healow|eclinicalworks)\.com/.*?fhir/(?:r4/)?([A-Z]{6})\b", re.IGNORECASE),
    re.compile(r"(?:practicefusion|patientfusion)\.com/.*?/([0-9a-f-]{36})", re.IGNORECASE),
    re.compile(r"athenahealth\.com/(\d+/brand/\d+)/", re.IGNORECASE),
    re.compile(r"fhirpoint[^/]*/.*?(?:fhir/|cust=)(\d+)", re.IGNORECASE),
)


def tenant_of(url: str) -> str:
    """Return what names one customer in a vendor's addresses across FHIR versions and hosts."""
    for number, pattern in enumerate(_TENANT):
        match = pattern.search(url)
        if match:
            return f"{number}:{match[1]}"
    return ""


_VERSION_AT = (
    # The vendor's only interface is R4 (its platform description; certified after DSTU2).
    (re.compile(r"https://app\.meldrx\.com/api/fhir/"), "R4"),
    # CapabilityStatements there said 3.0.1, in a federal crawl and in an aggregator's catalogue.
    (re.compile(r"https://fhir\.healow\.com/FHIRServer/fhir/"), "STU3"),
)


def version_at(key: str) -> str:
    """Return the FHIR version of a server that has one, where the address does not show it."""
    return next((version for at, version in _VERSION_AT if at.match(key)), "")


@cache
def profiles() -> Mapping[str, Mapping[str, Any]]:
    """Return the habits of vendors by name, as `data/vendors.json` holds them, with its date.

    They were collected from other programs' tables and journals (see docs/lighthouse-spec.md), not
    tried by us at every vendor: an endpoint's own metadata always counts for more.
    """
    kept = files("lighthouse").joinpath("data/vendors.json").read_text(encoding="utf-8")
    found: dict[str, Mapping[str, Any]] = json.loads(kept)["vendors"]
    return found


def profile(vendor: str) -> Mapping[str, Any]:
    """Return the habits of one vendor; empty where nothing is known."""
    return profiles().get(vendor, {})


def is_for_staff(url: str, rules: Mapping[str, Any]) -> bool:
    """Say whether an address stands in the list that a vendor publishes for hospitals' staff."""
    host = (urlsplit(url).hostname or "").lower()
    return host in {str(one).lower() for one in rules.get("staff_hosts", ())}
