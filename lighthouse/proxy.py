"""The confidential-client proxy: adds a shared secret to a token request, once, and forgets it.

Codes, verifiers, tokens and the secret pass through memory and are never stored or logged. Where a
request goes is decided by the signed snapshot alone. One process for each vendor's secret.
"""

import asyncio
import base64
import hashlib
import json
import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote_plus, urlencode

import click
import h11

from lighthouse import clock, net, parts
from lighthouse.assertions import Target, load_targets, welcome
from lighthouse.installations import Installations
from lighthouse.parts import App, Receive, Scope, Send, Told

log = logging.getLogger("lighthouse.proxy")

SECONDS: Final = 20.0  # of one exchange with a vendor, from the first packet to the last
LARGEST: Final = 64 * 1024  # bytes of a vendor's answer
AT_ONCE: Final = 32
FORM: Final = "application/x-www-form-urlencoded"
FIELDS: Final = {
    "authorization_code": frozenset(
        {"grant_type", "code", "code_verifier", "redirect_uri", "client_id"}
    ),
    "refresh_token": frozenset({"grant_type", "refresh_token", "scope", "client_id"}),
}


@dataclass(frozen=True, slots=True)
class Secret:
    """A client's secret and how its vendor wants to see it: "basic" or "post"."""

    value: str = field(repr=False)
    auth: str = "basic"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a vendor said, as far as it is handed on."""

    status: int
    body: bytes = field(repr=False)
    retry_after: str = ""


Ask = Callable[[Target, Mapping[str, str]], Answer]


class NotSent(Exception):
    """The vendor heard nothing: asking again later repeats nothing."""


class Lost(Exception):
    """The request may have been heard, and no usable answer came."""


# --------------------------------------------------------------------------- what may be asked


def read_form(body: bytes, target: Target) -> dict[str, str]:
    """Return the form of a token request when it is one that is passed on. Raises Told.

    Nothing but the fields of the two grants, each once: above all no secret, no assertion, no
    address of anywhere.
    """
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=12
        )
    except ValueError:
        raise Told(400, "invalid_request") from None
    form = dict(pairs)
    if len(form) != len(pairs) or any(not value or len(value) > 8192 for value in form.values()):
        raise Told(400, "invalid_request")
    allowed = FIELDS.get(form.get("grant_type", ""))
    if allowed is None:
        raise Told(400, "unsupported_grant_type")
    if set(form) - allowed or form.get("client_id", target.client_id) != target.client_id:
        raise Told(400, "invalid_request")
    if form["grant_type"] == "authorization_code":
        _check_code(form, target)
    elif "refresh_token" not in form:
        raise Told(400, "invalid_request")
    if set(form.get("scope", "").split()) - target.scopes and target.scopes:
        raise Told(400, "invalid_scope")
    return form


def _check_code(form: Mapping[str, str], target: Target) -> None:
    if "code" not in form or form.get("redirect_uri") != target.redirect_uri:
        raise Told(400, "invalid_request")
    verifier = form.get("code_verifier", "")
    if (target.pkce or verifier) and not 43 <= len(verifier) <= 128:  # RFC 7636 §4.1
        raise Told(400, "invalid_request")


def is_token_answer(body: bytes) -> bool:
    """Say whether a body is a token or error object (RFC 6749 §5.1, §5.2) and nothing else."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(found, dict):
        return False
    return any(
        isinstance(found.get(name), str) and found[name] for name in ("access_token", "error")
    )


# --------------------------------------------------------------------------- one exchange


def exchange(
    target: Target,
    form: Mapping[str, str],
    *,
    secret: Secret,
    guard: net.Guard,
    seconds: float = SECONDS,
) -> Answer:
    """Send one token request and return the vendor's answer. No retry. Raises NotSent, Lost."""
    ends = time.monotonic() + seconds
    try:
        where = net.place(target.token_url)
        found = list(guard.check(where))
    except (net.Refused, net.Unanswered):
        raise NotSent from None
    channel = _dialled(found, where, guard, ends)
    try:
        return _talked(channel, where, _shown(form, secret, target.client_id), ends)
    except (OSError, h11.ProtocolError):
        raise Lost from None
    finally:
        channel.close()


def _shown(
    form: Mapping[str, str], secret: Secret, client: str
) -> tuple[bytes, list[tuple[str, str]]]:
    """Return body and headers with the secret in the form the vendor wants (RFC 6749 §2.3.1)."""
    if secret.auth == "post":
        return urlencode({**form, "client_id": client, "client_secret": secret.value}).encode(), []
    pair = f"{quote_plus(client)}:{quote_plus(secret.value)}".encode()
    sent = {name: value for name, value in form.items() if name != "client_id"}
    return urlencode(sent).encode(), [("Authorization", "Basic " + base64.b64encode(pair).decode())]


def _dialled(found: list[Any], where: net.Place, guard: net.Guard, ends: float) -> socket.socket:
    """Return a connection to the first checked address that answers; TLS proves the name."""
    for family, sockaddr in found[:4]:
        channel = socket.socket(family, socket.SOCK_STREAM)
        try:
            channel.settimeout(_left(ends))
            channel.connect(sockaddr)
            if where.scheme != "https":
                return channel
            return guard.tls.wrap_socket(channel, server_hostname=where.host)
        except OSError:
            channel.close()
    raise NotSent


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _talked(
    channel: socket.socket,
    where: net.Place,
    sent: tuple[bytes, list[tuple[str, str]]],
    ends: float,
) -> Answer:
    body, more = sent
    talk = h11.Connection(h11.CLIENT, max_incomplete_event_size=16 * 1024)
    headers = [
        ("Host", where.authority),
        ("Content-Type", FORM),
        ("Content-Length", str(len(body))),
        ("Accept", "application/json"),
        ("Accept-Encoding", "identity"),
        ("User-Agent", "lighthouse"),
        ("Connection", "close"),
        *more,
    ]
    request = h11.Request(method="POST", target=where.target, headers=headers)
    data = talk.send(request) or b""
    data += talk.send(h11.Data(body)) or b""
    data += talk.send(h11.EndOfMessage()) or b""
    channel.settimeout(_left(ends))
    channel.sendall(data)
    return _heard(channel, talk, ends)


def _heard(channel: socket.socket, talk: h11.Connection, ends: float) -> Answer:
    """Read one whole answer within the time and size; anything odd is Lost."""
    head: h11.Response | None = None
    whole = bytearray()
    while True:
        event = talk.next_event()
        if event is h11.NEED_DATA:
            channel.settimeout(_left(ends))
            talk.receive_data(channel.recv(16 * 1024))
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            whole += event.data
            if len(whole) > LARGEST:
                raise Lost
        elif isinstance(event, h11.EndOfMessage):
            break
        elif not isinstance(event, h11.InformationalResponse):
            raise Lost
    if head is None:
        raise Lost
    return _judged(head, bytes(whole))


def _judged(head: h11.Response, body: bytes) -> Answer:
    """Hand on a token or error object; a redirect, a packed body and HTML are no answer."""
    said = {bytes(name).lower(): bytes(value) for name, value in head.headers}
    packed = said.get(b"content-encoding", b"identity").strip().lower() not in {b"", b"identity"}
    if packed or 300 <= head.status_code < 400 or not is_token_answer(body):
        raise Lost
    waits = said.get(b"retry-after", b"").decode("latin-1").strip()
    return Answer(head.status_code, body, waits if waits.isdigit() and len(waits) < 7 else "")


# --------------------------------------------------------------------------- the application


class Tally:
    """How it goes, and nothing about whom: (hour, vendor, class of status) -> count, seconds."""

    def __init__(self) -> None:
        """Start empty; a day is kept."""
        self._counts: dict[tuple[str, str, str], tuple[int, float]] = {}

    def note(self, vendor: str, outcome: str, seconds: float) -> None:
        """Count one exchange."""
        key = (f"{clock.now():%Y-%m-%dT%H}", vendor, outcome)
        count, spent = self._counts.get(key, (0, 0.0))
        self._counts[key] = (count + 1, spent + seconds)
        while len(self._counts) > 24 * 64:
            del self._counts[min(self._counts)]
        log.info("event=token hour=%s vendor=%s outcome=%s", *key)

    def text(self) -> str:
        """Return the counts in the text form of Prometheus."""
        lines = ["# TYPE lighthouse_tokens counter"]
        for (hour, vendor, outcome), (count, spent) in sorted(self._counts.items()):
            labels = f'{{hour="{hour}",vendor="{vendor}",outcome="{outcome}"}}'
            lines.append(f"lighthouse_tokens{labels} {count}")
            lines.append(f"lighthouse_token_seconds{labels} {spent:.3f}")
        return "\n".join(lines) + "\n"


def create_app(
    installations: Installations,
    targets: Mapping[str, Target],
    secrets: Mapping[str, Secret],
    guard: net.Guard,
    *,
    seconds: float = SECONDS,
) -> App:
    """Return the application: POST /v1/token/{endpoint}, POST /v1/installation, GET /metrics."""
    tally = Tally()
    room = asyncio.Semaphore(AT_ONCE)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if scope["query_string"]:
            raise Told(400, "invalid_request")
        if (method, path) == ("GET", "/metrics"):
            await parts.answer(send, 200, tally.text().encode(), {}, "text/plain; charset=utf-8")
        elif (method, path) == ("GET", "/healthz"):
            await parts.answer_json(send, 200, {"status": "ok"})
        elif (method, path) == ("POST", "/v1/installation"):
            await welcome(installations, scope, receive, send)
        elif method == "POST" and path.startswith("/v1/token/"):
            target = targets.get(path.removeprefix("/v1/token/"))
            who, body = await _admitted(installations, path, scope, receive)
            secret = secrets.get(target.client_id) if target and target.via == "pass" else None
            if target is None or secret is None:
                raise Told(404, "unknown_endpoint")
            form = read_form(body, target)
            if form["grant_type"] == "authorization_code":
                installations.count(who, "code", now=clock.now())
            async with room:
                ask = partial(exchange, secret=secret, guard=guard, seconds=seconds)
                await _pass_on(send, target, form, ask, tally)
        else:
            raise Told(404, "not_found")

    return parts.silent(app, "proxy")


async def _admitted(
    installations: Installations, path: str, scope: Scope, receive: Receive
) -> tuple[str, bytes]:
    """Return who asks, an installation that may, and the body of its request. Raises Told."""
    if parts.header(scope, "content-type").partition(";")[0].strip().lower() != FORM:
        raise Told(415, "invalid_request")
    body = await parts.body_of(receive)
    at = parts.header(scope, "homeport-time")
    said = {
        "installation_id": parts.header(scope, "homeport-installation"),
        "nonce": parts.header(scope, "homeport-nonce"),
        "ts": int(at) if at.isascii() and at.isdigit() and len(at) < 13 else None,
        "sig": parts.header(scope, "homeport-signature"),
    }
    digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
    words = [path.removeprefix("/v1/token/"), digest]
    who = installations.admit(said, "token", words, now=clock.now())
    return who, body


async def _pass_on(
    send: Send, target: Target, form: Mapping[str, str], ask: Ask, tally: Tally
) -> None:
    """Ask the vendor once, in a thread, and hand on what it said.

    From here on whatever goes wrong leaves the header WENT away: the asker takes it as lost.
    """
    began, outcome = time.monotonic(), "broke"
    try:
        said = await asyncio.to_thread(ask, target, form)
        outcome = f"{said.status // 100}xx"
    except NotSent:
        outcome = "not sent"
        raise Told(503, "temporarily_unavailable") from None
    except Lost:
        outcome = "lost"
        await parts.answer_json(send, 502, {"error": "server_error"}, {parts.WENT: "lost"})
        return
    finally:
        tally.note(target.vendor, outcome, time.monotonic() - began)
    headers = {parts.WENT: "answered"}
    headers |= {"retry-after": said.retry_after} if said.retry_after else {}
    await parts.answer(send, said.status, said.body, headers, "application/json")


def read_secrets(path: Path) -> dict[str, Secret]:
    """Read {client id: {"secret", "auth"}}. Raises click.ClickException, and says no secret."""
    kept = parts.read_private(path)
    with parts.told(f"{path.name} does not hold {{client id: {{secret, auth}}}}."):
        return {
            client: Secret(str(one["secret"]), str(one.get("auth", "basic")))
            for client, one in json.loads(kept).items()
        }


@click.command()
@click.option("--secrets", required=True, type=click.Path(exists=True, path_type=Path))
@parts.options(8093, snapshot=True)
def main(
    *,
    snapshot: Path,
    root: str,
    shelf: Path,
    secrets: Path,
    installations: Path,
    host: str,
    port: int,
) -> None:
    """Serve the proxy of one vendor. SECRETS is {client id: {"secret", "auth"}}, chmod 600."""
    known = read_secrets(secrets)
    targets = load_targets(shelf, snapshot, root)
    app = create_app(Installations(installations), targets, known, net.Guard())
    parts.run(app, host, port)


if __name__ == "__main__":
    main()
