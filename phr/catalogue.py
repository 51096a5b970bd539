"""Find your hospital: the catalogue that this house keeps, searched without asking anybody.

It is a built-in list and, where lighthouses are configured, their signed snapshots. How hits are
found, and how snapshots are checked, is `lighthouse.search` and `lighthouse.snapshot`.
"""

import hashlib
import json
import logging
import re
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from phr import clock, ids, logs
from phr.errors import Conflict, InvalidInput, NetError, NotFound, PhrError, TrustError, Unreachable
from phr.http import Http, Limits

if TYPE_CHECKING:
    from lighthouse.search import Hit
    from lighthouse.snapshot import Endpoint, Index, Kept, Moved, Organization

# `lighthouse` is imported where it is used: most starts never look for a hospital.

__all__ = [
    "Catalogue", "Endpoint", "Found", "Kept", "Lighthouse", "Moved", "Organization", "Standing",
]  # fmt: skip

log = logging.getLogger(__name__)

SEED: Final = Path(__file__).with_name("catalogue.json")
HITS: Final = 12
LONGEST_QUERY: Final = 120  # characters
EVERY: Final = timedelta(hours=24)
AGAIN: Final = timedelta(hours=6)  # after a failure
SPREAD: Final = 4 * 3600  # seconds: when a lighthouse is asked tells nobody what was needed when
UNUSED: Final = timedelta(minutes=30)  # after which the index is let go
OLD: Final = ("DSTU2", "STU3")
SMALL: Final = frozenset(("of", "and", "the", "for", "at", "in"))  # words that no mark is made of


@dataclass(frozen=True, slots=True)
class Lighthouse:
    """A configured publisher of snapshots: its address and the root keys whose word counts."""

    name: str
    url: str
    roots: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """One hit as a page shows it: the organisation, the other name that matched, where it is."""

    organization: "Organization"
    matched: str
    place: str
    logo: str = ""  # name of its reviewed logo, as `Catalogue.logo` knows it
    at: str = ""  # where it answers, of one that shares its name with another hit

    @property
    def mark(self) -> str:
        """One or two letters that stand where no reviewed logo is: none is fetched for a hit."""
        words = re.findall(r"[^\W\d_]+", self.organization.name)
        telling = [word[0] for word in words if word.lower() not in SMALL] or ["?"]
        return "".join(telling[:2]).upper()

    @property
    def hue(self) -> int:
        """Which of the four colours the mark has, always the same for a name."""
        return zlib.crc32(self.organization.name.encode()) % 4 + 1


@dataclass(frozen=True, slots=True)
class Standing:
    """What the catalogue is made of, and how old that is."""

    seed_dated: str
    organizations: int
    kept: tuple["Kept", ...] = ()
    trouble: Mapping[str, str] = field(default_factory=dict)  # by lighthouse: what went wrong last


def configured(texts: Sequence[str]) -> tuple[Lighthouse, ...]:
    """Return the lighthouses of the settings, each "address#root key[+root key…]", in order."""
    found: list[Lighthouse] = []
    for text in texts:
        url, _, keys = text.partition("#")
        host = "".join(c if c.isalnum() else "-" for c in urlsplit(url).netloc.lower()).strip("-")
        name = host[:32].rstrip("-")
        if any(one.name == name for one in found):
            name = f"{name}-{len(found) + 1}"
        found.append(Lighthouse(name, url.rstrip("/"), tuple(keys.split("+"))))
    return tuple(found)


class Catalogue:
    """The catalogue of one house in a folder of its own. Safe to use from several threads."""

    def __init__(
        self, folder: Path, lighthouses: Sequence[Lighthouse] = (), *, seed: Path = SEED
    ) -> None:
        """Take the folder (made when needed) and the lighthouses in the order of preference.

        `seed` is the list that is there without any: ours, unless a house brings its own.
        """
        self._seed = seed
        self.lighthouses = tuple(lighthouses)
        self._folder = folder
        self._lock = threading.RLock()
        self._index: Index | None = None
        self._logos: dict[str, dict[str, bytes]] = {}  # by lighthouse and organisation
        self._used = clock.now()

    # ------------------------------------------------------------------ searching

    def find(self, typed: str, limit: int = HITS) -> list[Found]:
        """Return who may be meant, best first. Nothing of what was typed is kept or sent."""
        typed = typed.strip()[:LONGEST_QUERY]
        if not typed:
            return []
        from lighthouse.search import namesakes  # noqa: PLC0415 - see the top

        with self._reading() as index:
            hits = index.find(typed, limit)
            apart = namesakes(hits)
            return [
                replace(
                    _found(hit),
                    logo=self._logo_of(index, hit.organization),
                    at=apart.get(hit.organization.id, ""),
                )
                for hit in hits
            ]

    def organization(self, identity: str) -> "Organization":
        """Return an organisation with its endpoints. Raises NotFound."""
        with self._reading() as index:
            found = index.organization(identity)
        if found is None:
            raise NotFound
        return found

    def logo_of(self, organization: "Organization") -> str:
        """Return the name of an organisation's reviewed logo, or ""."""
        with self._reading() as index:
            return self._logo_of(index, organization)

    def _logo_of(self, index: "Index", organization: "Organization") -> str:
        """Only the lighthouse that says where an organisation signs in says how it looks."""
        if not self._logos or not organization.endpoints:
            return ""
        from lighthouse.snapshot import file_name  # noqa: PLC0415 - see the top

        whose = self._logos.get(index.lighthouse(organization.endpoints[0].id), {})
        logo = whose.get(organization.id)
        return file_name(logo) if logo else ""

    def logo(self, name: str) -> bytes:
        """Return a logo (PNG, reduced to its picture) by its name. Raises NotFound."""
        with self._reading():
            kept = [logo for some in self._logos.values() for logo in some.values()]
        from lighthouse.snapshot import file_name  # noqa: PLC0415 - see the top

        for logo in kept:
            if file_name(logo) == name:
                return logo
        raise NotFound

    def profile(self, endpoint: "Endpoint") -> Mapping[str, Any]:
        """Return what is known of an endpoint's habits, its vendor's or its own."""
        with self._reading() as index:
            return index.profile(endpoint)

    def publisher(self, endpoint: "Endpoint") -> Lighthouse | None:
        """Return the lighthouse from whose snapshot an endpoint came; None: the built-in list."""
        with self._reading() as index:
            name = index.lighthouse(endpoint.id)
        return next((one for one in self.lighthouses if one.name == name), None)

    def help_at(self, endpoint: "Endpoint", part: str) -> str | None:
        """Return the address of a part of the endpoint's lighthouse, as its snapshot says it.

        `part` is "redirect", "assertions" or "proxy". Only https, or this very machine.
        """
        publisher = self.publisher(endpoint)
        if publisher is None:
            return None
        with suppress(PhrError):
            url = self._services(publisher.name).get(part, "").rstrip("/")
            parts = urlsplit(url)
            local = parts.scheme == "http" and parts.hostname == "127.0.0.1"
            return url if parts.scheme == "https" or local else None
        return None

    @contextmanager
    def _reading(self) -> Iterator["Index"]:
        """Give the open index, made anew where its parts have changed."""
        with self._lock:
            self._used = clock.now()
            if self._index is None:
                self._index = self._opened()
                self._logos = self._kept_logos()
            yield self._index

    def _opened(self) -> "Index":
        from lighthouse.snapshot import NoIndex, open_index  # noqa: PLC0415 - see the top

        stamp, path = self._folder / "index.txt", self._folder / "index.db"
        wanted = self._stamp()
        with suppress(OSError, NoIndex):
            if stamp.read_text(encoding="ascii") == wanted:
                return open_index(path)
        order = [one.name for one in self._kept()]
        with _translated():
            self._shelf().index(order, _seed(self._seed))
        stamp.write_text(wanted, encoding="ascii")
        return open_index(path)

    def rest(self, now: datetime) -> None:
        """Let the index go when nobody has looked for a while: it is memory for nothing."""
        with self._lock:
            if self._index is not None and now - self._used > UNUSED:
                self._let_go()

    def close(self) -> None:
        """Let the index go."""
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index, self._logos = None, {}

    # ------------------------------------------------------------------ what it is made of

    def standing(self) -> Standing:
        """Return what the catalogue is made of, and what went wrong the last time."""
        with self._reading() as index:
            number = index.organizations
        said = {name: one["sentence"] for name, one in self._asked().items() if one.get("sentence")}
        return Standing(_seed_dated(self._seed), number, tuple(self._kept()), said)

    def apply(self, path: Path, now: datetime) -> "Kept":
        """Take a packed snapshot (a .zip or a folder) that somebody carried here.

        It must be signed by one of the configured lighthouses. Raises InvalidInput, TrustError.
        """
        from lighthouse.snapshot import Refused, reader_of  # noqa: PLC0415 - see the top

        if not path.exists():
            raise InvalidInput(f"There is no {path.name} at that place.")
        if not self.lighthouses:
            raise InvalidInput(
                "No lighthouse is configured, so nobody could tell a forged list from a true one. "
                "Set PHR_LIGHTHOUSES to its address and root key first."
            )
        fetch, problem = reader_of(path), ""
        for one in self.lighthouses:
            try:
                return self._take(one, fetch, now)
            except (TrustError, OSError) as refused:
                cause = refused.__cause__
                if not isinstance(cause, Refused) or cause.reason != "signature":
                    raise TrustError(_sentence_of(refused)) from refused
                problem = str(cause)
        raise TrustError(problem)

    def forwarded(self, url: str) -> tuple[str, Lighthouse] | None:
        """Return the address that took the place of one, and whose word that is; None: none did.

        Cheap: it reads one small file of each lighthouse and opens no index.
        """
        for one in self.lighthouses:
            found = self._shelf().forwards(one.name).get(url.rstrip("/"))
            if found:
                return found, one
        return None

    def serials(self) -> dict[str, int]:
        """Return the number of the snapshot that is kept of each lighthouse, by name."""
        return {one.name: one.serial for one in self._kept()}

    def fetch_due(self, http: Http, now: datetime) -> None:
        """Ask each lighthouse that has not been asked for a day; a failure is kept as a sentence.

        Nothing that is asked depends on what anybody looked for.
        """
        for one in self.lighthouses:
            if self._asked().get(one.name, {}).get("next", 0) <= clock.to_ms(now):
                self.fetch(one, http, now)

    def fetch(self, one: Lighthouse, http: Http, now: datetime) -> bool:
        """Ask one lighthouse now; return whether that worked. What was kept before stays."""
        sentence, wait = None, EVERY
        try:
            self._take(one, _over(http, one), now)
        except PhrError as problem:
            sentence, wait = problem.sentence, AGAIN
            logs.event(log, "catalogue.not_fetched", lighthouse=one.name)
        late = timedelta(seconds=int.from_bytes(ids.random_bytes(4), "big") % SPREAD)
        with self._lock:
            said = {"next": clock.to_ms(now + wait + late), "sentence": sentence}
            self._write("asked.json", json.dumps({**self._asked(), one.name: said}))
        return sentence is None

    def confirm(self, lighthouse: str, endpoint: str) -> None:
        """Take over a sign-in address that moved to another site: a person agreed."""
        with self._lock, _translated():
            self._shelf().confirm(lighthouse, endpoint)
            self._let_go()

    def _take(self, one: Lighthouse, fetch: Callable[[str, int], bytes], now: datetime) -> "Kept":
        from lighthouse.snapshot import Trust  # noqa: PLC0415 - see the top of this file

        with _translated():
            shelf = self._shelf()
            kept: Kept = shelf.take(one.name, fetch, Trust(one.roots), now=now)
        with suppress(PhrError), _translated():  # a list without its logos is a list
            shelf.take_logos(one.name, fetch)
        with self._lock:
            self._let_go()
        return kept

    def _shelf(self) -> Any:
        from lighthouse.snapshot import Shelf  # noqa: PLC0415 - see the top of this file

        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Shelf(self._folder)

    def _kept(self) -> list["Kept"]:
        """Return what is kept of the lighthouses that are configured still, preferred first."""
        with _translated():
            found = {one.name: one for one in self._shelf().kept(now=clock.now())}
        return [found[one.name] for one in self.lighthouses if one.name in found]

    def _kept_logos(self) -> dict[str, dict[str, bytes]]:
        found = {one.name: self._shelf().logos(one.name) for one in self._kept()}
        return {name: logos for name, logos in found.items() if logos}

    def _services(self, name: str) -> Mapping[str, str]:
        with _translated():
            services: Mapping[str, str] = self._shelf().load(name).manifest.services
        return services

    def _stamp(self) -> str:
        """Return what an index must have been made of to be used."""
        from lighthouse.snapshot import MERGING  # noqa: PLC0415 - see the top

        parts = [str(MERGING).encode(), self._seed.read_bytes()]
        parts += [
            f"{one.name} {one.serial} {sorted(move.endpoint for move in one.held)}".encode()
            for one in self._kept()
        ]
        return hashlib.sha256(b"\n".join(parts)).hexdigest()

    def _asked(self) -> dict[str, Any]:
        try:
            found = json.loads((self._folder / "asked.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, name: str, text: str) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self._folder / f"{name}.new"
        beside.write_text(text, encoding="utf-8")
        beside.replace(self._folder / name)


# ------------------------------------------------------------------ what is known, as words


def known_of(endpoint: "Endpoint", profile: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of an endpoint as (label, text); what is unknown says so."""
    version = endpoint.fhir_version or "not known"
    alive = _alive(endpoint)
    old = " (an old version: shown as readable text)" if version in OLD else ""
    ways = [word for word in profile.get("clients", ()) if word in CLIENTS]
    own = "; ".join(CLIENTS[word] for word in ways) or "not known; ask the hospital"
    facts = [
        ("Address", endpoint.url),
        *([("For", STAFF)] if is_for_staff(endpoint, profile) else []),
        ("Software", endpoint.software or endpoint.vendor or "not known"),
        ("FHIR version", version + old),
        ("Last seen alive", alive),
        ("Client id", own),
        ("Renews itself", RENEWS.get(str(profile.get("refresh", "")), "not known")),
    ]
    if endpoint.status == "retired":
        facts.append(("Listed", "no list names this address any more"))
    return facts


def _alive(endpoint: "Endpoint") -> str:
    if endpoint.last_ok:
        return _day(endpoint.last_ok)
    if endpoint.probed:
        return f"never; it was tried on {_day(endpoint.probed)}"
    return "not known: nobody of ours has tried it"


CLIENTS: Final = {
    "public": "your own, without a secret",
    "secret": "your own, with a secret",
    "jwt": "your own, with a key that this Homeport makes",
}
RENEWS: Final = {
    "scope": "yes",
    "confidential": "only for a client with a secret",
    "registered": "only for a client with a key",
    "none": "no: each update needs a new sign-in",
}


STAFF: Final = "the hospital's own staff: patients cannot sign in here"


def is_for_staff(endpoint: "Endpoint", profile: Mapping[str, Any]) -> bool:
    """Say whether an address is one of the provider list of a vendor that has two lists."""
    host = (urlsplit(endpoint.url).hostname or "").lower()
    return host in {str(one).lower() for one in profile.get("staff_hosts", ())}


def quirks_of(profile: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return the habits of an endpoint in the form that `phr.oauth` and the connector read."""
    names = ("aud", "scopes", "scopes_add", "scopes_by_type", "openid", "everything", "per_minute")
    found = {name: profile[name] for name in names if name in profile}
    accept = profile.get("accept_dstu2") if version in OLD else profile.get("accept")
    if accept:
        found["accept"] = accept
    if list(profile.get("response_modes", ())) == ["fragment"]:
        found["response_mode"] = "fragment"
    refresh = profile.get("refresh")
    if refresh:
        found["refresh"] = "confidential" if refresh == "registered" else refresh
    return found


# ------------------------------------------------------------------ small parts


def _found(hit: "Hit") -> Found:
    one = hit.organization
    matched = hit.matched if hit.matched.casefold() != one.name.casefold() else ""
    place = ", ".join(part for part in (one.city, one.state) if part) or one.zip
    abroad = one.country if one.country not in {"", "US"} else ""
    return Found(one, matched, ", ".join(part for part in (place, abroad) if part))


def _seed(path: Path) -> tuple["Organization", ...]:
    """Return the built-in list."""
    from lighthouse.snapshot import Endpoint, Organization  # noqa: PLC0415 - see the top

    def made(given: Mapping[str, Any]) -> Organization:
        ends = tuple(Endpoint(authorize="", token="", **one) for one in given["endpoints"])
        plain = {name: value for name, value in given.items() if name != "endpoints"}
        plain |= {"aliases": tuple(given["aliases"]), "parent": "", "zip": ""}
        return Organization(**plain, endpoints=ends)

    return tuple(made(one) for one in _seed_file(path)["organizations"])


def _seed_file(path: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _seed_dated(path: Path) -> str:
    return _day(str(_seed_file(path)["dated"]))


def _day(text: str) -> str:
    """Return an ISO date as people read it: 9 Nov 2026; anything else as it is."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{at.day} {at:%b %Y}"


def _over(http: Http, one: Lighthouse) -> Callable[[str, int], bytes]:
    """Return a function that fetches a file of a lighthouse through our own HTTP."""

    def fetch(name: str, most: int) -> bytes:
        limits = Limits(size=most, first_byte=30.0, total=300.0)
        answer = http.get(f"{one.url}/{name}", limits=limits)
        if answer.status != 200:
            raise Unreachable("The lighthouse has no such file just now.")
        return answer.body

    return fetch


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the errors of `lighthouse` into ours."""
    from lighthouse.snapshot import Refused  # noqa: PLC0415 - see the top of this file

    try:
        yield
    except Refused as problem:
        raise TrustError(str(problem)) from problem
    except FileNotFoundError as problem:
        raise InvalidInput("That is no packed snapshot of a lighthouse.") from problem
    except KeyError as problem:
        raise Conflict("Nothing is kept of this lighthouse.") from problem


def _sentence_of(problem: Exception) -> str:
    return problem.sentence if isinstance(problem, PhrError) else NetError().sentence
