"""A hospital that serves fixed bytes and misbehaves on purpose, one behaviour per kind of record.

A behaviour gets the raw socket, so it may lie at any level: HTML, headers, framing, compression,
JSON, paging, time. Nothing large is stored: a body of 1 GB is made while it is sent. What was asked
and how much was sent is recorded.
"""

import gzip
import itertools
import json
import socket
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from tests.fixtures_net import RawServer, plain

FHIR = "Content-Type: application/fhir+json"
HTML = "Content-Type: text/html; charset=utf-8"
PAGE = b"<!doctype html><html><body><h1>Error</h1></body></html>"
PATIENT = "p1"
GIGA = 1 << 30
BLOCK = 64 * 1024


@dataclass(frozen=True)
class Asked:
    """One request as it came: path, parameters, bearer token."""

    path: str
    params: dict[str, str]
    bearer: str

    @property
    def kind(self) -> str:
        return self.path.removeprefix("/fhir/").partition("/")[0]


class Exchange:
    """One request being answered: what was asked, and ways to send that count."""

    def __init__(self, hospital: "Hospital", asked: Asked, channel: socket.socket) -> None:
        self.hospital, self.asked, self._channel = hospital, asked, channel

    def send(self, data: bytes) -> None:
        self._channel.sendall(data)
        self.hospital.sent[self.asked.kind] += len(data)

    def send_all(self, pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            self.send(piece)

    def wait(self, seconds: float) -> None:
        """Stay silent; leaves early when the hospital closes."""
        self.hospital.closing.wait(seconds)

    def turn(self) -> int:
        """Return how many times this kind was asked before."""
        return self.hospital.turns[self.asked.kind] - 1

    def page(self, bodies: list[bytes], next_url: str | None = None, **more: int) -> bytes:
        return bundle(bodies, next_url, **more)


Behaviour = Callable[[Exchange], bool]  # False: answer as usual after all


def bundle(bodies: list[bytes], next_url: str | None = None, total: int | None = None) -> bytes:
    """Return a searchset with the given resources, byte for byte, and perhaps a next link."""
    links = json.dumps([{"relation": "next", "url": next_url}] if next_url else []).encode()
    count = b"" if total is None else b'"total":%d,' % total
    entries = b",".join(b'{"resource":' + body + b"}" for body in bodies)
    return b'{"resourceType":"Bundle","type":"searchset",%b"link":%b,"entry":[%b]}' % (
        count,
        links,
        entries,
    )


@dataclass
class Hospital:
    """`records` by kind are served in pages of `page`; `behaviours` by kind come first."""

    records: dict[str, list[bytes]] = field(default_factory=dict)
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    page: int = 2
    foreign: "Hospital | None" = None
    asked: list[Asked] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    turns: Counter[str] = field(default_factory=Counter)
    closing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._server = RawServer(self._reply)

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def base(self) -> str:
        return self.url + "/fhir"

    @property
    def place(self) -> str:
        return self._server.place

    def close(self) -> None:
        self.closing.set()
        self._server.close()

    def _reply(self, request: bytes, channel: socket.socket) -> None:
        head = request.partition(b"\r\n\r\n")[0]
        if head.count(b" ") < 2:
            return  # the caller died before it had asked
        target = urlsplit(head.split(b" ", 2)[1].decode("latin-1"))
        bearer = next(
            (
                line.partition(b":")[2].strip().decode("latin-1")
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"authorization:")
            ),
            "",
        )
        asked = Asked(target.path, dict(parse_qsl(target.query)), bearer)
        with self._lock:
            self.asked.append(asked)
            self.turns[asked.kind] += 1
        exchange = Exchange(self, asked, channel)
        behaviour = self.behaviours.get(asked.kind)
        if behaviour is None or not behaviour(exchange):
            exchange.send(self.usual(asked))

    def usual(self, asked: Asked) -> bytes:
        """Answer as a well-behaved server would."""
        kind, _, name = asked.path.removeprefix("/fhir/").partition("/")
        if name:
            for body in self.records.get(kind, []):
                if json.loads(body).get("id") == name:
                    return plain(body, "200 OK", FHIR)
            return plain(b"", "404 Not Found")
        bodies = self.records.get(kind, [])
        begin = int(asked.params.get("_offset", "0"))
        end, following = begin + self.page, None
        if end < len(bodies):
            following = f"{self.base}/{kind}?patient={PATIENT}&_offset={end}"
        return plain(bundle(bodies[begin:end], following, len(bodies)), "200 OK", FHIR)


# ------------------------------------------------------------------------- records


def patient() -> bytes:
    return b'{"resourceType":"Patient","id":"%b","birthDate":"1980-01-01"}' % PATIENT.encode()


def odd_observations() -> list[bytes]:
    """Return Observations whose bytes no re-serialisation would give back."""
    head = b'"status":"final","subject":{"reference":"Patient/p1"},"code":{"text":"Sodium"}'
    values = (
        b'"valueQuantity":{"value":1.10,"unit":"mmol/L"}',
        b'"valueQuantity" : { "unit" : "mmol\\/L" , "value" : 5.40 }',
        b'"valueQuantity":{"value":1E2,"unit":"\\u00b5mol/L"}',
        b'"valueQuantity":{"value":-0.0,"unit":"\xc2\xb5g"}\n\t',
        b'"valueQuantity":{"value":120.000000000000000000001}',
        b'"valueString":"\\u0041\\ud83d\\ude00 \xf0\x9f\x98\x80 \\"quoted\\" "',
    )
    return [
        b'{"resourceType":"Observation","id":"o-%d",%b,%b}' % (number, head, value)
        for number, value in enumerate(values)
    ]


WHOSE = {
    "AllergyIntolerance": "patient",
    "Coverage": "beneficiary",
    "Device": "patient",
    "EpisodeOfCare": "patient",
    "ExplanationOfBenefit": "patient",
    "FamilyMemberHistory": "patient",
    "Immunization": "patient",
    "RelatedPerson": "patient",
}


def some(kind: str, count: int = 3) -> list[bytes]:
    """Return a few records of a kind, each with its own id."""
    whose = WHOSE.get(kind, "subject")
    return [
        f'{{"resourceType":"{kind}","id":"{kind}-{number}",'
        f'"{whose}":{{"reference":"Patient/{PATIENT}"}}}}'.encode()
        for number in range(count)
    ]


# ------------------------------------------------------------------------- answers in words


def says(status: str, body: bytes = b"", *headers: str) -> Behaviour:
    """Always this answer."""

    def behave(exchange: Exchange) -> bool:
        exchange.send(plain(body, status, *headers))
        return True

    return behave


def outcome(code: str) -> bytes:
    issue = {"severity": "error", "code": code}
    return json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}).encode()


def busy_once(exchange: Exchange) -> bool:
    """429 with Retry-After the first time, as usual afterwards."""
    if exchange.turn():
        return False
    exchange.send(plain(outcome("throttled"), "429 Too Many Requests", "Retry-After: 1", FHIR))
    return True


def busy_inside(exchange: Exchange) -> bool:
    """200 with a record and an entry that was answered 429."""
    entry = {"response": {"status": "429"}, "resource": json.loads(outcome("throttled"))}
    bodies = exchange.hospital.records[exchange.asked.kind][:1]
    page = bundle(bodies).replace(b'"entry":[', b'"entry":[' + json.dumps(entry).encode() + b",")
    exchange.send(plain(page, "200 OK", FHIR))
    return True


def dies_halfway(exchange: Exchange) -> bool:
    """The second page breaks off in the middle, every time."""
    if "_offset" not in exchange.asked.params:
        return False
    whole = exchange.hospital.usual(exchange.asked)
    exchange.send(whole[: len(whole) // 2])
    return True


def next_is(where: Callable[[Exchange], str]) -> Behaviour:
    """One page whose next link leads to `where`."""

    def behave(exchange: Exchange) -> bool:
        bodies = exchange.hospital.records[exchange.asked.kind][:1]
        exchange.send(plain(bundle(bodies, where(exchange)), "200 OK", FHIR))
        return True

    return behave


def itself(exchange: Exchange) -> str:
    query = "&".join(f"{name}={value}" for name, value in exchange.asked.params.items())
    return f"{exchange.hospital.url}{exchange.asked.path}?{query}"


def another_host(exchange: Exchange) -> str:
    assert exchange.hospital.foreign is not None
    return f"{exchange.hospital.foreign.base}/{exchange.asked.kind}?patient={PATIENT}"


# ------------------------------------------------------------------------- weights


def _head(*headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", FHIR, *headers, "", ""]).encode()


def _filler(size: int) -> Iterator[bytes]:
    """Make the beginning of a Bundle that never closes its first string, `size` bytes in all."""
    begin = b'{"resourceType":"Bundle","entry":[{"fullUrl":"'
    yield begin
    block = b"a" * BLOCK
    for _ in range((size - len(begin)) // BLOCK):
        yield block


def huge(*, declared: bool) -> Behaviour:
    """A body of 1 GB, with or without saying so before."""

    def behave(exchange: Exchange) -> bool:
        if declared:
            exchange.send(_head(f"Content-Length: {GIGA}"))
            exchange.send_all(_filler(GIGA))
            return True
        exchange.send(_head("Transfer-Encoding: chunked"))
        for piece in _filler(GIGA):
            exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        return True

    return behave


def _zeros_gzipped(size: int) -> Iterator[bytes]:
    """Make a gzip stream of `size` zero bytes, a thousandth as long, without compressing them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    yield gzip.compress(b"")[:10]
    yield from itertools.repeat(block, size >> 20)


def bomb(exchange: Exchange) -> bool:
    """1 MB on the wire, 1 GB unpacked."""
    exchange.send(_head("Content-Encoding: gzip", "Transfer-Encoding: chunked"))
    for piece in _zeros_gzipped(GIGA):
        exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    exchange.send(b"0\r\n\r\n")
    return True


def double_bomb(exchange: Exchange) -> bool:
    """gzip within gzip: 2 kB on the wire, 1 GB in the end."""
    packed = gzip.compress(b"".join(_zeros_gzipped(GIGA)))
    exchange.send(plain(packed, "200 OK", FHIR, "Content-Encoding: gzip, gzip"))
    return True


def encoded(name: str) -> Behaviour:
    """An encoding nobody asked for."""
    return says("200 OK", b"\x8b\x00\x80" * 100, FHIR, f"Content-Encoding: {name}")


def deep(exchange: Exchange) -> bool:
    """JSON nested 100,000 deep."""
    inside = b'{"extension":[' * 50_000 + b"]}" * 50_000
    body = b'{"resourceType":"Condition","id":"x","extension":[' + inside + b"]}"
    exchange.send(plain(bundle([body]), "200 OK", FHIR))
    return True


def many(begin: bytes, piece: bytes, end: bytes, size: int = 31 << 20) -> Behaviour:
    """A page just under the limit that holds millions of tiny things."""

    def behave(exchange: Exchange) -> bool:
        count = (size - len(begin) - len(end)) // len(piece)
        length = len(begin) + count * len(piece) + len(end)
        exchange.send(_head(f"Content-Length: {length}"))
        exchange.send(begin)
        block = piece * (BLOCK // len(piece))
        per = len(block) // len(piece)
        for _ in range(count // per):
            exchange.send(block)
        exchange.send(piece * (count % per) + end)
        return True

    return behave


MANY_ENTRIES = many(b'{"resourceType":"Bundle","entry":[', b"{},", b"{}]}")
MANY_LINKS = many(b'{"resourceType":"Bundle","link":[', b"{},", b"{}]}")
MANY_ISSUES = many(b'{"resourceType":"OperationOutcome","issue":[', b"{},", b"{}]}")
MANY_EXTENSIONS = many(
    b'{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"FamilyMemberHistory",'
    b'"id":"x","patient":{"reference":"Patient/p1"},"extension":[',
    b"{},",
    b"{}]}}]}",
)


# ------------------------------------------------------------------------- time and framing


def drip(exchange: Exchange) -> bool:
    """One byte at a time, for ever."""
    exchange.send(_head("Content-Length: 100000"))
    while not exchange.hospital.closing.is_set():
        exchange.send(b" ")
        exchange.wait(0.05)
    return True


def silent(exchange: Exchange) -> bool:
    """Headers, then nothing."""
    exchange.send(_head("Content-Length: 100"))
    exchange.wait(60)
    return True


def endless_headers(exchange: Exchange) -> bool:
    exchange.send(b"HTTP/1.1 200 OK\r\n")
    for number in range(1 << 20):
        exchange.send(b"X-%d: %b\r\n" % (number, b"a" * 1000))
    return True


def lies(*headers: str, body: bytes) -> Behaviour:
    """Headers and body exactly as given, whether they fit or not."""

    def behave(exchange: Exchange) -> bool:
        exchange.send(_head(*headers) + body)
        return True

    return behave
