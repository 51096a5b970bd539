"""How the FHIR API says that something is refused: an OperationOutcome (R4 §6.20), never a page.

The table from error to status is `faults`'; here are only the words that FHIR and OAuth use.
"""

from litestar import Response

from phr import clock
from phr.errors import PhrError, ScopeTooSmall, TokenRefused, TooManyTries
from phr.fhir import document

BASE = "/fhir"  # of the API, below the public address
FHIR_JSON = "application/fhir+json"
CODES = {  # R4 issue-type
    400: "invalid",
    401: "login",
    403: "forbidden",
    404: "not-found",
    405: "not-supported",
    406: "not-supported",
    409: "conflict",
    412: "conflict",
    415: "not-supported",
    429: "throttled",
    503: "transient",
}
SENTENCES = {
    401: TokenRefused.sentence,
    404: "There is no such thing here, or it is not shared.",
    405: "That is not offered here.",
    406: "Only JSON is spoken here: application/fhir+json.",
    412: "This has changed since; read it again first.",
    415: "That media type is not taken here.",
    410: TokenRefused.sentence,
}
RETRY = "30"  # seconds; a sealed record opens when a member signs in


def is_ours(path: str) -> bool:
    """Tell whether a path below the public address belongs to the API."""
    return path == BASE or path.startswith(f"{BASE}/")


def response(error: PhrError, status: int) -> Response[bytes]:
    """Return an OperationOutcome for an error; a token that is over is one that is not valid."""
    status = 401 if status == 410 else status
    issue = {
        "severity": "error",
        "code": CODES.get(status, "exception"),
        "diagnostics": SENTENCES.get(status, error.sentence),
    }
    body = document.dumps({"resourceType": "OperationOutcome", "issue": [issue]})
    return Response(body, media_type=FHIR_JSON, status_code=status, headers=_headers(error, status))


def _headers(error: PhrError, status: int) -> dict[str, str]:
    if status == 401:
        absent = isinstance(error, TokenRefused) and error.absent
        named = "" if absent else ', error="invalid_token"'
        return {"WWW-Authenticate": f'Bearer realm="Homeport"{named}'}  # RFC 6750 §3
    if isinstance(error, ScopeTooSmall):
        return {"WWW-Authenticate": 'Bearer realm="Homeport", error="insufficient_scope"'}
    if status == 503:
        return {"Retry-After": RETRY}
    if isinstance(error, TooManyTries) and error.after is not None:
        wait = max(1, round((error.after - clock.now()).total_seconds()))
        return {"Retry-After": str(wait)}
    return {}
