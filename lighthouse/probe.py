"""Visits endpoints to see who is alive: metadata and SMART configuration, within strict budgets.

At most one request a second to a host, so many in all, oldest visits first. Sends no credentials,
follows nothing to another host, and writes only what a server says about itself.
"""

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Engine, select

from lighthouse import net, repair
from lighthouse.net import Answer, Guard, Refused, Unanswered
from lighthouse.tables import door, endpoint, organization, probe, question
from lighthouse.writing import put

FHIR = "application/fhir+json"
DSTU2 = "application/json+fhir"
OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
ALIVE, NOT_FHIR, NO_ANSWER, REFUSED = "alive", "not FHIR", "no answer", "refused"

TOGETHER = 200  # visits kept in one transaction

Ask = Callable[..., Answer]


@dataclass(slots=True)
class Budget:
    """How much a crawl may ask: requests in all, endpoints a host, seconds between two requests."""

    requests: int = 5000
    per_host: int = 60
    interval: float = 1.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> bool:
        """Take one request from the budget, or say that it is used up."""
        with self.lock:
            self.requests -= 1
            return self.requests >= 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a visit found; the fields are the columns of the table `probe`."""

    endpoint: str
    probed: str
    last_ok: str = ""
    answer: str = ""
    detail: str = ""
    fhir_version: str = ""
    software: str = ""
    authorize: str = ""
    token: str = ""
    registration: str = ""
    pkce: str = ""
    token_auth: str = ""
    brands: str = ""


class _Spent(Exception):
    """The budget is used up."""


@dataclass(frozen=True, slots=True)
class Crawler:
    """Visits endpoints. `ask`, `clock` and `wait` are the network's and the machine's own."""

    guard: Guard
    today: str  # ISO date
    budget: Budget
    ask: Ask = net.ask
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], None] = time.sleep

    def run(self, engine: Engine, workers: int = 32) -> Counter[str]:
        """Visit what was not visited for longest; return how many gave which answer."""
        told: Counter[str] = Counter()
        before = _before(engine)
        waiting: list[tuple[Seen, str]] = []
        with ThreadPoolExecutor(workers) as pool:
            for found in pool.map(self._host, _by_host(engine, self.budget.per_host)):
                waiting += [_settle(before.get(one.endpoint), one) for one in found]
                told.update(one.answer for one in found)
                if len(waiting) >= TOGETHER:
                    _keep(engine, waiting)
                    waiting = []
        _keep(engine, waiting)
        return told

    def _host(self, ends: list[tuple[str, str]]) -> list[Seen]:
        """Visit the endpoints of one host, one after the other."""
        found: list[Seen] = []
        pace = _Pace(self.budget.interval, self.clock, self.wait)
        for identity, url in ends:
            try:
                found.append(self.visit(identity, url, pace))
            except _Spent:
                break
        return found

    def visit(self, identity: str, url: str, pace: "_Pace") -> Seen:
        """Ask one endpoint what it is."""
        bare = Seen(identity, self.today)
        try:
            smart = self._get(below(url, "/.well-known/smart-configuration"), pace, "")
            capability = self._get(below(url, "/metadata"), pace, FHIR)
            if not is_capability(capability):
                capability = self._get(below(url, "/metadata"), pace, DSTU2)
        except Refused as error:
            return replace(bare, answer=REFUSED, detail=str(error)[:200])
        except Unanswered as error:
            return replace(bare, answer=NO_ANSWER, detail=str(error)[:200])
        if not is_capability(capability):
            return replace(bare, answer=NOT_FHIR, detail="No CapabilityStatement came.")
        return _read(replace(bare, answer=ALIVE, last_ok=self.today), smart, capability)

    def _get(self, url: str, pace: "_Pace", accept: str) -> Mapping[str, Any]:
        """Return a JSON object, or an empty one for any other answer."""
        pace.next()
        if not self.budget.take():
            raise _Spent
        headers = {"Accept": accept or "application/json"}
        answer = self.ask("GET", url, self.guard, headers=headers, limit=8 * 2**20, seconds=20)
        if answer.status != 200:
            return {}
        try:
            said = json.loads(answer.body)
        except (ValueError, RecursionError):
            return {}
        return said if isinstance(said, dict) else {}


@dataclass(slots=True)
class _Pace:
    interval: float
    clock: Callable[[], float]
    wait: Callable[[float], None]
    last: float | None = None

    def next(self) -> None:
        """Wait until this host may be asked again."""
        if self.last is not None:
            rest = self.last + self.interval - self.clock()
            if rest > 0:
                self.wait(rest)
        self.last = self.clock()


def below(url: str, path: str) -> str:
    """Return the address of something below a base URL; a query of the base stays at its end."""
    base, mark, query = url.partition("?")
    return base.rstrip("/") + path + mark + query


def is_capability(said: Mapping[str, Any]) -> bool:
    """Say whether this is a CapabilityStatement, or DSTU2's Conformance."""
    return said.get("resourceType") in {"CapabilityStatement", "Conformance"}


def _read(seen: Seen, smart: Mapping[str, Any], capability: Mapping[str, Any]) -> Seen:
    uris = _oauth_uris(capability)
    software = capability.get("software")
    named = software.get("name") if isinstance(software, dict) else ""
    return replace(
        seen,
        fhir_version=repair.stated_version(_word(capability.get("fhirVersion"))),
        software=_word(named)[:80],
        authorize=_address(smart.get("authorization_endpoint") or uris.get("authorize")),
        token=_address(smart.get("token_endpoint") or uris.get("token")),
        registration=_address(smart.get("registration_endpoint") or uris.get("register")),
        pkce=_words(smart.get("code_challenge_methods_supported")),
        token_auth=_words(smart.get("token_endpoint_auth_methods_supported")),
        brands=_address(smart.get("user_access_brand_bundle")),
    )


def _oauth_uris(capability: Mapping[str, Any]) -> dict[str, str]:
    """Read the oauth-uris extension (SMART App Launch 1.0; DSTU2 has nothing else)."""
    found: dict[str, str] = {}
    for rest in _objects(capability.get("rest")):
        security = rest.get("security")
        for outer in _objects(security.get("extension") if isinstance(security, dict) else None):
            if outer.get("url") == OAUTH_URIS:
                for inner in _objects(outer.get("extension")):
                    found.setdefault(_word(inner.get("url")), _word(inner.get("valueUri")))
    return found


def _address(value: Any) -> str:
    """Keep an address only if it may be requested: a server's word is as hostile as a list's."""
    text = _word(value)
    harmless = repair.address(text).refused in {"", "a document, not a server"}
    return text if text and harmless else ""


def _words(value: Any) -> str:
    words = value if isinstance(value, list) else []
    short = [word for word in words if isinstance(word, str) and len(word) < 40 and word.isascii()]
    return " ".join(word for word in short[:10] if word.replace("_", "").replace("-", "").isalnum())


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


# --------------------------------------------------------------------------- catalogue


def _by_host(engine: Engine, per_host: int) -> Iterator[list[tuple[str, str]]]:
    """Yield (endpoint id, URL) by host, longest unvisited first; test entries are left alone."""
    shown = (
        select(door.c.endpoint)
        .join(organization, organization.c.id == door.c.organization)
        .where(organization.c.hidden == "")
    )
    query = (
        select(endpoint.c.id, endpoint.c.url, endpoint.c.key, probe.c.probed)
        .outerjoin(probe, probe.c.endpoint == endpoint.c.id)
        .where(endpoint.c.id.in_(shown))
    )
    hosts: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    with engine.connect() as connection:
        for row in connection.execute(query):
            hosts[urlsplit(row.key).netloc].append((row.probed or "", row.id, row.url))
    oldest = {host: min(members) for host, members in hosts.items()}
    for host in sorted(hosts, key=oldest.__getitem__):
        yield [(identity, url) for _, identity, url in sorted(hosts[host])[:per_host]]


def _before(engine: Engine) -> dict[str, Seen]:
    names = [column.name for column in probe.columns]
    with engine.connect() as connection:
        rows = connection.execute(select(*(probe.c[name] for name in names)))
        return {row[0]: Seen(**dict(zip(names, row, strict=True))) for row in rows}


def _settle(before: Seen | None, now: Seen) -> tuple[Seen, str]:
    """Return what to keep, and the token address that a person has to look at, if any.

    A failed visit changes no facts. A token endpoint may move by itself only within its domain.
    """
    if before is None:
        return now, ""
    if now.answer != ALIVE:
        told = {"probed": now.probed, "answer": now.answer, "detail": now.detail}
        return replace(before, **told), ""
    if before.token and now.token and _domain(before.token) != _domain(now.token):
        kept = replace(now, token=before.token, authorize=before.authorize)
        return kept, now.token
    return now, ""


def _domain(url: str) -> str:
    return ".".join((urlsplit(url).hostname or "").split(".")[-2:])


def _keep(engine: Engine, settled: list[tuple[Seen, str]]) -> None:
    rows = [asdict(one) for one, _ in settled]
    doubts = [
        {"one": f"token endpoint {one.token}", "other": moved} for one, moved in settled if moved
    ]
    with engine.begin() as connection:
        put(connection, probe, rows, kept=frozenset())
        put(connection, question, doubts)
