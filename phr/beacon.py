"""What a lighthouse may do for a sign-in that a person agreed to: lead back, sign, or pass on.

The house shows itself by an Ed25519 key of its installation. What each way reveals is said in
`SEES`, which pages print before anybody agrees. Not here: OAuth itself (`phr.oauth`).
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from phr import clock, ids, jwt
from phr.errors import NetError, TryLater, Unreachable
from phr.http import SMALL, Answer, Http

LEADS_BACK: Final = "redirect"
SIGNS: Final = "mint"
PASSES: Final = "pass"
SEES: Final = {
    LEADS_BACK: (
        "It sees the address of this Homeport and when somebody begins to sign in. At the end your "
        "browser stops by there with a one-time code, which only this Homeport can use."
    ),
    SIGNS: (
        "It sees which hospital this Homeport signs in to, and when, each time the permission is "
        "renewed. It sees no password, no code, no key to your record, and nothing of your record."
    ),
    PASSES: (
        "The keys to your record pass through it: once when you sign in, and again each time the "
        "permission is renewed. It promises to keep and log none of them, but it could. What is in "
        "your record does not pass. With an own registration nobody stands in between."
    ),
}
SILENT: Final = "The lighthouse that helps with this connection did not answer as hoped."
SAYS_NO: Final = (
    "The lighthouse that helps with this connection does not do so right now. You can register an "
    "own app at the hospital instead."
)


@dataclass(frozen=True, slots=True)
class Help:
    """What a lighthouse does for one connection: `LEADS_BACK`, `SIGNS` or `PASSES`."""

    kind: str
    url: str  # of the part of the lighthouse that helps, without a slash at its end
    endpoint: str  # id of the endpoint in its catalogue
    installation: Mapping[str, Any] = field(repr=False)  # our Ed25519 key as JWK, private half too

    @property
    def installation_id(self) -> str:
        """The name under which a lighthouse knows this house: the key's thumbprint (RFC 7638)."""
        return str(self.installation["kid"])


def introduce(http: Http, aid: Help) -> None:
    """Tell a lighthouse our installation's public key; again does nothing. Raises TryLater."""
    key = str(aid.installation["x"])
    _asked(http, aid, "installation", {"key": key}, key)


def minted(http: Http, aid: Help) -> str:
    """Have a lighthouse sign that we are its client (RFC 7523 §2.2). Raises TryLater."""
    given = _asked(http, aid, "assertion", {"endpoint_id": aid.endpoint}, aid.endpoint)
    return _text(given, "client_assertion")


def seal(http: Http, aid: Help, state: str, return_to: str) -> str:
    """Have a lighthouse seal where its redirect page leads back to; return the state to send.

    The state itself is not shown to it, only its SHA-256. Raises TryLater.
    """
    mark = _b64(ids.fingerprint(state))
    said = {"return_to": return_to, "state_hash": mark}
    sealed = _text(_asked(http, aid, "seal", said, return_to, mark), "seal")
    return f"{state}~{sealed}"


def passed_on(http: Http, aid: Help, form: bytes) -> Answer:
    """Send a token request through a lighthouse, once; it adds the secret that it holds.

    Raises TryLater where the hospital certainly heard nothing. Everything else that is no answer of
    the hospital raises Unreachable or another NetError: it may have heard, so nothing is repeated.
    """
    _awake(http, aid)
    told = _introduced(aid, "token", aid.endpoint, _b64(ids.fingerprint(form)))
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "accept": "application/json",
        "homeport-installation": str(told["installation_id"]),
        "homeport-nonce": str(told["nonce"]),
        "homeport-time": str(told["ts"]),
        "homeport-signature": str(told["sig"]),
    }
    url = f"{aid.url}/v1/token/{quote(aid.endpoint, safe='')}"
    answer = http.post(url, form, headers=headers, limits=SMALL)
    went = answer.headers.get("homeport-upstream")
    if went == "untouched":
        raise _refusal(answer)
    if went != "answered":
        raise Unreachable("The hospital's sign-in service gave no usable answer.")
    return answer


def _awake(http: Http, aid: Help) -> None:
    """Find out that a lighthouse is there before a token that counts once is trusted to it."""
    try:
        awake = http.get(aid.url + "/healthz", limits=SMALL).status == 200
    except NetError:
        awake = False
    if not awake:
        raise TryLater(SILENT, after=900)


def _asked(
    http: Http, aid: Help, purpose: str, said: Mapping[str, str], *words: str
) -> Mapping[str, Any]:
    """Ask a lighthouse; the hospital hears nothing of it, so asking again later is safe."""
    body = json.dumps({**said, **_introduced(aid, purpose, *words)}).encode()
    headers = {"content-type": "application/json", "accept": "application/json"}
    try:
        answer = http.post(f"{aid.url}/v1/{purpose}", body, headers=headers, limits=SMALL)
    except NetError as problem:
        raise TryLater(SILENT, after=900) from problem
    if answer.status not in {200, 201}:
        raise _refusal(answer)
    try:
        given = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise TryLater(SILENT, after=900) from None
    return given if isinstance(given, dict) else {}


def _refusal(answer: Answer) -> TryLater:
    return TryLater(SILENT if answer.status >= 500 else SAYS_NO, after=900)


def _introduced(aid: Help, purpose: str, *words: str) -> dict[str, Any]:
    """Sign a question with the installation's key; it counts once, within a minute."""
    at, nonce = int(clock.now().timestamp()), ids.new_secret(16)
    lines = [f"homeport {purpose}", *words, aid.installation_id, nonce, str(at)]
    signature = jwt.sign_words(lines, aid.installation)
    return {"installation_id": aid.installation_id, "nonce": nonce, "ts": at, "sig": signature}


def _text(given: Mapping[str, Any], name: str) -> str:
    """Return a compact token of an answer; whatever could not stand in an address is refused."""
    value = given.get(name)
    fits = isinstance(value, str) and 0 < len(value) <= 4096 and value.isascii()
    if not fits or not set(str(value)) <= _SIGNS:
        raise TryLater(SILENT, after=900)
    return str(value)


_SIGNS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
