"""The FHIR R4 API on the public address, for software that a patient let in: reading and searching.

A bearer token stands for one grant; the gate looks it up at every request. Doors contain no
decisions: what is hidden is absent from whatever `phr.sharing.answers` makes.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import format_datetime
from functools import wraps
from typing import Any
from urllib.parse import parse_qsl

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from phr import clock
from phr.errors import InvalidInput, NotFound, TokenRefused
from phr.fhir import document, reading
from phr.sharing import answers, capability, gate, handles, search, summary
from phr.sharing.answers import PATIENT, PROVENANCE, Resource
from phr.sharing.gate import Interaction, Released
from phr.sharing.parameters import PARAMETERS
from phr.web.outcome import BASE, FHIR_JSON
from phr.web.routing import Access, Form, Visit, action, slow_page

JSON = ("*/*", "application/*", "application/json", FHIR_JSON, "text/json")
READ, SEARCH, BOTH = "r", "s", "rs"  # letters of SMART scopes
PAIRS_AT_MOST = 100
Asked = Request[Any, Any, Any]
Handler = Callable[..., Response[bytes] | Stream]


def door(handler: Handler) -> Handler:
    """Answer only those who take JSON (R4 §3.1.0.1.11)."""

    @wraps(handler)
    def guarded(visit: Visit, *args: Any, **named: Any) -> Response[bytes] | Stream:
        if not _takes_json(visit.headers.get("accept", "")):
            raise HTTPException(status_code=406)
        return handler(visit, *args, **named)

    return guarded


def _takes_json(accept: str) -> bool:
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return not accept or any(kind in JSON for kind in kinds)


# ------------------------------------------------------------------ what the API is


@slow_page(f"{BASE}/metadata", access=Access.BEARER)
@door
def metadata(visit: Visit, request: Asked) -> Response[bytes]:
    """Say what this API does (R4 §3.1.0.11); the same for everybody, so it needs no token."""
    _pairs(request, formats_only=True)
    return _json(document.dumps(capability.statement(_base(visit), clock.now())))


# ------------------------------------------------------------------ one resource


@slow_page(f"{BASE}/{{type_:str}}/{{local_id:str}}", access=Access.BEARER)
@door
def read(visit: Visit, type_: str, local_id: str, request: Asked) -> Response[bytes] | Stream:
    """Return the current version of one resource (R4 §3.1.0.1)."""
    if local_id == "_search":
        raise HTTPException(status_code=405)
    if local_id.startswith("$"):
        return _operation(visit, type_, None, local_id, request)
    _pairs(request, formats_only=True)
    released = _read(visit, type_, local_id)
    return _resource(visit, answers.one(released, type_, local_id))


@slow_page(f"{BASE}/{{type_:str}}/{{local_id:str}}/_history", access=Access.BEARER)
@door
def history(visit: Visit, type_: str, local_id: str, request: Asked) -> Response[bytes]:
    """Return the versions of one resource (R4 §3.1.0.9)."""
    _pairs(request, formats_only=True)
    released = _read(visit, type_, local_id)
    found = answers.versions(released, type_, local_id)
    return _json(answers.history(found, base=_base(visit)))


@slow_page(f"{BASE}/{{type_:str}}/{{local_id:str}}/_history/{{version:str}}", access=Access.BEARER)
@door
def vread(visit: Visit, type_: str, local_id: str, version: str, request: Asked) -> Response[bytes]:
    """Return one version of one resource (R4 §3.1.0.2)."""
    _pairs(request, formats_only=True)
    released = _read(visit, type_, local_id)
    return _resource(visit, answers.version(released, type_, local_id, version))


# ------------------------------------------------------------------ many


@slow_page(f"{BASE}/{{type_:str}}", access=Access.BEARER)
@door
def search_type(visit: Visit, type_: str, request: Asked) -> Response[bytes]:
    """Search one type (R4 §3.1.0.10)."""
    return _search(visit, type_, _pairs(request))


@action(f"{BASE}/{{type_:str}}/_search", access=Access.BEARER, csrf=False)
@door
def search_by_post(visit: Visit, form: Form, type_: str, request: Asked) -> Response[bytes]:
    """Search one type with parameters in the body, which no log of a proxy holds."""
    kind = visit.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in {"", "application/x-www-form-urlencoded"}:
        raise HTTPException(status_code=415)
    pairs = [*_pairs(request), *form.pairs()]
    if len(pairs) > PAIRS_AT_MOST:
        raise InvalidInput
    return _search(visit, type_, pairs)


def _search(visit: Visit, type_: str, pairs: list[tuple[str, str]]) -> Response[bytes]:
    if type_ not in PARAMETERS:
        _release(visit, SEARCH, None, "api.searched")
        raise NotFound
    released = _release(visit, SEARCH, type_, "api.searched", type=type_)
    lenient = "handling=lenient" in visit.headers.get("prefer", "").replace(" ", "")
    base = _base(visit)
    asked = search.read(type_, pairs, base=base, now=clock.now(), lenient=lenient)
    return _json(answers.page(released, asked, base=base))


# ------------------------------------------------------------------ operations


@slow_page(f"{BASE}/{{type_:str}}/{{local_id:str}}/{{operation:str}}", access=Access.BEARER)
@door
def operation(
    visit: Visit, type_: str, local_id: str, operation: str, request: Asked
) -> Response[bytes] | Stream:
    """Run an operation on one resource: `$everything` or `$summary` of the patient."""
    return _operation(visit, type_, local_id, operation, request)


def _operation(
    visit: Visit, type_: str, local_id: str | None, name: str, request: Asked
) -> Response[bytes] | Stream:
    if type_ != PATIENT or name.removeprefix("$") not in capability.OPERATIONS:
        raise NotFound
    if name == "$summary":
        return _summary(visit, local_id, request)
    types, since = _everything_asked(_pairs(request))
    released = _release(visit, BOTH, PATIENT, "api.everything")
    pieces = answers.everything(released, local_id, types=types, since=since, base=_base(visit))
    return Stream(pieces, media_type=FHIR_JSON)


def _summary(visit: Visit, local_id: str | None, request: Asked) -> Response[bytes]:
    """Return the International Patient Summary (IPS guide 2.0.0, `$summary`)."""
    _pairs(request, formats_only=True)
    released = _release(visit, BOTH, PATIENT, "api.summary")
    answers.patient(released, local_id)
    base_url = visit.appliance.settings.public_url
    return _json(summary.bundle(released, base_url=base_url, now=clock.now()))


def _everything_asked(pairs: list[tuple[str, str]]) -> tuple[frozenset[str], datetime | None]:
    """Read `_type` and `_since`; raises InvalidInput for anything else."""
    types: set[str] = set()
    since = None
    for name, value in pairs:
        if name == "_type":
            types |= set(value.split(","))
        elif name == "_since":
            moment = reading.moment(value.replace(" ", "+"))
            if moment.start is None:
                raise InvalidInput("_since is no date.")
            since = search.nearest(moment.start)
        elif name != "_format":
            raise InvalidInput("$everything takes _type and _since.")
    if types - PARAMETERS.keys():
        raise InvalidInput("_type names a type that is not offered.")
    return frozenset(types), since


# ------------------------------------------------------------------ small parts


def _release(visit: Visit, letters: str, type_: str | None, event: str, **detail: str) -> Released:
    """Ask the gate what the token of this request opens. Raises TokenRefused, and what it says."""
    scheme, _, text = visit.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise TokenRefused(absent=not scheme)
    bearer = handles.bearer_of(text.strip())
    route = None if bearer is None else handles.route_of(visit.appliance.house, bearer)
    if bearer is None or route is None:
        raise TokenRefused
    patient_id, grant_id = route
    vault = visit.appliance.vault(patient_id)
    wanted = Interaction(letters, type_)
    return gate.release_to(vault, grant_id, bearer, wanted, event, now=clock.now(), **detail)


def _read(visit: Visit, type_: str, local_id: str) -> Released:
    """Ask the gate for one resource; its line of the log holds no words of who asks."""
    known = _known(type_)
    detail = {} if known is None else {"type": known}
    if answers.is_id(local_id):
        detail["id"] = local_id
    return _release(visit, READ, known, "api.read", **detail)


def _known(type_: str) -> str | None:
    """Return the type if it is offered; else None, so that only a token learns what is not."""
    return type_ if type_ in PARAMETERS or type_ == PROVENANCE else None


def _resource(visit: Visit, found: Resource) -> Response[bytes]:
    headers = {
        "ETag": found.etag,
        "Last-Modified": format_datetime(found.received_at, usegmt=True),
    }
    asked = visit.headers.get("if-none-match", "")
    if found.etag in [each.strip() for each in asked.split(",")] or asked == "*":
        return Response(b"", status_code=304, headers=headers, media_type=FHIR_JSON)
    return _json(found.body, headers)


def _json(body: bytes, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    return Response(body, media_type=FHIR_JSON, headers=dict(headers or {}))


def _base(visit: Visit) -> str:
    return visit.appliance.settings.public_url + BASE


def _pairs(request: Asked, *, formats_only: bool = False) -> list[tuple[str, str]]:
    """Return every parameter of the query, in order; XML asked for by `_format` is a 406."""
    raw = request.scope.get("query_string", b"")
    try:
        pairs = parse_qsl(raw.decode("ascii"), max_num_fields=PAIRS_AT_MOST, keep_blank_values=True)
    except ValueError as error:
        raise InvalidInput from error
    for name, value in pairs:
        if name == "_format" and not _takes_json(_FORMATS.get(value, value.replace(" ", "+"))):
            raise HTTPException(status_code=406)
        if formats_only and name != "_format":
            raise InvalidInput("That parameter is not known here.")
    return pairs


_FORMATS = {"json": FHIR_JSON}

ROUTES: list[HTTPRouteHandler] = [
    metadata,
    search_type,
    search_by_post,
    read,
    history,
    vread,
    operation,
]
