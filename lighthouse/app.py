"""The lighthouse over HTTP: search for people and programs, endpoint metadata, snapshot files.

Stateless; reads one immutable index file and one published folder. Logs and metrics never hold
what was typed. Written down in docs/lighthouse-spec.md and docs/lighthouse-openapi.json.
"""

import contextlib
import hashlib
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, cast

import jinja2
import msgspec
from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import FromPath, JSONBody, PathParameter, QueryParameter, URLEncodedBody
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from lighthouse import clock, lines, listening, logos, vendors
from lighthouse.catalogue import Endpoint, Organization
from lighthouse.index import Index, NoIndex, Origin, open_index, write_catalogue
from lighthouse.search import Hit, namesakes

MOST_TYPED = 400  # letters of a query
MOST_HITS = 25
LOOK_AGAIN = 1.0  # seconds between looks whether the index was replaced
FOR_EVER = "public, max-age=31536000, immutable"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
OPEN = {"access-control-allow-origin": "*", "cross-origin-resource-policy": "cross-origin"}
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
HERE = Path(__file__).parent
_PUBLISHED = re.compile(r"snapshot\.json|(?:catalogue-\d+\.ndjson|delta-\d+-\d+)\.zst")


@dataclass(frozen=True, slots=True)
class Files:
    """Folders that are served: published snapshots, reviewed logos (with `logos.json`)."""

    snapshots: Path | None = None
    logos: Path | None = None


# --------------------------------------------------------------------------- what is served


class Replica:
    """The index file; opened again when it was replaced. Without one, nothing can be found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index: Index | None = None
        self._seen: tuple[int, int] | None = None
        self._looked = 0.0

    def index(self) -> Index:
        """Return the index as it is now. Raises HTTPException 503 while there is none."""
        if self._index is None or time.monotonic() - self._looked > LOOK_AGAIN:
            self._looked = time.monotonic()
            self._look()
        if self._index is None:
            raise HTTPException("There is no catalogue here yet.", status_code=503)
        return self._index

    def _look(self) -> None:
        try:
            stat = self.path.stat()
        except OSError:
            return  # the one that is open goes on answering
        seen = stat.st_ino, stat.st_mtime_ns
        if seen == self._seen:
            return
        self._seen = seen
        try:
            fresh = open_index(self.path)
        except NoIndex as refusal:  # the one that is open goes on answering
            say({"event": "index refused", "reason": str(refusal)})
            return
        if self._index is not None:
            self._index.close()
        self._index = fresh


class Logos:
    """Logos whose licence a person has reviewed: organisation id -> file below the folder."""

    def __init__(self, folder: Path | None) -> None:
        self.files: dict[str, bytes] = {}
        self.names: dict[str, str] = {}
        if folder is None:
            return
        for identity, logo in logos.reviewed(folder).items():
            self.names[identity] = logos.file_name(logo)
            self.files[self.names[identity]] = logo


@dataclass(slots=True)
class Counts:
    """What the metrics say: requests by route and kind of answer, and how long they took."""

    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    buckets: Counter[tuple[str, float]] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)

    def add(self, route: str, status: int, spent: float) -> None:
        """Count one answer."""
        self.answers[route, f"{status // 100}xx"] += 1
        self.seconds[route] += spent  # type: ignore[assignment]  # a Counter also sums seconds
        for limit in BUCKETS:
            if spent <= limit:
                self.buckets[route, limit] += 1

    def text(self) -> Iterator[str]:
        """Yield the lines of the Prometheus text format."""
        yield "# TYPE lighthouse_requests_total counter"
        total: Counter[str] = Counter()
        for (route, kind), number in sorted(self.answers.items()):
            total[route] += number
            yield f'lighthouse_requests_total{{route="{route}",status="{kind}"}} {number}'
        yield "# TYPE lighthouse_request_seconds histogram"
        for route in sorted(total):
            name = "lighthouse_request_seconds"
            for limit in BUCKETS:
                count = self.buckets[route, limit]
                yield f'{name}_bucket{{route="{route}",le="{limit}"}} {count}'
            yield f'{name}_bucket{{route="{route}",le="+Inf"}} {total[route]}'
            yield f'{name}_sum{{route="{route}"}} {self.seconds[route]:.6f}'
            yield f'{name}_count{{route="{route}"}} {total[route]}'


# --------------------------------------------------------------------------- answers of the API


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """A search. Sent in the body it stays out of every address and every log."""

    q: Annotated[str, msgspec.Meta(max_length=MOST_TYPED)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_HITS)] = 5


class Door(msgspec.Struct):
    """An endpoint in a hit; `GET /v1/endpoints/{id}` says all about it."""

    id: str
    url: str
    vendor: str
    fhir_version: str
    portal: str


class Found(msgspec.Struct):
    """One hit. `matched`: which name matched; `score`: 1 is a full match."""

    id: str
    name: str
    aliases: list[str]
    matched: str
    city: str
    state: str
    zip: str
    country: str
    vendor: str
    score: float
    endpoints: list[Door]


class Answer(msgspec.Struct):
    """The hits, best first. None means that nothing was close enough."""

    hits: list[Found]


class OrganizationAnswer(msgspec.Struct):
    """An organisation; `line` is its line in snapshot `serial`, byte for byte (0: unsigned)."""

    organization: Organization
    lighthouse: str
    serial: int
    line: str


class EndpointAnswer(msgspec.Struct):
    """An endpoint; `profile`: what is known about clients and scopes. `line` as above."""

    endpoint: Endpoint
    profile: dict[str, Any]
    lighthouse: str
    serial: int
    line: str


class About(msgspec.Struct):
    """What this service answers from."""

    origins: list[Origin]
    organizations: int
    endpoints: int


class Health(msgspec.Struct):
    """Whether searches are answered, and from which serial."""

    ok: bool
    serial: int


def found(hit: Hit) -> Found:
    """Return a hit in the form of the API (the same as on the command line)."""
    one = hit.organization
    return Found(
        one.id,
        one.name,
        list(one.aliases),
        hit.matched,
        one.city,
        one.state,
        one.zip,
        one.country,
        next((end.vendor for end in one.endpoints if end.vendor), ""),
        round(hit.score, 3),
        [Door(e.id, e.url, e.vendor, e.fhir_version, e.portal) for e in one.endpoints],
    )


Ask = NamedDependency[Index]


@get("/v1/search", sync_to_thread=False, response_headers=OPEN, tags=["search"])
def search_get(
    index: Ask,
    q: Annotated[str, QueryParameter(max_length=MOST_TYPED, description="What a person typed.")],
    limit: Annotated[int, QueryParameter(ge=1, le=MOST_HITS)] = 5,
) -> Answer:
    """Search by name, former name, initials, place or ZIP.

    Addresses end up in the logs of proxies: prefer POST.
    """
    return Answer([found(hit) for hit in index.find(q, limit)])


@post("/v1/search", sync_to_thread=False, status_code=200, response_headers=OPEN, tags=["search"])
def search_post(index: Ask, data: JSONBody[Asked]) -> Answer:
    """Search with the query in the body, where no log keeps it."""
    return Answer([found(hit) for hit in index.find(data.q, data.limit)])


LASTING = OPEN | {"cache-control": "public, max-age=300"}
Identity = Annotated[str, PathParameter(pattern="^[0-9a-f]{8,64}$", description="Hexadecimal id.")]


@get(
    "/v1/organizations/{identity:str}",
    sync_to_thread=False,
    response_headers=LASTING,
    tags=["metadata"],
)
def organization_get(index: Ask, identity: Identity) -> OrganizationAnswer:
    """Return an organisation with its endpoints."""
    one = _known(index.organization(identity))
    origin = index.origin(one.endpoints[0].id) if one.endpoints else index.origins[0]
    name, serial = (origin.name, origin.serial) if origin else ("", 0)
    return OrganizationAnswer(one, name, serial, lines.organization_line(one))


@get(
    "/v1/endpoints/{identity:str}",
    sync_to_thread=False,
    response_headers=LASTING,
    tags=["metadata"],
)
def endpoint_get(index: Ask, identity: Identity) -> EndpointAnswer:
    """Return an endpoint: addresses, what is known about it, and the rules for clients."""
    end = _known(index.endpoint(identity))
    origin = index.origin(end.id) or Origin("")
    line = lines.endpoint_line(end, index.override(end.id))
    return EndpointAnswer(end, index.profile(end), origin.name, origin.serial, line)


@get("/v1/about", sync_to_thread=False, response_headers=OPEN, tags=["metadata"])
def about_get(index: Ask) -> About:
    """Say whose snapshots are searched, and how much there is."""
    return About(list(index.origins), index.organizations, index.endpoints)


def _known(one: Any) -> Any:
    if one is None:
        raise HTTPException("There is nothing with this id.", status_code=404)
    return one


# --------------------------------------------------------------------------- files


@get(
    "/snapshots/{name:str}",
    sync_to_thread=False,
    media_type="application/octet-stream",
    tags=["snapshots"],
)
def snapshot_file(
    request: Request[Any, Any, Any], state: State, name: FromPath[str]
) -> Response[bytes]:
    """Hand out a file of the published snapshot, with a strong ETag.

    `snapshot.json` is asked for again after five minutes; the others never change.
    """
    folder: Path | None = state.files.snapshots
    path = folder / name if folder and _PUBLISHED.fullmatch(name) else None
    if path is None or not path.is_file():
        raise HTTPException("There is no such file.", status_code=404)
    stat = path.stat()
    data, tag = _content(path, stat.st_mtime_ns, stat.st_size)
    changing = name.endswith(".json")
    headers = OPEN | {
        "etag": tag,
        "cache-control": "public, max-age=300, must-revalidate" if changing else FOR_EVER,
    }
    kind = "application/json" if changing else "application/zstd"
    if tag in _tags(request.headers.get("if-none-match", "")):
        return Response(b"", status_code=304, headers=headers, media_type=kind)
    return Response(data, headers=headers, media_type=kind)


@lru_cache(maxsize=32)
def _content(path: Path, _changed: int, _size: int) -> tuple[bytes, str]:
    data = path.read_bytes()
    return data, f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def _tags(header: str) -> set[str]:
    """Return the tags of If-None-Match, compared weakly (RFC 9110 §13.1.2)."""
    return {one.strip().removeprefix("W/") for one in header.split(",")}


@get("/logos/{name:str}", sync_to_thread=False, include_in_schema=False)
def logo_file(state: State, name: FromPath[str]) -> Response[bytes]:
    """Hand out a reviewed logo."""
    data = _known(state.logos.files.get(name))
    return Response(data, media_type="image/png", headers={"cache-control": FOR_EVER})


@get("/static/{version:str}/{name:str}", sync_to_thread=False, include_in_schema=False)
def static_file(version: FromPath[str], name: FromPath[str]) -> Response[bytes]:
    """Hand out the page's own style sheet and script."""
    data = _known(_static().get(name))
    kind = _KINDS[name.rpartition(".")[2]]
    headers = {"cache-control": FOR_EVER} if version == _version() else {}
    return Response(data, media_type=kind, headers=headers)


_KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@lru_cache(maxsize=1)
def _static() -> dict[str, bytes]:
    own = sorted(one for one in (HERE / "static").iterdir() if one.suffix[1:] in _KINDS)
    return {one.name: one.read_bytes() for one in own}


@lru_cache(maxsize=1)
def _version() -> str:
    return hashlib.sha256(b"".join(_static().values())).hexdigest()[:12]


# --------------------------------------------------------------------------- pages for people


class Form(msgspec.Struct):
    """What the search form sends."""

    q: str = ""


FormBody = URLEncodedBody[Form]


@lru_cache(maxsize=1)
def _pages() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,  # rules of vendors say what they say, no more
    )
    found.filters["monogram"] = monogram
    found.filters["hue"] = lambda identity: f"hue-{int(identity[:4], 16) % 6}"
    return found


def monogram(name: str) -> str:
    """Return one or two letters for an organisation without a reviewed logo."""
    found = [word[0] for word in re.findall(r"[^\W\d_]+", name) if word.lower() not in _SMALL]
    return "".join(found[:2]).upper() or name[:1]


_SMALL = {"of", "and", "the", "for", "at", "in"}


def _page(name: str, state: State, root: str, **values: Any) -> Response[str]:
    text = _pages().get_template(name)
    shown = text.render(root=root, version=_version(), logos=state.logos.names, **values)
    return Response(shown, media_type=MediaType.HTML)


@get("/", sync_to_thread=False, include_in_schema=False)
def home(state: State, index: Ask) -> Response[str]:
    """Show the search page."""
    return _page("search.html", state, "", about=index, typed="", hits=None)


@post("/", sync_to_thread=False, status_code=200, include_in_schema=False)
def results(state: State, index: Ask, data: FormBody) -> Response[str]:
    """Show the search page with hits: works without script, and no address holds the query."""
    typed = data.q[:MOST_TYPED]
    hits = index.find(typed, 10) if typed.strip() else None
    apart = namesakes(hits or ())
    return _page("search.html", state, "", about=index, typed=typed, hits=hits, apart=apart)


@post("/hits", sync_to_thread=False, status_code=200, include_in_schema=False)
def hits(state: State, index: Ask, data: FormBody) -> Response[str]:
    """Return only the list of hits, for the script of the search page."""
    typed = data.q[:MOST_TYPED]
    shown = index.find(typed, 10) if typed.strip() else None
    return _page("hits.html", state, "", hits=shown, apart=namesakes(shown or ()))


@get("/organizations/{identity:str}", sync_to_thread=False, include_in_schema=False)
def organization_page(state: State, index: Ask, identity: Identity) -> Response[str]:
    """Show an organisation with all that is known about its endpoints."""
    one: Organization = _known(index.organization(identity))
    profiles = {end.id: index.profile(end) for end in one.endpoints}
    staff = {end.id for end in one.endpoints if vendors.is_for_staff(end.url, profiles[end.id])}
    first = sorted(one.endpoints, key=lambda end: (end.id in staff, end.fhir_version != "R4"))
    one = replace(one, endpoints=tuple(first))
    return _page("organization.html", state, "../", one=one, profiles=profiles, staff=staff)


# --------------------------------------------------------------------------- for operators


@get("/healthz", sync_to_thread=False, tags=["operation"])
def healthz(index: Ask) -> Health:
    """Say whether searches are answered; 503 while there is no catalogue."""
    return Health(True, max(origin.serial for origin in index.origins))


@get("/metrics", sync_to_thread=False, tags=["operation"], media_type=MediaType.TEXT)
def metrics(state: State) -> str:
    """Count answers by route, never by what was asked (Prometheus text format)."""
    said = list(state.counts.text())
    with contextlib.suppress(HTTPException):
        index = state.replica.index()
        said += [
            f"lighthouse_snapshot_serial {max(origin.serial for origin in index.origins)}",
            f"lighthouse_organizations {index.organizations}",
            f"lighthouse_endpoints {index.endpoints}",
        ]
    return "\n".join(said) + "\n"


# --------------------------------------------------------------------------- the application


class Watched:
    """Around every request: headers, counts, one line of log. HEAD is GET without its body."""

    def __init__(self, app: ASGIApp, counts: Counts, log: Any) -> None:
        self._app, self._counts, self._log = app, counts, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        started, status, bare = time.perf_counter(), 500, scope["method"] == "HEAD"
        inner = cast("Scope", {**scope, "method": "GET"} if bare else dict(scope))

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = {name.lower() for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [
                    *message["headers"],
                    *(pair for pair in more if pair[0] not in sent),
                ]
            elif bare and message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        try:
            await self._app(inner, receive, answer)
        finally:
            spent = time.perf_counter() - started
            # The template of the route, never the path: an id, too, says what somebody looked for.
            route = str(inner.get("path_template") or "none")
            route = route if route in ROUTES else "none"
            self._counts.add(route, status, spent)
            self._log(route, status, spent)


def write_line(route: str, status: int, spent: float) -> None:
    """Write one line of log: what kind of request, how it ended, how long it took."""
    ms = round(spent * 1000, 1)
    say({"event": "answered", "route": route, "status": status, "ms": ms})


def say(line: dict[str, Any]) -> None:
    """Write one line of the log."""
    said = {"at": clock.now().isoformat(), **line}
    print(json.dumps(said), file=sys.stderr, flush=True)


def _failed(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Answer an error with a sentence: neither the answer nor a log repeats the request."""
    status = getattr(error, "status_code", 500)
    programs = request.url.path.startswith(("/v1/", "/snapshots/", "/healthz"))
    if status == 400 and request.method == "GET" and not programs:
        status = 404  # an address that somebody mistyped
    said = {
        400: "The request is not as the description says.",
        404: "There is nothing here.",
        405: "This address does not take this method.",
        413: "The request is too large.",
        503: "There is no catalogue here yet.",
    }.get(status, "The request could not be answered.")
    if programs:
        return Response({"error": said}, status_code=status, headers=OPEN)
    root = "../" * (request.url.path.count("/") - 1)
    text = _pages().get_template("failed.html").render(root=root, said=said, version=_version())
    return Response(text, status_code=status, media_type=MediaType.HTML)


HANDLERS = [
    home, results, hits, organization_page, search_get, search_post, organization_get,
    endpoint_get, about_get, snapshot_file, logo_file, static_file, healthz, metrics,
]  # fmt: skip
ROUTES = {path.replace(":str", "") for handler in HANDLERS for path in handler.paths}


def litestar(path: Path, files: Files) -> Litestar:
    """Return the application without what is around it (its description is `openapi_schema`)."""
    replica = Replica(path)

    def index() -> Index:
        return replica.index()

    return Litestar(
        HANDLERS,
        dependencies={"index": Provide(index, sync_to_thread=False)},
        exception_handlers={Exception: _failed, HTTPException: _failed},
        state=State(
            {"files": files, "logos": Logos(files.logos), "counts": Counts(), "replica": replica}
        ),
        openapi_config=OpenAPIConfig(
            title="Lighthouse",
            version="1",
            description="A catalogue of provider endpoints: search, metadata, signed snapshots.",
            path="/v1",
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
            use_handler_docstrings=True,
        ),
        logging_config=None,
        request_max_body_size=16 * 1024,
    )


def create(path: Path, files: Files | None = None, log: Any = write_line) -> Watched:
    """Return the ASGI application over an index file (it may come, and be replaced, later)."""
    app = litestar(path, files or Files())
    return Watched(app, app.state.counts, log)


def run(
    path: Path | None,
    found: tuple[list[Organization], list[Endpoint]] | None,
    files: Files,
    *,
    host: str,
    port: int,
) -> None:
    """Serve until SIGTERM, from an index file or from a catalogue that is read once.

    The file may come later; one that is there and cannot be read raises NoIndex.
    """
    if path is not None and path.exists():
        open_index(path).close()
    with tempfile.TemporaryDirectory(prefix="lighthouse-") as folder:
        if path is None:
            path = Path(folder) / "index.db"
            if found is not None:
                write_catalogue(path, *found)
                found = None
        listening.serve(
            create(path, files),
            host,
            port,
            log_level="warning",
            timeout_keep_alive=30,
            h11_max_incomplete_event_size=32 * 1024,
        )
