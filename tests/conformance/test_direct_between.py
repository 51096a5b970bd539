"""Two appliances write to each other by Direct, with nobody's code but their own in between.

Issue 5, acceptance 2: both are `phr serve` as a person runs it, set up through their pages;
OpenSMTPD carries the mail, Knot DNS and slapd publish the certificates. Only how often the jobs
look is changed.
"""

import base64
import io
import json
import re
import shutil
import smtplib
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.query
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from phr import clock, ids
from phr.errors import MessageRefused
from phr.fhir.slicing import slices
from phr.sharing.channels import identity, mdn, message, mime, smime
from phr.sharing.channels.mdn import Disposition, Notice
from phr.sharing.channels.message import Attachment, Letter
from tests.cast import PASSWORDS, Cast, csrf_in
from tests.e2e.house import Running, command_line, running
from tests.fixtures_direct import (
    DAY,
    Authority,
    Mailbox,
    cert_line,
    der,
    directory,
    free_port,
    installed,
    key,
    knot,
    mail_server,
    mailbox,
    private,
    until_it_listens,
)
from tests.fixtures_net import RawServer, plain
from tests.fixtures_sharing import condition, lab, recent

RUN = ids.new_id()[:8]  # the mail server's queue outlives a run that was cut short
ONE, TWO = f"one-{RUN}.test", f"two-{RUN}.test"
ADA, EVE = f"ada@{ONE}", f"eve@{TWO}"
DESK = "desk@clinic.test"
OFTEN = (
    "from phr import jobs; jobs.EVERY |= {'mail': 1, 'deliveries': 1};"
    "from phr.cli import main; main()"
)
WAITING = 60.0  # seconds; ten are usual, and a machine may be busy


@dataclass
class Side:
    """One appliance with a person signed in."""

    house: Running
    base: str
    browser: httpx.Client

    def get(self, path: str) -> str:
        """Return a page of the record as it is read: entities resolved."""
        answer = self.browser.get(f"{self.base}/{path}")
        assert answer.status_code == 200, answer.text
        return unescape(answer.text)

    def submit(self, path: str, files: Any = None, **fields: str) -> httpx.Response:
        """Send a form of the Direct page, of the share page, or of an arrival's own page."""
        page = self.browser.get(f"{self.base}/{'direct' if path.startswith('direct') else path}")
        return self.browser.post(
            f"{self.base}/{path}",
            data={"csrf": csrf_in(page.text)} | fields,
            files=files,
            headers={"origin": self.house.home},
        )

    def done(self, path: str, files: Any = None, **fields: str) -> str:
        """Send a form that is taken; return where it leads."""
        answer = self.submit(path, files, **fields)
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"])

    def until(self, path: str, shown: Callable[[str], Any]) -> str:
        """Look at a page until it shows something; return it."""
        pause, page = threading.Event(), ""
        for _ in range(int(WAITING / 0.4)):
            page = self.get(path)
            if shown(page):
                return page
            pause.wait(0.4)
        pytest.fail(
            f"{path} never showed it: {words_of(page)} {words_of(self.get('direct'))[:900]}"
        )

    def checked(self, address: str) -> str:
        """Return what the share page says about a Direct address, as it is read."""
        return unescape(self.submit("share", by="direct", to=address, do="check").text)

    def trust(self, certificate: bytes, direction: str) -> None:
        file = ("anchor.pem", certificate, "application/x-pem-file")
        self.done("direct/trust", {"file": file}, direction=direction)

    def own_certificate(self) -> x509.Certificate:
        """Return what a correspondent encrypts for, from the lines this appliance publishes."""
        between = self.get("direct/zone.txt").partition("(")[2].partition(")")[0]
        return x509.load_der_x509_certificate(base64.b64decode("".join(between.split())))


def words_of(page: str) -> str:
    """Return the words of a page, for a message or to be searched."""
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


@dataclass
class World:
    """Both sides, and what stands between and around them."""

    ada: Side
    eve: Side
    mta: int
    names: tuple[str, int]
    clinic: Authority  # Eve takes mail from whom it issued for, and Ada sends to them
    lists: str
    desk: x509.Certificate  # published for an address of the clinic
    forged: x509.Certificate  # published under Eve's name, beside her own
    outside: Mailbox  # where mail to the clinic's domain ends

    def post(self, raw: bytes, sender: str, recipient: str = EVE) -> None:
        """Hand a mail to the mail server between, as anybody may."""
        with smtplib.SMTP("127.0.0.1", self.mta, timeout=20) as client:
            client.sendmail(sender, [recipient], raw)

    def told(self, sender: str) -> str:
        """Return what Eve's page says about the mail of a sender, once it says something."""
        line = re.compile(rf"<h3>{re.escape(sender)}</h3>(.*?)</li>", re.DOTALL)
        found = line.search(self.eve.until("direct", line.search))
        assert found is not None
        return words_of(found[1])


@dataclass
class Start:
    """How both appliances start: on a copy of the cast's folder, each at ports of its own."""

    cast_at_home: tuple[Path, Cast]
    folder: Path
    settings: dict[str, str]

    def side(self, stack: ExitStack, person: str, mail_port: int) -> Side:
        """Start one and sign a person in."""
        home, cast = self.cast_at_home
        data = self.folder / person / "data"
        shutil.copytree(home, data, ignore=shutil.ignore_patterns("run"))
        settings = self.settings | {"PHR_MAIL_LISTEN": f"127.0.0.1:{mail_port}"}
        house = stack.enter_context(running(data, program=("-c", OFTEN), **settings))
        browser = stack.enter_context(httpx.Client(base_url=house.home, timeout=30))
        form = {"name": person, "password": PASSWORDS[person]}
        form["csrf"] = csrf_in(browser.get("/signin").text)
        answer = browser.post("/signin", data=form, headers={"origin": house.home})
        assert answer.status_code == 303
        until_it_listens(mail_port)
        return Side(house, f"/p/{cast.patients[person]}", browser)


@pytest.fixture(scope="module")
def world(
    cast_at_home: tuple[Path, Cast], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """Ada with records, published by LDAP; Eve without any, published by DNS beside a forgery."""
    for program, package in (("smtpd", "opensmtpd"), ("knotd", "knot"), ("slapd", "slapd")):
        installed(program, package)
    folder = tmp_path_factory.mktemp("direct")
    clinic, outside = Authority("Clinic root", number=1020), Mailbox()
    web = RawServer(lambda _, channel: channel.sendall(plain(clinic.revocations())))
    dns, ldap, mta, inward = free_port(), free_port(), free_port(), [free_port(), free_port()]
    with ExitStack() as stack:
        stack.callback(web.close)
        stack.enter_context(mailbox(outside))
        settings = {
            "PHR_DEMO": "0",
            "PHR_NAME_SERVERS": f"127.0.0.1:{dns}",
            "PHR_LAN_HOSTS": f"127.0.0.1:{mta},localhost:{ldap},{web.place}",
        }
        start = Start(cast_at_home, folder, settings)
        ada, eve = start.side(stack, "Ada", inward[0]), start.side(stack, "Eve", inward[1])
        onwards = dict(zip((ONE, TWO), inward, strict=True)) | {"clinic.test": outside.port}
        stack.enter_context(mail_server(folder / "mta", onwards, port=mta))
        for one, address in ((ada, ADA), (eve, EVE)):
            form = {"address": address, "mode": "sta", "host": "127.0.0.1", "port": str(mta)}
            one.done("direct", **form)
        for one, other in ((ada, eve), (eve, ada)):
            for direction in ("out", "in"):
                one.trust(other.get("direct/anchor.pem").encode(), direction)
        pem = clinic.certificate.public_bytes(Encoding.PEM)
        ada.trust(pem, "out")
        eve.trust(pem, "in")
        outsider = Authority(f"Homeport anchor for {EVE}", number=1021)
        forged = outsider.issue(EVE, number=31)
        zone = eve.get("direct/zone.txt") + cert_line(f"eve.{TWO}", der(forged))
        zone += cert_line(f"forged.{TWO}", der(outsider.issue(f"forged@{TWO}", number=31)))
        desk = clinic.issue(DESK, number=32)
        zone += cert_line("desk.clinic.test", der(desk))
        zone += f"_ldap._tcp.{ONE}. SRV 0 0 {ldap} localhost.\n"
        stack.enter_context(directory(folder / "slapd", ldap, ada.get("direct/directory.ldif")))
        names = stack.enter_context(knot(folder / "knot", "test", zone, port=dns))
        yield World(ada, eve, mta, names, clinic, f"{web.url}/list.crl", desk, forged, outside)


# ------------------------------------------------------------------------------------- the record


RECORDS = [
    condition("c1", "Asthma, so sagt die Ärztin", onsetDateTime="2001"),
    lab("o1", recent(10), value="5.40"),
    lab("o2", recent(9), value="137.0"),
]
CLINICAL = {"Condition", "Observation"}


def test_a_record_goes_to_the_other_house_is_accepted_there_and_confirmed_here(
    world: World, tmp_path: Path
) -> None:
    ada, eve = world.ada, world.eve
    file = tmp_path / "records.ndjson"
    text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in RECORDS)
    file.write_text(text.replace('"5.40"', "5.40").replace('"137.0"', "137.0"))
    command_line(ada.house, "import", str(file), "--patient", "Ada")

    assert "A certificate was found, and you trust it" in ada.checked(EVE)
    asked = {"by": "direct", "to": EVE, "whom": "Eve", "what": "primary", "hours": "720"}
    asked |= {"do": "direct", "once": ids.new_id()}
    followed = ada.done("share", **asked).removeprefix(f"{ada.base}/")

    arrived = arrivals(eve, ADA, 3)
    assert "A patient sends you health records" in eve.get(next(iter(arrived["A note"])))
    read = next(iter(arrived["A file"]))
    assert "Asthma, so sagt die Ärztin" in unescape(eve.get(f"{read}/content"))
    (records,) = arrived.keys() - {"A note", "A file"}
    (held,) = arrived[records]
    shown = eve.get(held)
    assert "5.40" in shown
    assert "by Direct mail, its signature checked" in shown
    sent = clinical(eve.browser.get(f"{eve.base}/{held}/save").content)
    assert len(sent) == len(RECORDS)
    assert sent == originals(ada, sent)
    eve.done(held, do="accept")
    assert raw_records(eve) == set(sent.values())

    for path in ("grants", followed):
        page = words_of(ada.until(path, lambda text: "Opened by the recipient" in text))
        assert "Opened by the recipient's mail server" in page
    notice = words_of(ada.get("direct"))
    assert f"{EVE} Notice" in notice
    assert "received what you sent, and trusted it" in notice
    for one in (ada, eve):
        log = (one.house.data.parent / f"{one.house.data.name}.log").read_text()
        assert "mail.listening" in log
        assert not re.search(rf"{RUN}|clinic\.test|Asthma", log)  # ids only, no addresses


def arrivals(side: Side, sender: str, count: int) -> dict[str, list[str]]:
    """Return the pages of what waits from a sender, by what each is, once there are so many."""
    line = re.compile(
        r'<h3><a href="[^"]*/(inbox/\w+)">[^<]*</a></h3>\s*<p>([^<·,]*)[^<·]*· from '
        + re.escape(sender)
    )
    page = side.until("inbox", lambda text: len(line.findall(text)) >= count)
    found: dict[str, list[str]] = {}
    for path, kind in line.findall(page):
        found.setdefault(kind.strip(), []).append(path)
    return found


def clinical(bundle: bytes) -> dict[str, bytes]:
    """Return the bytes of the clinical records of a Bundle as they stand there, by `Type/id`."""
    found = {}
    for each in slices(io.BytesIO(bundle)):
        resource = json.loads(each.body)
        if resource["resourceType"] in CLINICAL:
            found[f"{resource['resourceType']}/{resource['id']}"] = each.body
    return found


def raw_records(side: Side) -> set[bytes]:
    """Return the clinical records of a side as it keeps them, byte for byte."""
    found = set()
    for type_ in CLINICAL:
        page = side.get(f"other?type={type_}")
        for path in set(re.findall(rf'href="[^"]*/(record/{type_}/\w+)"', page)):
            found.add(side.browser.get(f"{side.base}/{path}/raw").content)
    return found


def originals(side: Side, sent: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return what the sender keeps of records sent, with the ids and references that leave.

    Nothing else may differ: not a digit, not a space.
    """
    made = {}
    for name, body in sent.items():
        raw = side.browser.get(f"{side.base}/record/{name}/raw").content
        before, after = json.loads(raw), json.loads(body)
        for old, new in (
            (before["id"], after["id"]),
            (before["subject"]["reference"], after["subject"]["reference"]),
        ):
            raw = raw.replace(json.dumps(old).encode(), json.dumps(new).encode(), 1)
        made[name] = raw
    return made


# ------------------------------------------------------------------------------- what is published


def test_what_is_published_fits_no_datagram_and_is_found_all_the_same(world: World) -> None:
    """One certificate takes more than 512 octets, a real one and a forged one more than 1,232."""
    for name, size in ((f"eve.{TWO}", 1232), ("desk.clinic.test", 512)):
        question = dns.message.make_query(f"{name}.", "CERT", use_edns=0, payload=size)
        answer = dns.query.udp(question, world.names[0], 5, port=world.names[1])
        assert answer.flags & dns.flags.TC
    ada = world.ada
    for address, own in ((EVE, world.eve.own_certificate()), (DESK, world.desk)):
        page = words_of(ada.checked(address))
        assert "DNS, by address: A trusted certificate was found." in page
        prints = re.findall(r"Fingerprint: ([0-9A-F:]{95}) ", page)
        assert prints[0] == identity.fingerprint(own)
        assert identity.fingerprint(world.forged) not in prints


def test_a_certificate_that_only_a_directory_holds_is_found_there(world: World) -> None:
    page = words_of(world.eve.checked(ADA))
    assert "DNS, by address: No certificate is published there." in page
    assert "LDAP, by address: A trusted certificate was found." in page
    assert identity.fingerprint(world.ada.own_certificate()) in page


def test_where_there_is_only_a_forged_certificate_nothing_can_be_sent(world: World) -> None:
    page = words_of(world.ada.checked(f"forged@{TWO}"))
    assert "DNS, by address: Nobody you trust stands behind this certificate." in page
    assert "There is no certificate to trust. So nothing can be sent there." in page
    asked = {"by": "direct", "to": f"forged@{TWO}", "whom": "Eve", "do": "direct"}
    answer = world.ada.submit("share", **asked)
    assert answer.status_code == 422
    assert "Nothing was sent" in answer.text


# ------------------------------------------------------------------------------- what is refused


def sealed(world: World, sender: str, own: smime.Own, **inside: str) -> bytes:
    """Return a mail to Eve as a correspondent's system writes it; `inside` may say otherwise."""
    letter = Letter(
        sender=inside.get("written_by", sender),
        recipient=inside.get("written_to", EVE),
        message_id=message.message_id(sender, 1, "clinic.test"),
        date=clock.now(),
        subject="Results",
        text="Please read the attached results.",
        attachments=[Attachment("letter.txt", "text/plain", f"from {sender}".encode())],
    )
    return message.seal(
        message.compose(letter),
        sender=sender,
        recipient=EVE,
        message_id=letter.message_id,
        date=letter.date,
        own=own,
        recipients=[world.eve.own_certificate()],
    )


def _forged_sender(world: World, sender: str, _: Path) -> bytes:
    """Signed by somebody who is trusted, in the name of somebody else."""
    return sealed(world, sender, (world.clinic.issue(DESK, number=32), key(32)))


def _forged_certificate(world: World, sender: str, _: Path) -> bytes:
    """An issuer of the same name as the trusted one, with a key of its own."""
    issuer = Authority(world.clinic.name, number=1021)
    return sealed(world, sender, (issuer.issue(sender, number=33), key(33)))


def _look_alike(world: World, sender: str, _: Path) -> bytes:
    return sealed(world, sender, (world.clinic.look_alike(sender, number=33), key(33)))


def _expired(world: World, sender: str, _: Path) -> bytes:
    made = world.clinic.issue(sender, number=33, begins=-9 * DAY, ends=-DAY)
    return sealed(world, sender, (made, key(33)))


def _revoked(world: World, sender: str, _: Path) -> bytes:
    made = world.clinic.issue(sender, number=33, lists_at=world.lists)
    world.clinic.revoked.append(made.serial_number)
    return sealed(world, sender, (made, key(33)))


def _issued_with_md5(world: World, sender: str, folder: Path) -> bytes:
    made = world.clinic.outdated(sender, "md5", folder, number=33)
    return sealed(world, sender, (made, key(33)))


def _signed_with_md5(world: World, sender: str, folder: Path) -> bytes:
    made = world.clinic.issue(sender, number=33)
    (folder / "own.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "own.key").write_bytes(private(key(33)))
    text = b"Content-Type: text/plain\r\n\r\nResults\r\n"
    command = [installed("openssl", "openssl"), "cms", "-sign", "-md", "md5", "-binary", "-crlfeol"]
    command += ["-signer", "own.pem", "-inkey", "own.key"]
    done = subprocess.run(command, cwd=folder, input=text, check=True, capture_output=True)
    signed = re.sub(rb"\r?\n", b"\r\n", done.stdout)
    outer = message.head(sender, EVE, message.message_id(sender, 1, "clinic.test"), clock.now())
    return mime.entity([*outer, ("Subject", "Results")], b"")[:-2] + smime.encrypt(
        signed, [world.eve.own_certificate()]
    )


def _other_sender_inside(world: World, sender: str, _: Path) -> bytes:
    own = world.clinic.issue(sender, number=33), key(33)
    return sealed(world, sender, own, written_by=DESK)


def _other_recipient_inside(world: World, sender: str, _: Path) -> bytes:
    own = world.clinic.issue(sender, number=33), key(33)
    return sealed(world, sender, own, written_to=ADA)


def _tampered(world: World, sender: str, _: Path) -> bytes:
    raw = sealed(world, sender, (world.clinic.issue(sender, number=33), key(33)))
    head, gap, body = raw.partition(b"\r\n\r\n")
    middle = len(body) // 2
    return head + gap + body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


REFUSED = {
    "forged sender": (_forged_sender, "The certificate is for another address."),
    "forged certificate": (_forged_certificate, "Nobody you trust stands behind this certificate."),
    "look alike": (_look_alike, "The signatures above this certificate do not hold."),
    "expired": (_expired, "The certificate has expired."),
    "revoked": (_revoked, "The certificate, or one above it, was revoked by its issuer."),
    "issued with md5": (
        _issued_with_md5,
        "The certificate is signed in an outdated way (MD5 or SHA-1).",
    ),
    "signed with md5": (_signed_with_md5, MessageRefused.sentence),
    "other sender inside": (
        _other_sender_inside,
        "The sender inside this message is not the one who sent it.",
    ),
    "other recipient inside": (
        _other_recipient_inside,
        "This message is not addressed to whom it was sent.",
    ),
    "tampered": (_tampered, MessageRefused.sentence),
}


@pytest.fixture(scope="module")
def refused(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Send every one of them at once; return from whom each is."""
    senders = {}
    for case, (make, _) in REFUSED.items():
        senders[case] = f"{case.replace(' ', '.')}.{RUN}@clinic.test"
        folder = tmp_path_factory.mktemp("refused")
        world.post(make(world, senders[case], folder), senders[case])
    return senders


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_trusted_is_sealed_away_with_the_reason(
    world: World, refused: dict[str, str], case: str
) -> None:
    sender, words = refused[case], REFUSED[case][1]
    said = world.told(sender)
    assert words in said
    assert "Sealed away" in said
    assert "its sender was told nothing" in said
    waiting, _, away = world.eve.get("inbox").partition("Sealed away")
    assert sender not in waiting
    assert words in away


def answer_to(world: World, sender: str, own: smime.Own) -> Notice | None:
    """Return the notice that reached a sender outside, opened with his key."""
    pause = threading.Event()
    for _ in range(int(WAITING / 0.1)):
        for envelope in list(world.outside.got):
            if envelope.rcpt_tos == [sender]:
                opened = message.unseal(
                    envelope.content, envelope_from=EVE, envelope_to=[sender], keys=[own]
                )
                assert opened.signers == (world.eve.own_certificate(),)
                return mdn.read(opened)
        pause.wait(0.1)
    pytest.fail(f"no answer reached {sender}")


def test_a_doctor_who_is_trusted_is_read_and_told(world: World) -> None:
    """The counterpart of the refusals: the same mail with nothing wrong with it."""
    sender = f"good.{RUN}@clinic.test"
    own = world.clinic.issue(sender, number=34, lists_at=world.lists), key(34)
    world.post(sealed(world, sender, own), sender)
    assert "Taken in" in world.told(sender)
    assert sender in world.eve.get("inbox")
    original = message.message_id(sender, 1, "clinic.test")
    assert answer_to(world, sender, own) == Notice(original, EVE, Disposition.PROCESSED)


def test_who_signs_with_another_certificate_than_the_published_one_is_told(world: World) -> None:
    """What may only sign opens no answer: that is sealed to what is published (by DNS here)."""
    signs = world.clinic.issue(DESK, number=35, usage=["digital_signature"]), key(35)
    world.post(sealed(world, DESK, signs), DESK)
    assert "Taken in" in world.told(DESK)
    notice = answer_to(world, DESK, (world.desk, key(32)))
    assert notice is not None
    assert notice.disposition is Disposition.PROCESSED
