"""Canary: unmistakable strings go through every feature, and are then looked for where none may be.

Looked at: what the process wrote, its error pages, the requests it made, every file below the data
folder (but the outbox, which is meant to be carried away), and its temporary and home folders. The
same scanner has to find a planted file, a planted log line and the parcel in the outbox.
"""

import base64
import gzip
import html
import io
import json
import re
import resource
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pyotp
import pytest

from phr import clock, logs, push
from phr.appliance import Appliance
from phr.settings import Settings
from phr.sharing import channels, gate, grants, links, provision
from phr.store.models import Delivery, DeliveryState
from tests.cast import csrf_in
from tests.e2e.house import Running, running
from tests.fixtures_hospital import FHIR, Asked, Hospital, observation
from tests.fixtures_net import RawServer, plain

SPOKEN = {  # what may stand on the page of the person who typed it or whom it is about
    name: f"Qz{number:02}{name.title().replace(' ', '')}Vx"
    for number, name in enumerate(
        (
            "account name",
            "person name",
            "other person",
            "invited name",
            "unknown name",
            "hospital name",
            "client id",
            "patient family",
            "allergy",
            "condition note",
            "document title",
            "document text",
            "hospital error",
            "file name",
            "file entry",
            "search words",
            "recipient",
            "reason",
            "folder recipient",
            "wrong address",
            "own statement",
            "hospital searched",
            "words sent",
            "file sent",
        ),
        1,
    )
}
SPOKEN["lab value"] = "73918.204657"
SECRET = {  # what may stand nowhere
    name: f"Qz{number:02}{name.title().replace(' ', '')}Vx"
    for number, name in enumerate(
        (
            "password",
            "wrong password",
            "invited password",
            "wrong setup code",
            "wrong kit",
            "wrong invitation",
            "client secret",
            "hospital code",
            "access token",
            "refresh token",
            "wrong state",
            "wrong session",
        ),
        30,
    )
}
PASSWORD = SECRET["password"]


# ------------------------------------------------------------------ the scanner


@dataclass
class Scanner:
    """Finds canaries in bytes: as they are, in base64 or hex, and inside what unpacks."""

    canaries: dict[str, str] = field(default_factory=lambda: SPOKEN | SECRET)

    def hits(self, data: bytes) -> set[str]:
        """Return the names of the canaries that are in `data`."""
        found: set[str] = set()
        for plain_bytes in unpacked(data):
            low = plain_bytes.lower()
            found |= {
                name for name, text in self.canaries.items() if _is_in(text, plain_bytes, low)
            }
        return found

    def hits_below(self, folder: Path, *, leave_out: Iterable[Path] = ()) -> dict[str, set[str]]:
        """Return what is found in the files below a folder, their names included."""
        found = {}
        for file in sorted(folder.rglob("*")):
            if any(file.is_relative_to(each) for each in leave_out):
                continue
            data = file.read_bytes() if file.is_file() else b""
            if hits := self.hits(data + b"\n" + bytes(file.relative_to(folder))):
                found[str(file.relative_to(folder))] = hits
        return found


def _is_in(text: str, data: bytes, low: bytes) -> bool:
    if text.isdigit():  # a six-digit code: not as a part of a longer number or id
        return re.search(rb"(?<![0-9a-f.:])%b(?![0-9a-f])" % text.encode(), data) is not None
    plain_bytes = text.encode()
    in_base64 = [  # the middle of it, at each of the three places it may begin
        base64.b64encode(b" " * place + plain_bytes)[4 : (place + len(plain_bytes)) // 3 * 4]
        for place in range(3)
    ]
    return (
        plain_bytes.lower() in low
        or plain_bytes.hex().encode() in low
        or text.encode("utf-16-le") in data
        or any(each in data for each in in_base64)
    )


def unpacked(data: bytes) -> Iterator[bytes]:
    """Yield the bytes, and what they hold where they are a zip, gzip or zlib."""
    yield data
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            for name in packed.namelist():
                yield name.encode()
                yield packed.read(name)
    elif data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
    elif data[:1] == b"\x78":
        try:
            yield zlib.decompress(data)
        except zlib.error:
            return


@pytest.mark.parametrize(
    "how",
    [
        bytes.upper,
        lambda text: text.hex().encode(),
        lambda text: base64.urlsafe_b64encode(b"a" + text),
        lambda text: base64.b64encode(b'{"name":"' + text + b'"}'),
        gzip.compress,
        zlib.compress,
        lambda text: text.decode().encode("utf-16-le"),
    ],
)
def test_scanner_finds_a_canary_in_every_coat(how):
    assert Scanner().hits(b"x" + how(b"") + b"x") == set()
    assert Scanner().hits(how(SPOKEN["allergy"].encode())) == {"allergy"}


def test_scanner_knows_a_code_from_a_longer_number():
    scanner = Scanner({"code": "482913"})

    assert scanner.hits(b"code=482913 ok") == {"code"}
    assert scanner.hits(b"at=12.482913 id=ab482913ff 4829130") == set()


# ------------------------------------------------------------------ who takes part


class CanaryHospital(Hospital):
    """A hospital whose every word and token is a canary."""

    def grant(self) -> bytes:
        self.issued += 1
        self.tokens = {f"{SECRET['access token']}{self.issued}"}
        self.refresh_tokens = {f"{SECRET['refresh token']}{self.issued}"}
        answer = {
            "access_token": next(iter(self.tokens)),
            "refresh_token": next(iter(self.refresh_tokens)),
            "expires_in": 1,
            "token_type": "Bearer",
            "patient": self.patient,
        }
        return plain(json.dumps(answer).encode())

    def outgoing(self) -> bytes:
        """Return every request line and header, without the credentials a request is there for."""
        heads = []
        for asked in self.asked:
            lines = asked.head.split(b"\r\n")
            credentials = [line for line in lines if line.lower().startswith(b"authorization:")]
            if asked.path.startswith("/fhir/"):
                lines = [line for line in lines if line not in credentials]
                kind = b"authorization: bearer " + SECRET["access token"].lower().encode()
                assert all(line.lower().startswith(kind) for line in credentials)
            elif asked.path == "/token":
                lines = [line for line in lines if line not in credentials]
            heads += lines
        return b"\n".join(heads)


def hospital_records() -> dict[str, list[bytes]]:
    """One patient with a lab value, an allergy, a problem with a note, and a document."""
    whom = {"reference": "Patient/p1"}
    document = {
        "resourceType": "DocumentReference",
        "id": "d1",
        "status": "current",
        "subject": whom,
        "description": SPOKEN["document title"],
        "content": [{"attachment": {"contentType": "text/plain", "url": "Binary/b1"}}],
    }
    problem = {
        "resourceType": "Condition",
        "id": "c1",
        "subject": whom,
        "code": {"text": "Hay fever"},
        "note": [{"text": SPOKEN["condition note"]}],
    }
    allergy = {
        "resourceType": "AllergyIntolerance",
        "id": "a1",
        "patient": whom,
        "code": {"text": SPOKEN["allergy"]},
    }
    patient = {
        "resourceType": "Patient",
        "id": "p1",
        "name": [{"family": SPOKEN["patient family"]}],
    }
    laboratory = {
        "coding": [
            {
                "system": "http://terminology.hl7.org/CodeSystem/observation-category",
                "code": "laboratory",
            }
        ]
    }
    return {
        "Patient": [json.dumps(patient).encode()],
        "Observation": [observation(1, SPOKEN["lab value"], category=[laboratory])],
        "Condition": [json.dumps(problem).encode()],
        "AllergyIntolerance": [json.dumps(allergy).encode()],
        "DocumentReference": [json.dumps(document).encode()],
    }


def complains(_asked: Asked) -> bytes:
    """Refuse with the patient's words in the answer, as some servers do."""
    issue = {"severity": "error", "code": "invalid", "diagnostics": SPOKEN["hospital error"]}
    outcome = {"resourceType": "OperationOutcome", "issue": [issue]}
    return plain(json.dumps(outcome).encode(), "400 Bad Request", FHIR)


def breaks(_asked: Asked) -> bytes:
    """Fail with an HTML page that holds the patient's words."""
    page = f"<html><body>{SPOKEN['hospital error']}</body></html>".encode()
    return plain(page, "500 Oops", "Content-Type: text/html")


def words_of(page: str) -> str:
    """Return what a page says, for the message of a failed step."""
    return re.sub(r"<[^>]*>|\s+", " ", page.partition("<main")[2] or page)[:2000]


@dataclass
class Visitor:
    """A browser without script, which remembers every answer that was an error."""

    base: str
    faults: list[httpx.Response]

    def __post_init__(self) -> None:
        """Open it; it follows redirects, as browsers do."""
        self.web = httpx.Client(
            base_url=self.base,
            headers={"accept": "text/html", "origin": self.base},
            follow_redirects=True,
            event_hooks={"response": [self._note]},
            timeout=30,
        )

    def _note(self, answer: httpx.Response) -> None:
        if answer.status_code >= 400:
            answer.read()
            self.faults.append(answer)

    def see(self, path: str, *words: str, status: int = 200) -> str:
        """Open a page; it must have this status and hold these words."""
        return self._seen(self.web.get(path), words, status)

    def send(
        self, page: str, path: str, form: dict | None = None, *words: str, status: int = 200
    ) -> str:
        """Send a form of a page as a person would."""
        token = csrf_in(self.web.get(page).text)
        return self._seen(self.web.post(path, data={"csrf": token, **(form or {})}), words, status)

    def _seen(self, answer: httpx.Response, words: tuple[str, ...], status: int) -> str:
        assert answer.status_code == status, (
            f"{answer.url}: {answer.status_code} {words_of(answer.text)}"
        )
        shown = html.unescape(answer.text)
        missing = [word for word in words if word not in shown]
        assert not missing, f"{answer.url} does not show {missing}: {words_of(shown)}"
        return answer.text


@dataclass
class Stage:
    """Everything that takes part in the walk, and what it wrote."""

    house: Running
    hospital: CanaryHospital
    elsewhere: Path
    made: dict[str, str] = field(default_factory=dict)  # secrets that the product made
    wrote: list[str] = field(default_factory=list)
    ran: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Open the person's browser and the doctor's."""
        self.faults: list[httpx.Response] = []
        self.browsers: list[Visitor] = []
        self.person = self.browser(self.house.home)
        self.doctor = self.browser(self.house.public)

    def browser(self, address: str) -> Visitor:
        """Open one more browser."""
        self.browsers.append(Visitor(address, self.faults))
        return self.browsers[-1]

    def close(self) -> None:
        """Close the browsers."""
        for browser in self.browsers:
            browser.web.close()

    @property
    def base(self) -> str:
        """The path of the person's record."""
        return f"/p/{self.made['patient id']}"

    def cli(self, *arguments: str, given: str = "", code: int = 0) -> str:
        """Run a command beside the running appliance; what it says aside counts as a log."""
        done = subprocess.run(
            [sys.executable, "-m", "phr", *arguments, "--data", str(self.house.data)],
            input=given,
            capture_output=True,
            text=True,
            env=child_environment(self.elsewhere),
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stderr + done.stdout
        self.wrote.append(done.stderr)
        return done.stdout


def child_environment(elsewhere: Path) -> dict[str, str]:
    """Temporary files, the home folder and caches in a folder that is looked through later."""
    return {
        "PATH": "/usr/bin:/bin",
        "TMPDIR": str(elsewhere),
        "HOME": str(elsewhere),
        "XDG_CACHE_HOME": str(elsewhere),
        "PHR_LOG_LEVEL": "debug",
    }


# ------------------------------------------------------------------ the walk, feature by feature


def set_up(stage: Stage) -> None:
    person = stage.person
    form = {"name": SPOKEN["account name"], "password": PASSWORD, "again": PASSWORD}
    form |= {"whose": "other", "person": SPOKEN["person name"], "colour": "2"}
    wrong = form | {"code": SECRET["wrong setup code"]}
    person.send("/setup", "/setup", wrong, status=422)
    kit = person.send("/setup", "/setup", form | {"code": stage.house.code}, "Step 2 of 4")
    groups = re.findall(r">([0-9A-Z]{5})<", kit)
    assert len(groups) == 8
    stage.made["recovery kit"] = groups[3] + "-" + groups[4]
    asked = re.findall(r'name="group(\d)"', kit)
    wrong = {f"group{number}": "QQQQQ" for number in asked}
    person.send("/setup/kit", "/setup/kit", wrong, status=422)
    right = {f"group{number}": groups[int(number) - 1] for number in asked}
    person.send("/setup/kit", "/setup/kit", right)
    start = person.send("/setup/opening", "/setup/opening", {"opens": "itself"})
    stage.made["patient id"] = re.search(r"/p/([0-9a-f]+)/", start)[1]


def fail_to_sign_in(stage: Stage) -> None:
    stranger = stage.browser(stage.house.home)
    for name, password in (
        (SPOKEN["unknown name"], SECRET["wrong password"]),
        (SPOKEN["account name"], SECRET["wrong password"]),
    ):
        form = {"name": name, "password": password}
        stranger.send("/signin", "/signin", form, status=422)
    recovery = {"name": SPOKEN["account name"], "kit": SECRET["wrong kit"]}
    recovery |= {"password": PASSWORD, "again": PASSWORD}
    stranger.send("/recover", "/recover", recovery, status=422)
    form = {"code": SECRET["wrong invitation"], "name": SPOKEN["invited name"]}
    form |= {"password": SECRET["invited password"], "again": SECRET["invited password"]}
    stranger.send("/join", "/join", form, status=422)
    stranger.web.cookies.set("hp-session", SECRET["wrong session"])
    stranger.see("/account", "Sign in")


def second_factor(stage: Stage) -> None:
    person = stage.person
    page = person.send("/account", "/account/totp")
    if "confirm.password" in page:
        page = person.send("/account", "/account/totp", {"confirm.password": PASSWORD})
    secret = re.search(r'id="secret"[^>]*value="([A-Z2-7 ]+)"', page)[1]
    stage.made["second factor"] = secret.replace(" ", "")
    code = pyotp.TOTP(stage.made["second factor"]).at(clock.now())
    person.send("/account/totp", "/account/totp/confirm", {"code": "000000"}, status=422)
    person.send("/account/totp", "/account/totp/confirm", {"code": code})
    other = stage.browser(stage.house.home)
    form = {"name": SPOKEN["account name"], "password": PASSWORD}
    other.send("/signin", "/signin", form, "code")
    other.send("/signin/code", "/signin/code", {"code": "000000"}, status=422)
    kit = {"kit": SECRET["wrong kit"], "code": "000000"}
    person.send("/account", "/account/totp/drop", kit, status=422)
    following = pyotp.TOTP(stage.made["second factor"]).at(clock.now(), counter_offset=1)
    person.send("/account", "/account/totp/drop", {"code": following})


def confirmed(stage: Stage, page: str, path: str, form: dict, *words: str) -> str:
    """Send a form that asks for the password first, when it was not given just now."""
    shown = stage.person.web.post(
        path, data={"csrf": csrf_in(stage.person.web.get(page).text), **form}
    )
    if shown.status_code == 403 and "confirm.password" in shown.text:
        return stage.person.send(page, path, form | {"confirm.password": PASSWORD}, *words)
    return stage.person._seen(shown, words, 200)


def household(stage: Stage) -> None:
    person = stage.person
    form = {"name": SPOKEN["other person"], "whose": "other", "colour": "3", "opens": "1"}
    person.send("/household", "/household/add", form, SPOKEN["other person"])
    where = f"{stage.base}/person"
    page = confirmed(stage, where, f"{stage.base}/members/invite", {"role": "viewer"})
    stage.made["invitation"] = re.search(r'id="code"[^>]*value="([^"]+)"', page)[1]
    guest = stage.browser(stage.house.home)
    form = {"code": stage.made["invitation"], "name": SPOKEN["invited name"]}
    form |= {"password": SECRET["invited password"], "again": SECRET["invited password"]}
    guest.send("/join", "/join", form, "kit")
    person.see(where, SPOKEN["invited name"])


def connect(stage: Stage) -> None:
    person, base = stage.person, f"{stage.base}/connections"
    form = {"base_url": stage.hospital.base, "name": SPOKEN["hospital name"]}
    form |= {"client_id": SPOKEN["client id"], "secret": SECRET["client secret"]}
    form |= {"scopes": "", "audience": "exact", "registered": ""}
    page = person.send(f"{base}/add", f"{base}/add", form, "127.0.0.1")
    away = next(each for each in re.findall(r'href="([^"]+)"', page) if "/auth?" in each)
    state = parse_qs(urlsplit(html.unescape(away)).query)["state"][0]
    stage.made["state"] = state
    stage.hospital.codes = {SECRET["hospital code"]}
    wrong = {"code": SECRET["hospital code"], "state": SECRET["wrong state"]}
    person.web.get("/connect/callback", params=wrong)
    landed = f"{stage.house.home}/connect/callback?code={SECRET['hospital code']}&state=gone"
    person.send("/account", "/connect/paste", {"landed": landed}, status=400)
    refused = {"error": "access_denied", "error_description": SPOKEN["hospital error"]}
    person.web.get("/connect/callback", params=refused)
    right = {"code": SECRET["hospital code"], "state": state}
    answer = person.web.get("/connect/callback", params=right)
    assert answer.status_code == 200, answer.text
    stage.made["connection"] = urlsplit(str(answer.url)).path
    wait_for_pull(stage)
    person.see(f"{stage.base}/results", SPOKEN["lab value"])
    person.see(f"{stage.base}/allergies", SPOKEN["allergy"])


def wait_for_pull(stage: Stage) -> None:
    """Read the live progress until it says that the pull has ended."""
    with stage.person.web.stream("GET", stage.made["connection"] + "/events") as stream:
        assert any("done" in line for line in stream.iter_lines())


def pull_again(stage: Stage) -> None:
    before = stage.hospital.issued
    stage.person.send(stage.made["connection"], stage.made["connection"] + "/pull")
    wait_for_pull(stage)
    assert stage.hospital.issued > before, "no refresh was needed"
    kinds = ("Procedure", "Immunization")
    assert all(stage.hospital.count(kind) for kind in kinds), "the refusals were never heard"
    stage.person.see(stage.made["connection"], SPOKEN["hospital name"])


def read(stage: Stage) -> None:
    person = stage.person
    for section in ("timeline", "medications", "problems", "documents", "visits", "other", "more"):
        person.see(f"{stage.base}/{section}")
    person.see(f"{stage.base}/search?q={SPOKEN['condition note']}", "Hay fever")
    person.see(f"{stage.base}/search?q={SPOKEN['search words']}", SPOKEN["search words"])
    page = person.see(f"{stage.base}/problems")
    record = re.search(r'href="([^"]*/record/Condition/[^"#]+)"', page)[1]
    person.see(record + "/raw", SPOKEN["condition note"])
    person.see(record + "/versions")
    person.send(record, record + "/private", {"on": "1"})
    person.send(record, record + "/private", {"on": ""})
    page = person.see(f"{stage.base}/documents", SPOKEN["document title"])
    record = re.search(r'href="([^"]*/record/DocumentReference/[^"#]+)"', page)[1]
    file = re.search(r'href="([^"]*/file/[^"#]+)"', person.see(record))[1]
    person.see(file.removesuffix("/save").removesuffix("/content"))


def bring_files(stage: Stage) -> None:
    person, where = stage.person, f"{stage.base}/files"
    coded = {"resourceType": "Basic", "id": "x", "code": {"text": SPOKEN["file entry"]}}
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": coded}, {"resource": {SPOKEN["file entry"]: 1}}],
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as parts:
        parts.writestr(SPOKEN["file name"] + "/a.json", json.dumps(bundle))
    name = SPOKEN["file name"]
    for file, data, status in (
        (f"{name}.json", json.dumps(bundle).encode(), 200),
        (f"{name}.zip", packed.getvalue(), 200),
        (f"{name}.ndjson", b'{"resourceType":"' + SPOKEN["file entry"].encode(), None),
        (f"{name}.exe", SPOKEN["file entry"].encode(), None),
    ):
        token = csrf_in(person.web.get(where).text)
        answer = person.web.post(where, data={"csrf": token}, files={"file": (file, data)})
        assert status is None or answer.status_code == status, answer.text
    person.see(where, f"{name}.json")
    person.see(f"{stage.base}/other")


def add_by_hand(stage: Stage) -> None:
    person, where = stage.person, f"{stage.base}/own/add/allergy"
    person.send(where, where, {"note": SPOKEN["own statement"]}, status=422)
    person.send(where, where, {"what": SPOKEN["own statement"]}, SPOKEN["own statement"])
    page = person.see(f"{stage.base}/own")
    own = re.search(r'href="([^"]*/own/AllergyIntolerance/[^"]+)"', page)[1]
    person.send(own, own, {"what": SPOKEN["own statement"] + " again", "do": "save"})
    person.send(own, own, {"do": "undo"}, SPOKEN["own statement"])
    person.see(f"{stage.base}/card", SPOKEN["own statement"])


def take_the_summary_along(stage: Stage) -> None:
    web, where = stage.person.web, f"{stage.base}/summary"
    page = stage.person.see(where, SPOKEN["own statement"])
    kinds = re.findall(r'name="kind" value="(\w+)"', page)
    assert "json" in kinds
    for kind in kinds:
        form = {"csrf": csrf_in(page), "kind": kind, "confirm.password": PASSWORD}
        answer = web.post(where + "/save", data=form)
        assert "attachment" in answer.headers["content-disposition"]
        assert kind == "pdf" or SPOKEN["own statement"] in answer.text


def find_a_hospital(stage: Stage) -> None:
    where = f"{stage.base}/find"
    stage.person.send(where, where, {"q": SPOKEN["hospital searched"]}, SPOKEN["hospital searched"])


def share_by_link(stage: Stage) -> None:
    person, doctor, where = stage.person, stage.doctor, f"{stage.base}/share"
    form = {"what": "everything", "whom": SPOKEN["recipient"], "why": SPOKEN["reason"]}
    form |= {"hours": "24", "uses": "", "print": "1", "download": "1", "send": "1"}
    form["what"] = re.findall(r'name="what" value="(\w+)"', person.see(where))[-1]
    if form["what"] == "chosen":
        form["part"] = re.findall(r'name="part" value="(\w+)"', person.see(where))
    person.send(where, where, form | {"do": "preview"}, SPOKEN["lab value"])
    person.send(where, where, form | {"do": "link", "whom": ""}, status=422)
    page = confirmed(stage, where, where, form | {"do": "link"}, SPOKEN["recipient"])
    link = html.unescape(re.search(r'id="address"[^>]*>?[^>]*?(http[^"<\s]+)', page)[1])
    stage.made["link code"] = re.sub(r"\D", "", re.search(r'class="code[^>]*>(.*?)</p>', page)[1])
    stage.made["link secret"] = link.rpartition(".")[2]
    path = urlsplit(link).path
    doctor.send(path, path, {"code": "000000"}, status=403)
    doctor.send(path, path, {"code": "no number at all"}, status=400)
    doctor.send(path, path, {"code": stage.made["link code"]}, SPOKEN["allergy"])
    other = stage.browser(stage.house.public)
    other.send(path, path, {"code": stage.made["link code"]}, status=409)
    inside = path.rpartition(".")[0]
    stage.made["door"] = inside
    doctor.see(f"{inside}/results", SPOKEN["lab value"])
    doctor.see(f"{inside}/print", SPOKEN["allergy"])
    doctor.see(f"{inside}/record.json", SPOKEN["lab value"])
    doctor.see(f"{inside}/{SPOKEN['wrong address']}?q={SPOKEN['wrong address']}", status=404)
    person.see(f"{stage.base}/grants", SPOKEN["recipient"])
    person.see(f"{stage.base}/activity", SPOKEN["recipient"])


def send_back(stage: Stage) -> None:
    """A doctor sends words and files; the patient reads, lets them in, and takes that back."""
    person, doctor, where = stage.person, stage.doctor, f"{stage.made['door']}/send"
    words, name = SPOKEN["words sent"], SPOKEN["file sent"]
    typed = {"title": words, "note": words, "signed": words}
    for content, status in ((b"<html>no</html>", 422), (b"%PDF-1.4 " + words.encode(), 200)):
        form = {"csrf": csrf_in(doctor.web.get(where).text), **typed}
        answer = doctor.web.post(where, data=form, files={"file": (f"{name}.pdf", content)})
        assert answer.status_code == status
    inbox = f"{stage.base}/inbox"
    page = person.see(inbox, words)
    for at in dict.fromkeys(re.findall(r'href="([^"]+/inbox/[0-9a-f]{32})"', page)):
        person.see(at, words)
        person.send(at, at, {"do": "accept"})
        person.send(at, at, {"do": "accept"}, status=422)
    person.see(f"{stage.base}/documents", words)
    person.send(at, at, {"do": "undo"})


def paper_and_stop(stage: Stage) -> None:
    person, where = stage.person, f"{stage.base}/share"
    form = {"what": "primary", "whom": SPOKEN["recipient"], "hours": "1", "do": "paper"}
    form |= {"print": "1", "download": "1"}
    confirmed(stage, where, where, form, SPOKEN["allergy"])
    page = person.see(f"{stage.base}/grants")
    for stop in re.findall(r'action="([^"]+/stop)"', page):
        person.send(f"{stage.base}/grants", stop)
    stage.doctor.see(stage.made["door"], status=410)


def export(stage: Stage) -> None:
    where = f"{stage.base}/files"
    token = csrf_in(stage.person.web.get(where).text)
    form = {"csrf": token, "confirm.password": PASSWORD}
    answer = stage.person.web.post(where + "/export", data=form)
    assert answer.headers["content-type"] == "application/zip"
    assert {"lab value", "allergy", "file entry"} <= Scanner().hits(answer.content)


def back_up(stage: Stage) -> None:
    person = stage.person
    person.send("/admin", "/admin/backup", {}, "backed up and verified")
    restore = re.search(r'href="([^"]*/admin/restore/[^"]+)"', person.see("/admin"))[1]
    person.see(restore, "restore this record")
    form = {"words": "restore this record", "member": SECRET["wrong password"]}
    confirmed_form = form | {"confirm.password": PASSWORD, "kit": SECRET["wrong kit"]}
    person.send(restore, restore, confirmed_form, status=422)
    person.see("/admin/check")


def provoke_faults(stage: Stage) -> None:
    person, wrong = stage.person, SPOKEN["wrong address"]
    person.see(f"/{wrong}?q={wrong}", status=404)
    person.see(f"{stage.base}/record/Condition/{wrong}", status=404)
    person.see(f"{stage.base}/connections/{wrong}?{wrong}={wrong}", status=404)
    answer = person.web.post(f"{stage.base}/share", data={"whom": SPOKEN["recipient"]})
    assert answer.status_code == 403  # no token
    headers = {"content-type": f"multipart/form-data; boundary={wrong}"}
    answer = person.web.post(f"{stage.base}/files", content=wrong.encode() * 99, headers=headers)
    assert 400 <= answer.status_code < 500
    with no_room(stage.house):
        token = csrf_in(person.web.get(f"{stage.base}/files").text)
        file = (SPOKEN["file name"], SPOKEN["file entry"].encode() * 200_000)
        where = f"{stage.base}/files"
        answer = person.web.post(where, data={"csrf": token}, files={"file": file})
        assert answer.status_code >= 500
    person.see(f"{stage.base}/files")


@contextmanager
def no_room(house: Running) -> Iterator[None]:
    """Let no file of the process grow much beyond the log, as on a full disk."""
    log = house.data.parent / f"{house.data.name}.log"
    limit = log.stat().st_size + 200_000
    before = resource.prlimit(house.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(house.process.pid, resource.RLIMIT_FSIZE, (limit, before[1]))
    yield
    resource.prlimit(house.process.pid, resource.RLIMIT_FSIZE, before)


def command_line(stage: Stage) -> None:
    whose = ("--patient", SPOKEN["person name"])
    assert SPOKEN["lab value"] in stage.cli("chart", "results", *whose)
    assert SPOKEN["recipient"] in stage.cli("activity", *whose)
    stage.cli("grant", "list", *whose)
    file = stage.house.data.parent / f"{SPOKEN['file name']}.ndjson"
    file.write_text(f'{{"resourceType":"Basic","id":"{SPOKEN["file entry"]}"}}\n{{"broken":')
    stage.cli("import", str(file), *whose, "--json")
    stage.cli("chart", "results", "--patient", SPOKEN["unknown name"], code=1)
    secret = stage.house.data.parent / "unlock"
    secret.write_text(SECRET["wrong password"])
    options = ("--unlock-file", str(secret), "--account", SPOKEN["account name"])
    stage.cli("activity", *whose, *options, code=1)
    stage.cli("pull", *whose)
    stage.cli("backup", *whose)
    stage.cli("check")


def sign_out(stage: Stage) -> None:
    stage.made["session"] = next(value for _, value in stage.person.web.cookies.items())
    stage.made["form token"] = csrf_in(stage.person.web.get("/account").text)
    stage.person.send("/account", "/signout", {}, "signed out")


FEATURES = (
    set_up,
    fail_to_sign_in,
    second_factor,
    household,
    connect,
    pull_again,
    read,
    bring_files,
    add_by_hand,
    take_the_summary_along,
    find_a_hospital,
    share_by_link,
    send_back,
    paper_and_stop,
    export,
    back_up,
    provoke_faults,
    command_line,
    sign_out,
)


def push_to_folder(stage: Stage) -> None:
    """Send a parcel to the outbox; there is no page for it yet, so the house is opened here."""
    appliance = Appliance.open(Settings(data=stage.house.data))
    said = io.StringIO()
    logs.configure("debug", said)
    try:
        now = clock.now()
        vault = appliance.vault(stage.made["patient id"])
        ways = channels.opened(stage.house.data / "outbox")
        wish = links.Wish(
            recipient=SPOKEN["folder recipient"],
            reason=SPOKEN["reason"],
            role="primary",
            provision=provision.preset("primary", now=now),
            ends_at=now + timedelta(hours=1),
            uses=None,
        )
        delivery_id = push.begin(
            vault,
            wish,
            channel=ways["folder"],
            address="visit",
            grant_id="a" * 32,
            step_up=grants.StepUp("someone", "password", now),
            shown=SPOKEN["folder recipient"],
            actor={"kind": "account", "id": "someone", "name": SPOKEN["account name"]},
            now=now,
        )
        due = push.run_due(vault, channels=ways, public_url=stage.house.public, now=clock.now())
        assert due == 1
        with vault.read() as session:
            delivery = session.get_one(Delivery, delivery_id)
            assert delivery.state == DeliveryState.SENT, (delivery.sentence, said.getvalue())
        gate.end(vault, "a" * 32, "patient", {"kind": "appliance"}, now=now)
    finally:
        appliance.close()
        logs.configure("warning")
    stage.wrote.append(said.getvalue())


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """The whole walk once: every feature ran, and the process has ended."""
    folder = tmp_path_factory.mktemp("canary")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    hospital = CanaryHospital()
    hospital.server = RawServer(hospital.reply)
    hospital.records = hospital_records()
    hospital.files = {"Binary/b1": SPOKEN["document text"].encode()}
    hospital.faults = {"Procedure": complains, "Immunization": breaks}
    environment = child_environment(elsewhere) | {"PHR_LAN_HOSTS": hospital.server.place}
    environment.pop("PATH")
    try:
        with running(folder / "data", **environment) as house:
            stage = Stage(house, hospital, elsewhere)
            try:
                for feature in FEATURES:
                    feature(stage)
                    stage.ran.add(feature.__name__)
            finally:
                stage.close()
            house.process.terminate()
            stage.wrote.append(house.process.stdout.read())
            house.process.wait(15)
            push_to_folder(stage)
        stage.wrote.append((folder / "data.log").read_text())
        yield stage
    finally:
        hospital.server.close()


@pytest.fixture(scope="module")
def scanner(walked):
    """Looks for the canaries that went in and for the secrets that the product made itself."""
    secrets = {name: walked.made[name] for name in MADE}
    return Scanner(SPOKEN | SECRET | secrets)


MADE = (
    "recovery kit",
    "second factor",
    "invitation",
    "state",
    "link code",
    "link secret",
    "session",
    "form token",
)


def test_every_feature_ran_and_made_its_secret(walked, scanner):
    assert walked.ran == {feature.__name__ for feature in FEATURES}
    assert len(scanner.canaries) >= 20
    assert all(len(walked.made[name]) >= 6 for name in MADE)
    assert {answer.status_code for answer in walked.faults} >= {400, 403, 404, 422, 500}


def test_no_canary_in_anything_the_process_wrote(walked, scanner):
    wrote = "\n".join(walked.wrote)

    assert "request.failed" in wrote  # the provoked fault was noted
    assert "event=pull." in wrote
    assert leaks(wrote, scanner) == []


def leaks(wrote: str, scanner: Scanner) -> list[str]:
    """Return the lines with a canary; a command's sentence to its caller may repeat a name."""
    found = []
    for line in wrote.splitlines():
        allowed = set() if line.startswith("at=") else SPOKEN.keys()
        if scanner.hits(line.encode()) - allowed:
            found.append(line)
    return found


OWN_FORM = {  # a wrong code is shown for mending where it was typed; a secret to enrol, again
    "/setup": {"wrong setup code"},
    "/join": {"wrong invitation"},
    "/recover": {"wrong kit"},
    "/account/totp/confirm": {"second factor"},
}


def test_no_canary_on_an_error_page(walked, scanner):
    """A form shown again may hold what was typed into it, but never a password."""
    found = {}
    for answer in walked.faults:
        hits = scanner.hits(said(answer).encode())
        if answer.status_code == 422 or 'name="confirm.' in answer.text:
            hits -= SPOKEN.keys() | OWN_FORM.get(answer.url.path, set())
        if hits:
            found[f"{answer.status_code} {answer.request.method} {answer.url.path}"] = hits
    assert found == {}


def said(answer: httpx.Response) -> str:
    """Return a page without the names of one's own people to go to, and where its forms lead."""
    page = re.sub(
        r'<title>.*?</title>|<header class="top.*?</header>|<a .*?</a>',
        "",
        answer.text,
        flags=re.DOTALL,
    )
    page = re.sub(r'(?<=name="csrf" value=)"[^"]*"|(?<= action=)"[^"]*"', "", page)
    return html.unescape(page)


def test_no_canary_in_an_outgoing_address_or_header(walked, scanner):
    assert len(walked.hospital.asked) > 20
    assert scanner.hits(walked.hospital.outgoing()) == set()


def test_no_canary_in_any_file_below_the_data_folder(walked, scanner):
    data = walked.house.data

    assert len(list(data.rglob("*.db"))) >= 3
    assert scanner.hits_below(data, leave_out=[data / "outbox"]) == {}


def test_no_canary_in_temporary_files_or_the_home_folder(walked, scanner):
    assert scanner.hits_below(walked.elsewhere) == {}


def test_the_same_scanner_finds_what_is_planted(walked, scanner, tmp_path):
    """The positive control: the outbox, a plain file, a log line, a careless error page."""
    outbox = scanner.hits_below(walked.house.data / "outbox")
    assert {"allergy", "patient family"} <= set().union(*outbox.values())

    (tmp_path / "vaults").mkdir()
    (tmp_path / "vaults" / "notes.tmp").write_bytes(b"\0\1" + SPOKEN["recipient"].encode())
    assert scanner.hits_below(tmp_path) == {"vaults/notes.tmp": {"recipient"}}

    line = f"at=now event=signin.failed name={walked.made['link secret']}"
    assert scanner.hits(line.encode()) == {"link secret"}
