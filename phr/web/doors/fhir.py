"""The FHIR R4 API on the public address, for software that a patient let in: reading and searching.

A bearer token stands for one grant; the gate looks it up at every request. Doors contain no
decisions: what is hidden is absent from whatever `phr.sharing.answers` makes.
"""

from collections.abc import Callable, Mapping
from email.utils import format_datetime
from functools import wraps
from typing import Any
from urllib.parse import parse_qsl, urlencode

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from phr import clock
from phr.errors import InvalidInput, NotFound
from phr.fhir import document
from phr.sharing import (
    answers,
    capability,
    exports,
    files,
    gate,
    package,
    search,
    summary,
)
from phr.sharing import operation as wanted
from phr.sharing.answers import DOCUMENT, PATIENT, PROVENANCE, Resource
from phr.sharing.gate import Interaction, Released
from phr.sharing.package import CHUNK
from phr.sharing.parameters import PARAMETERS
from phr.store.vault import Vault
from phr.views import attachment
from phr.views.picture import without_traces
from phr.web.outcome import BASE, FHIR_JSON
from phr.web.presented import by_token
from phr.web.routing import Access, Form, Visit, action, removal, slow_page

JSON = ("*/*", "application/*", "application/json", FHIR_JSON, "text/json")
FHIR_NDJSON = "application/fhir+ndjson"
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


@slow_page(f"{BASE}/metadata", access=Access.BEARER, anonymous=True)
@door
def metadata(visit: Visit, request: Asked) -> Response[bytes]:
    """Say what this API does (R4 §3.1.0.11); the same for everybody, so it needs no token."""
    pairs_of(request, formats_only=True)
    return json_answer(document.dumps(capability.statement(base_of(visit), clock.now())))


# ------------------------------------------------------------------ one resource


@slow_page(f"{BASE}/{{type_:str}}/{{local_id:str}}", access=Access.BEARER)
@door
def read(visit: Visit, type_: str, local_id: str, request: Asked) -> Response[bytes] | Stream:
    """Return the current version of one resource (R4 §3.1.0.1)."""
    if local_id == "_search":
        raise HTTPException(status_code=405)
    if local_id.startswith("$"):
        return _operation(visit, type_, None, local_id, request)
    pairs_of(request, formats_only=True)
    released = _read(visit, type_, local_id)
    return _resource(visit, answers.one(released, type_, local_id))


@slow_page(f"{BASE}/{{type_:str}}/{{local_id:str}}/_history", access=Access.BEARER)
@door
def history(visit: Visit, type_: str, local_id: str, request: Asked) -> Response[bytes]:
    """Return the versions of one resource (R4 §3.1.0.9)."""
    pairs_of(request, formats_only=True)
    released = _read(visit, type_, local_id)
    found = answers.versions(released, type_, local_id)
    return json_answer(answers.history(found, base=base_of(visit)))


@slow_page(f"{BASE}/{{type_:str}}/{{local_id:str}}/_history/{{version:str}}", access=Access.BEARER)
@door
def vread(visit: Visit, type_: str, local_id: str, version: str, request: Asked) -> Response[bytes]:
    """Return one version of one resource (R4 §3.1.0.2)."""
    pairs_of(request, formats_only=True)
    released = _read(visit, type_, local_id)
    return _resource(visit, answers.version(released, type_, local_id, version))


# ------------------------------------------------------------------ many


@slow_page(f"{BASE}/{{type_:str}}", access=Access.BEARER)
@door
def search_type(visit: Visit, type_: str, request: Asked) -> Response[bytes]:
    """Search one type (R4 §3.1.0.10)."""
    return _search(visit, type_, pairs_of(request))


@action(f"{BASE}/{{type_:str}}/_search", access=Access.BEARER, csrf=False)
@door
def search_by_post(visit: Visit, form: Form, type_: str, request: Asked) -> Response[bytes]:
    """Search one type with parameters in the body, which no log of a proxy holds."""
    kind = visit.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in {"", "application/x-www-form-urlencoded"}:
        raise HTTPException(status_code=415)
    pairs = [*pairs_of(request), *form.pairs()]
    if len(pairs) > PAIRS_AT_MOST:
        raise InvalidInput
    return _search(visit, type_, pairs)


def _search(visit: Visit, type_: str, pairs: list[tuple[str, str]]) -> Response[bytes]:
    if type_ not in PARAMETERS:
        release(visit, SEARCH, None, "api.searched")
        raise NotFound
    released = release(visit, SEARCH, type_, "api.searched", type=type_)
    lenient = "handling=lenient" in visit.headers.get("prefer", "").replace(" ", "")
    base = base_of(visit)
    asked = search.read(type_, pairs, base=base, now=clock.now(), lenient=lenient)
    return json_answer(answers.page(released, asked, base=base))


# ------------------------------------------------------------------ files and documents


@slow_page(f"{BASE}/{files.BINARY}/{{local_id:str}}", access=Access.BEARER)
def binary(visit: Visit, local_id: str, request: Asked) -> Response[bytes] | Stream:
    """Return the file of a document: as it is, or as a Binary to those who ask for FHIR (R4 §2.37).

    Sandboxed like every file from outside; a browser that is led here can only save it.
    """
    pairs_of(request, formats_only=True)
    detail = {"id": local_id} if files.is_name(local_id) else {}
    released = release(visit, READ, None, "api.file", **detail)
    record, file = released.file_named(local_id)
    content = without_traces(file.content)  # where a picture was taken stays at home
    media_type = files.media_type(content, file.said_type)
    if _takes_fhir(visit.headers.get("accept", "")):
        return json_answer(answers.binary(local_id, record, content, media_type))
    name = attachment.file_name("file", attachment.kind_of(content).ending)
    headers = {
        "Content-Security-Policy": attachment.FILE_CSP,
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Length": str(len(content)),
        "X-Security-Context": f"{record.type}/{record.local_id}",
    }
    pieces = (content[at : at + CHUNK] for at in range(0, len(content), CHUNK))
    return Stream(released.guarded(pieces), media_type=media_type, headers=headers)


def _takes_fhir(accept: str) -> bool:
    """Tell whether FHIR is what somebody wants, rather than what a file is made of."""
    first = accept.partition(",")[0].partition(";")[0].strip().lower()
    return first in (FHIR_JSON, "application/json")


@slow_page(f"{BASE}/{DOCUMENT}/$docref", access=Access.BEARER)
@door
def docref(visit: Visit, request: Asked) -> Response[bytes]:
    """Return the documents of a patient (US Core 6.1.0, DocumentReference/$docref)."""
    return _docref(visit, pairs_of(request))


@action(f"{BASE}/{DOCUMENT}/$docref", access=Access.BEARER, csrf=False)
@door
def docref_by_post(visit: Visit, form: Form, request: Asked) -> Response[bytes]:
    """Do the same for one who sends Parameters (R4 §3.2.0.1)."""
    del form  # a body of FHIR is not one
    return _docref(visit, [*pairs_of(request), *wanted.parameters(visit.body)])


def _docref(visit: Visit, pairs: list[tuple[str, str]]) -> Response[bytes]:
    released = release(visit, BOTH, DOCUMENT, "api.searched", type=DOCUMENT)
    base = base_of(visit)
    asked, newest = wanted.docref(pairs, base=base, now=clock.now())
    own = f"{base}/{DOCUMENT}/$docref?{urlencode(pairs)}"
    return json_answer(answers.documents_of(released, asked, newest=newest, own=own, base=base))


# ------------------------------------------------------------------ bulk export


@slow_page([f"{BASE}/$export", f"{BASE}/{PATIENT}/$export"], access=Access.BEARER)
@door
def export(visit: Visit, request: Asked) -> Response[bytes]:
    """Begin an export (FHIR Bulk Data 2.0.0 §2.4); both addresses mean this one patient."""
    if request.method == "HEAD":  # asking how it would go must not begin anything
        raise HTTPException(status_code=405)
    _standing(visit)
    asked = wanted.export(pairs_of(request), prefer=visit.headers.get("prefer", ""))
    released = release(visit, BOTH, None, "api.exported")
    types = wanted.types_for(asked, released)
    here = f"{base_of(visit)}{visit.path.removeprefix(BASE)}"
    query = request.scope.get("query_string", b"").decode("ascii", "replace")
    export_id = exports.begin(
        released,
        types,
        since=asked.since,
        request=f"{here}?{query}" if query else here,
        now=clock.now(),
    )
    headers = {"Content-Location": f"{base_of(visit)}/$export/{export_id}"}
    return Response(b"", status_code=202, headers=headers, media_type=FHIR_JSON)


@slow_page(f"{BASE}/$export/{{export_id:str}}", access=Access.BEARER)
def export_state(visit: Visit, export_id: str) -> Response[bytes]:
    """Say how far an export is, or what its files are (FHIR Bulk Data 2.0.0 §2.5)."""
    found = _export(visit, export_id)
    if found.counts is None:
        told = exports.progress(found)
        if told is None:  # this program was started anew meanwhile
            exports.resume(release(visit, BOTH, None, "api.exported"), found, now=clock.now())
        headers = {"X-Progress": told or "begun again", "Retry-After": "1"}
        return Response(b"", status_code=202, headers=headers, media_type=FHIR_JSON)
    body = document.dumps(exports.manifest(found, base=base_of(visit)))
    headers = {"Expires": format_datetime(found.ends_at, usegmt=True)}
    return Response(body, headers=headers, media_type="application/json")


@removal(f"{BASE}/$export/{{export_id:str}}", access=Access.BEARER)
def export_cancelled(visit: Visit, export_id: str) -> Response[bytes]:
    """Forget an export (FHIR Bulk Data 2.0.0 §2.4.5)."""
    found = _export(visit, export_id)
    exports.cancel(_standing(visit)[0], found)
    return Response(b"", status_code=202, media_type=FHIR_JSON)


@slow_page(f"{BASE}/$export/{{export_id:str}}/{{name:str}}", access=Access.BEARER)
def export_file(visit: Visit, export_id: str, name: str) -> Stream:
    """Return one type of an export, a line each, made while it is sent."""
    type_ = name.removesuffix(".ndjson")
    known = type_ if type_ in PARAMETERS and type_ != name else None
    released = release(visit, BOTH, known, "api.export_file", **({"type": known} if known else {}))
    found = exports.find(released.vault, released.terms.grant_id, export_id, now=clock.now())
    if found.counts is None or not found.counts.get(type_):
        raise NotFound
    lines = answers.lines(released, type_, since=found.since, until=found.at)
    return Stream(released.guarded(package.chunked(lines)), media_type=FHIR_NDJSON)


def _export(visit: Visit, export_id: str) -> exports.Asked:
    """Return an export of the grant that a token stands for."""
    vault, grant_id = _standing(visit)
    return exports.find(vault, grant_id, export_id, now=clock.now())


def _standing(visit: Visit) -> tuple[Vault, str]:
    """Return the record and the grant of a token that lives; nothing is read or written down."""
    vault, grant_id, bearer = by_token(visit)
    with vault.read() as session:
        gate.stands(session, vault, grant_id, bearer, now=clock.now())
    return vault, grant_id


# ------------------------------------------------------------------ operations


@slow_page(f"{BASE}/{{type_:str}}/{{local_id:str}}/{{operation:str}}", access=Access.BEARER)
@door
def on_one(
    visit: Visit, type_: str, local_id: str, operation: str, request: Asked
) -> Response[bytes] | Stream:
    """Run an operation on one resource: `$everything` or `$summary` of the patient."""
    return _operation(visit, type_, local_id, operation, request)


def _operation(
    visit: Visit, type_: str, local_id: str | None, name: str, request: Asked
) -> Response[bytes] | Stream:
    if type_ != PATIENT or name not in ("$everything", "$summary"):
        raise NotFound
    if name == "$summary":
        return _summary(visit, local_id, request)
    asked = wanted.everything(pairs_of(request))
    released = release(visit, BOTH, PATIENT, "api.everything")
    pieces = answers.everything(
        released, local_id, types=asked.types, since=asked.since, base=base_of(visit)
    )
    return Stream(pieces, media_type=FHIR_JSON)


def _summary(visit: Visit, local_id: str | None, request: Asked) -> Response[bytes]:
    """Return the International Patient Summary (IPS guide 2.0.0, `$summary`)."""
    pairs_of(request, formats_only=True)
    released = release(visit, BOTH, PATIENT, "api.summary")
    answers.patient(released, local_id)
    base_url = visit.appliance.settings.public_url
    return json_answer(summary.bundle(released, base_url=base_url, now=clock.now()))


# ------------------------------------------------------------------ small parts


def release(visit: Visit, letters: str, type_: str | None, event: str, **detail: str) -> Released:
    """Ask the gate what the token of this request opens. Raises TokenRefused, and what it says."""
    vault, grant_id, bearer = by_token(visit)
    use = Interaction(letters, type_)
    return gate.release_to(vault, grant_id, bearer, use, event, now=clock.now(), **detail)


def _read(visit: Visit, type_: str, local_id: str) -> Released:
    """Ask the gate for one resource; its line of the log holds no words of who asks."""
    known = _known(type_)
    detail = {} if known is None else {"type": known}
    if answers.is_id(local_id):
        detail["id"] = local_id
    return release(visit, READ, known, "api.read", **detail)


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
    return json_answer(found.body, headers)


def json_answer(body: bytes, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """Answer with FHIR JSON."""
    return Response(body, media_type=FHIR_JSON, headers=dict(headers or {}))


def base_of(visit: Visit) -> str:
    """Return our FHIR base: configuration, never taken from a request."""
    return visit.appliance.settings.public_url + BASE


def pairs_of(request: Asked, *, formats_only: bool = False) -> list[tuple[str, str]]:
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
    binary,
    docref,
    docref_by_post,
    export,
    export_state,
    export_cancelled,
    export_file,
    on_one,
]
