"""Pages that only come as the answer to a form or to a mistake: valid HTML, axe, 320 px.

People go through every form of the house in this process; each page that is answered is kept as it
was sent, and drawn once more in Chromium. A form of the house that nobody sends here is named.
"""

import json
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pyotp
import pytest
import time_machine
from cryptography.hazmat.primitives.serialization import Encoding
from playwright.sync_api import Route

from phr import clock, consented, ids, jwt
from phr.appliance import Appliance
from phr.fhir import references
from phr.settings import Settings
from phr.sharing import clients, consent, consents, inbox, letterbox, servers
from phr.sharing.gate import Standing
from phr.sharing.letterbox import Outcome
from phr.sharing.sent import Sent
from phr.store import slots
from phr.store.arrived import Mail
from phr.store.models import Grant, LetterState
from phr.web.app import create_home_app
from phr.web.look import read_static
from tests.cast import HOME, PASSWORDS, Browser, Cast, csrf_in, populate
from tests.e2e.test_pages import AXE, ROOT, in_every_look, invalid_html, kind_of
from tests.fakes import shl_host
from tests.fakes.forms import forms, links, send
from tests.fixtures_direct import Authority
from tests.fixtures_sharing import a_record, another_record, keep_all
from tests.integration.test_consents import a_consent, permit

STATIC = read_static()
ROUTES = ROOT / "tests" / "integration" / "routes.txt"
NEW_PASSWORD = "quite a few new words here"
SHARE = {"what": "primary", "hours": "24", "whom": "Dr. Pell", "print": "1", "download": "1"}
LATE = ("shred", "seal", "signout", "stop", "remove", "leave", "end", "drop", "block", "account")
PROGRAMS = ("/oauth/", "/fhir/", "/h/")  # answers to programs, not to people


@dataclass(frozen=True)
class Page:
    """One page as it was answered, and how it came."""

    kind: str
    url: str
    html: str


@dataclass
class Album:
    """Keeps one page of each kind, and which forms were sent."""

    pages: dict[str, Page] = field(default_factory=dict)
    sent: set[str] = field(default_factory=set)

    def note(self, answer: httpx.Response) -> None:
        """Keep an answer if it is a page of ours."""
        asked = answer.request
        if asked.method == "POST":
            self.sent.add(asked.url.path)
        policy = answer.headers.get("content-security-policy", "")
        if "text/html" not in answer.headers.get("content-type", "") or "sandbox" in policy:
            return
        answer.read()
        if not answer.text:  # leads on
            return
        title = re.search(r"<title>(.*?)</title>", answer.text, re.DOTALL)
        said = len(re.findall(r'role="(?:alert|status)"', answer.text))
        kind = f"{asked.method} {answer.status_code} {kind_of(asked.url.path)}"
        kind = f"{kind} ({title[1] if title else ''}; {said})"
        self.pages.setdefault(kind, Page(kind, str(asked.url), answer.text))


class Walk:
    """One person in one browser, whose every answer goes into the album."""

    def __init__(self, web: Browser, album: Album) -> None:
        self.web, self.album = web, album
        web.event_hooks = {"response": [album.note]}
        web.follow_redirects = True

    def see(self, path: str) -> httpx.Response:
        """Open a page."""
        return self.web.get(path)

    def send(self, path: str, form: dict[str, Any] | None = None, page: str = "/account") -> Any:
        """Send a form with the token of the page it stands on."""
        token = csrf_in(self.web.get(page).text)
        return self.web.post(path, data={"csrf": token, **(form or {})})

    def press_everything(self, *starts: str, skip: tuple[str, ...] = LATE) -> None:
        """Follow the links and send each kind of form as it stands, typing nothing into it."""
        waiting, seen, pressed = list(starts), set(), set()
        while waiting:
            path = urlsplit(waiting.pop(0)).path
            kind = kind_of(path)
            if kind in seen or not path.startswith("/") or "/signout" in path:
                continue
            seen.add(kind)
            page = self.see(path)
            if "text/html" not in page.headers.get("content-type", ""):
                continue
            waiting += [str(page.url.join(link)) for link in links(page.text) if _is_own(link)]
            for form in forms(page.text):
                action = kind_of(urlsplit(form.action).path)
                late = set(action.split("/")) & set(skip)
                if form.method != "post" or late or action in pressed:
                    continue
                pressed.add(action)
                for name, value in form.buttons or [("", "")]:
                    send(self.web, self.see(path), form, **({name: value} if name else {}))


def _is_own(link: str) -> bool:
    return link.startswith(("/", HOME + "/")) and not link.startswith("//")


# ------------------------------------------------------------------ the walks


def first_run(walk: Walk, code: str) -> None:
    form = {"code": "WRONG", "name": "Ada", "password": "short", "again": "other"}
    form |= {"whose": "me", "colour": "2"}
    walk.see("/")
    walk.send("/setup", form, page="/setup")
    form |= {"password": NEW_PASSWORD, "again": NEW_PASSWORD, "code": code}
    page = walk.send("/setup", form, page="/setup").text
    wrong = dict.fromkeys(re.findall(r'name="(group\d)"', page), "QQQQQ")
    walk.send("/setup/kit", wrong, page="/setup/kit")
    walk.send("/setup/kit", kit_typed_back(page), page="/setup/kit")
    walk.send("/setup/opening", {"opens": "neither"}, page="/setup/opening")
    walk.send("/setup/opening", {"opens": "itself"}, page="/setup/opening")
    walk.press_everything("/setup/start")


def kit_typed_back(page: str) -> dict[str, str]:
    groups = re.findall(r"<code>(\w+)</code>", page)
    asked = re.findall(r'name="group(\d)"', page)
    return {f"group{number}": groups[int(number) - 1] for number in asked}


def who_cannot_get_in(walk: Walk) -> None:
    walk.see("/account")
    wrong = {"name": "Ada", "password": "wrong wrong wrong"}
    walk.send("/signin", wrong, page="/signin")
    again = {"password": NEW_PASSWORD, "again": NEW_PASSWORD}
    walk.send("/recover", {"name": "Ada", "kit": "QQQQQ", **again}, page="/recover")
    walk.send("/join", {"code": "WRONG", "name": "Mallory", **again}, page="/join")
    for _ in range(8):  # until it has to wait
        walk.send("/signin", {"name": "Nobody", "password": "wrong"}, page="/signin")


def mistakes(walk: Walk, base: str) -> None:
    walk.see("/nothing/here")
    walk.see(f"{base}/record/Condition/0000000000000000")
    walk.web.post("/account/password", data={"old": "x"})  # without the token of a form
    walk.web.request("DELETE", "/account")
    walk.web.post("/account/password", content=b"{}", headers={"content-type": "text/plain"})
    walk.see(f"{base}/results?page=-1")
    walk.see("/connect/callback?state=gone&code=x")
    walk.send("/account/confirm", {"next": "/account", "confirm.password": "wrong"})
    for gone in (
        "/admin/catalogue",
        "/admin/catalogue/confirm",
        "/apps/ask/none",
        "/apps/none/block",
        "/apps/none/remove",
        "/apps/none/unblock",
        f"{base}/apps/none",
        f"{base}/apps/none/open",
        f"{base}/connections/99/follow",
        f"{base}/find/keys",
        f"{base}/find/none/none",
        f"{base}/record/Condition/0000000000000000/apart",
        f"{base}/record/Condition/0000000000000000/undo",
    ):
        walk.send(gone)


def files(walk: Walk, base: str) -> None:
    good = b'{"resourceType":"Observation","id":"n1","status":"final","code":{"text":"Sodium"}}\n'
    for name, content in (
        ("some.ndjson", good + b'{"resourceType":"Nothing"}\n'),
        ("other.exe", b"MZ"),
        ("empty.json", b""),
    ):
        token = csrf_in(walk.see(f"{base}/files").text)
        walk.web.post(f"{base}/files", data={"csrf": token}, files={"file": (name, content)})
    walk.send(f"{base}/files/export")


def second_factor(walk: Walk, other: Walk) -> None:
    page = walk.send("/account/totp").text
    secret = re.search(r'id="secret"[^>]*value="([^"]+)"', page)[1].replace(" ", "")
    walk.send("/account/totp/confirm", {"code": "000000"}, page="/account/totp")
    earlier = pyotp.TOTP(secret).at(clock.now(), counter_offset=-1)
    walk.send("/account/totp/confirm", {"code": earlier}, page="/account/totp")
    other.send("/signin", {"name": "Ada", "password": PASSWORDS["Ada"]}, page="/signin")
    other.send("/signin/code", {"code": "000000"}, page="/signin/code")
    with time_machine.travel(clock.now() + timedelta(minutes=6), tick=True):
        walk.see("/account/kit")
        walk.send("/account/kit", {"confirm.totp": "000000"})
    walk.send("/account/totp/drop", {"kit": "QQQQQ", "code": "000000"})
    code = pyotp.TOTP(secret).at(clock.now())
    walk.send("/account/totp/drop", {"code": code})


def household(walk: Walk, guest: Walk, cast: Cast) -> None:
    base = f"/p/{cast.patients['Ada']}"
    walk.send("/household/add", {"name": "", "whose": "other", "colour": "3"})
    walk.send("/household/add", {"name": "Fay", "whose": "other", "colour": "3", "opens": "1"})
    page = walk.send(f"{base}/members/invite", {"role": "viewer"}).text
    code = re.search(r'id="code" class="code" value="([^"]+)"', page)[1]
    new = {"password": NEW_PASSWORD, "again": NEW_PASSWORD}
    page = guest.send("/join", {"code": code, "name": "Dora", **new}, page="/join").text
    guest.send("/join/kit", {}, page="/join/kit")
    guest.send("/join/kit", kit_typed_back(page), page="/join/kit")
    guest.see("/join/wait")
    page = walk.see(f"{base}/person").text
    waiting = re.search(r'name="invitation" value="([^"]+)"', page)[1]
    wrong = {"invitation": waiting, "fingerprint": "AAAA BBBB CCCC DDDD"}
    walk.send(f"{base}/members/confirm", wrong)
    walk.send(f"{base}/members/withdraw", {"invitation": waiting})
    walk.send(f"{base}/members/role", {"account": cast.accounts["Cleo"], "role": "proxy"})
    walk.send(f"{base}/members/remove", {"account": cast.accounts["Ada"]})
    walk.send(f"{base}/person", {"name": ""})


def shares(walk: Walk, doctor: Walk, second: Walk, base: str) -> None:
    where = f"{base}/share"
    for do in ("count", "preview"):
        walk.send(where, SHARE | {"do": do}, page=where)
    walk.send(where, SHARE | {"do": "link", "whom": ""}, page=where)
    with time_machine.travel(clock.now() + timedelta(minutes=6), tick=True):
        walk.send(where, SHARE | {"do": "link"}, page=where)
        typed = SHARE | {"do": "link", "confirm.password": "wrong"}
        walk.send(where, typed, page=where)
    once = re.search(r'name="once" value="([0-9a-f]{32})"', walk.see(where).text)[1]
    made = walk.send(where, SHARE | {"do": "link", "once": once}, page=where).text
    walk.send(where, SHARE | {"do": "link", "once": once}, page=where)
    walk.send(where, SHARE | {"do": "paper"}, page=where)
    link = re.search(r'value="(http[^"]*/s/[^"]+)"', made)[1]
    code = re.sub(r"\D", "", re.search(r"<b>(\d{3} \d{3})</b>", made)[1])
    walk.send(f"{base}/card", {"link": link, "code": code})
    path = urlsplit(link).path
    for typed in ("000000", "no number", code):
        doctor.send(path, {"code": typed}, page=path)
    second.send(path, {"code": code}, page=path)
    inside = path.rpartition(".")[0]
    for part in ("/results", "/print", "/nothing", "/record/Condition/0000000000000000"):
        doctor.see(inside + part)
    walk.press_everything(f"{base}/grants", skip=(*LATE, "share"))
    for stop in re.findall(r'action="([^"]+/stop)"', walk.see(f"{base}/grants").text):
        walk.send(stop, page=f"{base}/grants")
    doctor.see(inside)
    doctor.see("/s/" + "0" * 32 + ".x")


def sends(walk: Walk, doctor: Walk, base: str) -> None:
    """A doctor sends things back; the patient reads, decides, and changes her mind."""
    where, inbox = f"{base}/share", f"{base}/inbox"
    made = walk.send(where, SHARE | {"do": "link", "send": "1", "whom": "Dr. Moss"}, page=where)
    path = urlsplit(re.search(r'value="(http[^"]*/s/[^"]+)"', made.text)[1]).path
    code = re.sub(r"\D", "", re.search(r"<b>(\d{3} \d{3})</b>", made.text)[1])
    doctor.send(path, {"code": code}, page=path)
    send = f"{path.rpartition('.')[0]}/send"
    doctor.send(send, {"title": "Advice"}, page=send)
    for note in ("Drink more", "Drink more", "Sleep more", "Walk more"):
        doctor.send(send, {"note": note, "signed": "A. Moss"}, page=send)
    waiting = re.findall(r'href="([^"]+/inbox/[0-9a-f]{32})"', walk.see(inbox).text)
    first, second, third = dict.fromkeys(waiting)
    walk.send(first, {"do": "nothing"}, page=first)
    walk.send(first, {"do": "accept"}, page=first)
    walk.send(first, {"do": "accept"}, page=first)
    walk.send(second, {"do": "reject"}, page=second)
    walk.send(third, {"do": "always"}, page=third)
    walk.see(inbox)
    walk.see(first)
    mine = re.findall(r'href="([^"]+/send/[0-9a-f]{32})"', doctor.see(send).text)
    doctor.see(mine[0])
    doctor.send(f"{mine[0]}/withdraw", page=send)
    walk.press_everything(inbox, skip=(*LATE, "share"))
    rule = re.search(r'action="([^"]+/inbox/rules/\d+)"', walk.see(inbox).text)
    walk.send(rule[1] if rule else f"{inbox}/rules/1", page=inbox)


def health_links(walk: Walk, base: str) -> None:
    for do in ("health", "scan"):
        walk.send(f"{base}/share", SHARE | {"do": do}, page=f"{base}/share")
    walk.see(f"{base}/grants")


def emergency(walk: Walk, finder: Walk, base: str) -> None:
    where = f"{base}/emergency"
    walk.send(where, {"weekly": "99"}, page=where)
    made = walk.send(where, {"weekly": "1", "also": "mental"}, page=where).text
    address = re.search(r'value="(http[^"]*/e/[^"]+)"', made)[1]
    walk.send(f"{base}/card", {"link": address})
    card = urlsplit(address).path
    for name in ("", "Dr. Quick", "Dr. Quick"):  # nobody; opened; too often
        finder.send(card, {"name": name, "reason": "Found unconscious"}, page=card)
    finder.see("/s/" + card.removeprefix("/e/").partition(".")[0])
    walk.send(f"{where}/card", page=where)
    walk.see(f"{base}/grants")
    walk.send(f"{where}/off", page=where)
    finder.see(card)


def direct(walk: Walk, cast: Cast, base: str) -> None:
    where, once = f"{base}/direct", ids.new_id()
    cast.appliance.http.guard.name_servers = [("127.0.0.1", 9)]  # nobody answers there
    box = {"address": "ada@home.test", "mode": "sta", "host": "mail.home.test", "port": "25"}
    for form in (box | {"address": "no"}, box):
        walk.send(where, form, page=where)
    root = Authority("Clinic root").certificate.public_bytes(Encoding.PEM)
    for file in (b"no certificate", root):
        token = csrf_in(walk.see(where).text)
        form = {"csrf": token, "direction": "out"}
        walk.web.post(f"{where}/trust", data=form, files={"file": ("x.pem", file)})
    share = f"{base}/share"
    form = {"by": "direct", "to": "dr.pell@direct.clinic.test", "whom": "Dr. Pell", "hours": "720"}
    for more in ({"to": "nobody"}, {"do": "direct"}, {"whom": "", "do": "direct"}):
        walk.send(share, form | {"do": "check"} | more, page=share)
    walk.send(f"{where}/test", page=where)
    walk.see(where)
    closed = {"host": "127.0.0.1", "port": "9"}  # nobody listens there
    provider = {"mode": "hisp", "login": "me", "secret": "x", "imap_host": "127.0.0.1"}
    walk.send(where, box | provider, page=where)  # no port
    provider |= {"imap_port": "9", "imap_login": "me", "imap_secret": "x"} | closed
    walk.send(where, box | provider, page=where)
    walk.send(f"{where}/look", page=where)
    walk.send(share, form | {"do": "check"}, page=share)
    walk.send(share, form | {"do": "direct", "once": once}, page=share)
    walk.see(f"{base}/grants/{once}")
    walk.see(f"{base}/grants")
    walk.send(where, box, page=where)
    for key in ("short", "long enough for a file"):
        walk.send(f"{where}/export", {"key": key, "again": key}, page=where)
    walk.send(f"{where}/renew", page=where)
    walk.send(f"{where}/distrust", {"anchor": "1"}, page=where)
    walk.send(f"{base}/grants/{once}/stop", page=where)
    walk.see(f"{where}/zone.txt")
    mail(walk, cast, base)


def mail(walk: Walk, cast: Cast, base: str) -> None:
    """One mail that is taken in, accepted and rejected; one that nobody is trusted for."""
    vault, now = cast.vault("Ada"), clock.now()
    doctor = "dr.pell@direct.clinic.test"
    sent = Sent(b"Please read this.", title="Results", is_note=True, way=inbox.DIRECT)
    note = inbox.receive_from(
        vault,
        lambda session: letterbox.sender(session, doctor, "of his key", now=now),
        sent,
        now=now,
    ).id
    signer = Authority("Clinic root").issue(doctor).public_bytes(Encoding.DER)
    with vault.write() as session:
        for outcome in (
            Outcome(LetterState.TAKEN, subject="Results", certificate=signer, arrivals=(note,)),
            Outcome(LetterState.REFUSED, "Nobody you trust stands behind this certificate."),
        ):
            raw = Mail(doctor, ("ada@home.test",), now, outcome.state.encode())
            letterbox.keep(session, vault, raw, "ada@home.test", outcome, now=now)
        taken, refused = (
            letterbox.listed(session, each)[0].id
            for each in (LetterState.TAKEN, LetterState.REFUSED)
        )
    walk.see(f"{base}/inbox")
    for letter, steps in ((taken, ("nothing", "accept", "reject")), (refused, ("again", "again"))):
        walk.see(f"{base}/inbox/mail/{letter}")
        for step in steps:
            walk.send(f"{base}/inbox/mail/{letter}", {"do": step}, page=f"{base}/inbox")


def brought(walk: Walk, cast: Cast, base: str) -> None:
    where = f"{base}/files/link"
    shot = {"resourceType": "Immunization", "status": "completed", "vaccineCode": {"text": "Flu"}}
    with shl_host.running() as host:
        cast.appliance.http.guard.allow(f"127.0.0.1:{host.port}")
        card = host.card([shot])
        for text in ("", "shlink:/x", host.link(flag="P"), card):  # nothing, cut off, asks, doubted
            walk.send(where, {"text": text}, page=where)
        host.publish()
        page = walk.send(where, {"text": card}, page=where)
        shown = page.text.partition('name="shown" value="')[2].partition('"')[0]
        walk.send(f"{where}/keep", page=where)  # not what was shown
        walk.send(f"{where}/keep", {"shown": shown}, page=where)
        walk.send(f"{where}/keep", page=where)
    shown = re.search(r'href="([^"]+/files/card/[^"]+)"', walk.see(where).text)
    walk.see(shown[1])


def sealed(walk: Walk, doctor: Walk, base: str) -> None:
    where = f"{base}/share"
    made = walk.send(where, SHARE | {"do": "link"}, page=where).text
    path = urlsplit(re.search(r'value="(http[^"]*/s/[^"]+)"', made)[1]).path
    walk.send(f"{base}/person/opens", {"opens": "sealed"})
    walk.send(f"{base}/person/seal")
    doctor.see(path)
    walk.see(f"{base}/results")
    walk.send("/unlock", {"password": "wrong", "next": f"{base}/"}, page="/unlock")
    walk.send("/unlock", {"password": PASSWORDS["Ada"], "next": f"{base}/"}, page="/unlock")


def backups(walk: Walk) -> None:
    page = walk.send("/admin/backup").text
    where = re.search(r'href="([^"]*/admin/restore/[^"]+)"', page)[1]
    walk.send(where, {"words": "no"}, page=where)


def proposals(walk: Walk, cast: Cast, base: str) -> None:
    """An app proposes: one is refused, one approved, one fetch fails and is refused."""
    vault, now, where = cast.vault("Ada"), clock.now(), f"{base}/consents"
    says = clients.read({"client_name": "Errands", "redirect_uris": ["https://app.example.org/x"]})
    app = clients.register(cast.appliance.house, says, by=cast.accounts["Ada"])
    by = Standing("", app.id, Grant(id=ids.new_id()), "Errands")
    label = {"system": consent.ACT_CODE, "code": "PSY"}
    inside = {"type": "deny", "provision": [permit("Observation", securityLabel=[label])]}
    body = json.dumps(a_consent(references.patient_id(vault.id_key), provision=inside)).encode()
    first, second = (consents.propose(vault, by, body, now=now) for _ in range(2))
    walk.see(where)
    walk.see(f"{where}/{first}")
    walk.send(f"{where}/{first}", {"do": "refuse"}, page=where)
    walk.send(f"{where}/{first}", {"do": "refuse"}, page=where)
    server = servers.with_key(json.dumps(jwt.public_half(jwt.new_key("ES384"))))
    consents.authorize(vault, by, second, server, None, now=now)
    page = f"{where}/{second}"
    walk.send(page, {"do": "nothing"}, page=page)
    walk.send(page, {"do": "allow"}, page=page)
    walk.send(page, {"do": "allow", "line": "patient/Observation.rs"}, page=page)
    cast.appliance.http.guard.allow("127.0.0.1:9")  # nobody listens there
    closed = "http://127.0.0.1:9/fhir"
    asked = consented.ask(vault, by, closed, "1", http=cast.appliance.http, now=now)
    walk.see("/apps")
    walk.see(where)
    walk.send(f"{base}/fetches/{asked.id}", {"do": "allow"}, page=where)
    walk.send(f"{base}/fetches/{asked.id}", {"do": "refuse"}, page=where)
    walk.send(f"{base}/fetches/{asked.id}", {"do": "refuse"}, page=where)


def tickets_of_servers(walk: Walk, base: str) -> None:
    """A ticket is made for a key, looked at, and cannot be used here; a Consent is brought."""
    key = json.dumps(jwt.public_half(jwt.new_key("ES384")))
    share, where = f"{base}/share", f"{base}/ticket"
    form = {"what": "primary", "hours": "24", "once": ids.new_id(), "do": "ticket"}
    walk.send(share, form, page=share)
    made = walk.send(share, form | {"server": key}, page=share).text
    ticket = re.search(r"<textarea[^>]*readonly[^>]*>([^<]+)<", made)[1]
    walk.see(where)
    walk.send(where, {"ticket": "nonsense"}, page=where)
    walk.send(where, {"ticket": ticket}, page=where)
    walk.send(where, {"ticket": ticket, "do": "fetch"}, page=where)
    page = f"{base}/consents"
    walk.send(page, {"text": "{}", "server": key}, page=page)
    page = f"{base}/between"
    walk.send(page, {"do": "add", "base_url": "http://10.0.0.1/fhir"}, page=page)
    walk.send(page, {"do": "start"}, page=page)


def own_words(walk: Walk, base: str) -> None:
    where = f"{base}/own/add/allergy"
    walk.send(where, {"note": "only a note"}, page=where)
    walk.send(where, {"what": "Latex"}, page=where)
    page = walk.see(f"{base}/medications").text
    record = re.search(r'href="([^"]*/record/MedicationRequest/[^"#]+)"', page)[1]
    walk.send(f"{base}/own/not-taken/{record.partition('/record/')[2]}", page=record)
    walk.send(f"{record}/private", {"on": "1"}, page=record)
    walk.send(f"{record}/same", {}, page=record)


def hospitals(walk: Walk, base: str) -> None:
    add = f"{base}/connections/add"
    typed = {"name": "North", "client_id": "x", "audience": "exact", "scopes": "", "secret": ""}
    walk.send(add, typed | {"base_url": "http://10.0.0.1/fhir"}, page=add)
    walk.send("/connect/paste", {"landed": "https://x.example/?code=1&state=gone"})
    walk.send(f"{base}/find", {"q": "north"}, page=f"{base}/find")


def at_last(walk: Walk, cast: Cast) -> None:
    """What ends something, each on its page and then done."""
    base, ben = f"/p/{cast.patients['Ada']}", f"/p/{cast.patients['Ben']}"
    page = walk.see(f"{base}/connections").text
    one = re.search(r'href="([^"]*/connections/\d+)"', page)[1]
    for step in ("pull", "pause", "resume", "sign-in", "interface"):
        walk.send(f"{one}/{step}", page=one)
    walk.send(f"{one}/remove", {"records": "keep"}, page=f"{one}/remove")
    walk.send("/admin/account", {"account": cast.accounts["Eve"], "state": "disabled"})
    walk.send("/account/sessions/end", {"session": "none"})
    walk.send("/account/password", {"password": "wrong", "new": "short", "again": "other"})
    walk.send(f"{ben}/person/shred", {"words": "no"})
    walk.send(f"{ben}/person/shred", {"words": "erase this record", "name": "Ben"})
    walk.send(f"{base}/members/leave")
    kit = walk.send("/account/kit").text
    walk.send("/account/kit/held", {}, page="/account/kit")
    walk.send("/demo/remove")
    where = re.search(r'href="([^"]*/admin/restore/[^"]+)"', walk.see("/admin").text)[1]
    walk.send(where, {"words": "restore this record"}, page=where)
    groups = "-".join(re.findall(r"<code>(\w+)</code>", kit))
    walk.see("/account")
    walk.send("/signout", page="/signin")
    new = {"password": NEW_PASSWORD, "again": NEW_PASSWORD}
    walk.send("/recover", {"name": "Ada", "kit": groups, **new}, page="/recover")


def walk_an_empty_house(house: Appliance, album: Album) -> None:
    code = house.new_setup_code()
    assert code is not None
    with Browser(create_home_app(house), HOME) as web:
        first_run(Walk(web, album), code)


def walk_a_full_house(cast: Cast, album: Album) -> None:
    def somebody(name: str | None = None) -> Walk:
        return Walk(cast.browser(name), album)

    vault, base = cast.vault("Ada"), f"/p/{cast.patients['Ada']}"
    keep_all(vault, "North Quay", a_record())
    keep_all(vault, "Saltmarsh", another_record())
    ada = somebody("Ada")
    who_cannot_get_in(somebody())
    mistakes(ada, base)
    files(ada, base)
    shares(ada, Walk(cast.stranger(), album), Walk(cast.stranger(), album), base)
    sends(ada, Walk(cast.stranger(), album), base)
    health_links(ada, base)
    emergency(ada, Walk(cast.stranger(), album), base)
    direct(ada, cast, base)
    brought(ada, cast, base)
    proposals(ada, cast, base)
    tickets_of_servers(ada, base)
    own_words(ada, base)
    hospitals(ada, base)
    backups(ada)
    household(ada, somebody(), cast)
    ada.press_everything(f"{base}/", f"{base}/more", "/")
    second_factor(ada, somebody())
    sealed(ada, Walk(cast.stranger(), album), base)
    at_last(ada, cast)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    """Every answer of all walks."""
    found = Album()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "calibrated", lambda _seconds=0.35: slots.FLOOR)
        for name, walk in (("empty", walk_an_empty_house), ("full", walk_a_full_house)):
            house = Appliance.open(Settings(data=tmp_path_factory.mktemp(name) / "data"))
            patch.setattr(house.http.guard, "_resolver", lambda *_: [])  # loopback only
            if name == "full":
                cast = populate(house)
                walk(cast, found)
                cast.close()
            else:
                walk(house, found)
            house.close()
    return found


# ------------------------------------------------------------------ what must hold


def test_every_form_of_the_house_was_sent(album):
    """A new form needs a step in a walk here, so that its answers are looked at too."""
    rows = [line.split() for line in ROUTES.read_text().splitlines()]
    forms_ = [
        path for _, method, path, _ in rows if method == "POST" and not path.startswith(PROGRAMS)
    ]
    patterns = {path: re.compile(re.sub(r"\{\w+:str\}", "[^/]+", path) + r"\Z") for path in forms_}
    missing = {
        path
        for path, pattern in patterns.items()
        if not any(pattern.match(sent) for sent in album.sent)
    }
    assert missing == set()
    assert {page.kind.split()[1] for page in album.pages.values()} >= {
        "200", "400", "403", "404", "405", "409", "410", "422", "429", "503",
    }  # fmt: skip


def test_every_answer_is_valid_html(album, tmp_path):
    found = invalid_html({kind: page.html for kind, page in album.pages.items()}, tmp_path)

    assert not found, "\n".join(sorted(found))


def only_here(album: Album) -> dict[str, Page]:
    """Return the answers that no walk along links meets (see `test_pages`), one of each title."""
    found: dict[str, Page] = {}
    for kind, page in album.pages.items():
        method, status, rest = kind.split(" ", 2)
        title = rest.partition(" (")[2]
        if not kind.startswith("GET 200 /p/"):
            said = title.rpartition(";")[2]
            found.setdefault(f"{method} {status} {title.partition(' · ')[0]};{said}", page)
    return found


def draw(shown: Any, page: Page) -> None:
    """Draw a kept answer at its address, with the styles of the house; nothing else is asked."""

    def answer(route: Route) -> None:
        path = urlsplit(route.request.url).path
        name = "/".join(path.split("/")[3:])
        if route.request.is_navigation_request():
            route.fulfill(body=page.html, content_type="text/html; charset=utf-8")
        elif path.startswith("/static/") and name in STATIC:
            route.fulfill(body=STATIC[name].body, content_type=STATIC[name].media_type)
        else:
            route.abort()

    shown.unroute_all()
    shown.route("**/*", answer)
    shown.goto(page.url)


def test_axe_finds_nothing_on_any_answer(album, browser):
    if not AXE.is_file():
        pytest.skip("axe-core is not installed (make setup)")
    found = {}
    shown = browser.new_page(viewport={"width": 1280, "height": 800})
    for kind, page in only_here(album).items():
        draw(shown, page)
        if problems := in_every_look(shown, only_light=False):
            found[kind] = problems
    shown.close()

    assert found == {}


def test_no_answer_scrolls_sideways_at_320_pixels(album, browser):
    wide = {}
    shown = browser.new_page(viewport={"width": 320, "height": 800})
    for kind, page in only_here(album).items():
        draw(shown, page)
        extent = shown.evaluate("document.documentElement.scrollWidth")
        if extent > 320:
            wide[kind] = extent
    shown.close()

    assert wide == {}
