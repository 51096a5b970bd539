"""What the pages of Direct mail show and do; their routes are `phr.web.pages.direct`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from litestar import Response

from phr import clock, collect, push
from phr.errors import Conflict, InvalidInput, MailboxFailed, NetError, NotFound, StepUpNeeded
from phr.sharing import echo, letterbox, postbox
from phr.sharing.channels import discovery, identity
from phr.sharing.channels.discovery import Step
from phr.sharing.channels.trust import Bound
from phr.store import arrived, audit
from phr.store.models import (
    Anchor,
    Direction,
    LetterState,
    MailMode,
    Postbox,
    TrustBundle,
)
from phr.web.pages.asked import is_number
from phr.web.pages.shares import base_of, opens_by_itself, step_up_of, wake
from phr.web.routing import Form, Visit

DIRECTIONS: Final = {
    Direction.OUT: "people you send to",
    Direction.IN: "people you accept mail from",
}
FIRST: Final = {  # of the settings, before there are any
    "address": "",
    "mode": MailMode.STA.value,
    "bound": Bound.ADDRESS.value,
    "host": "",
    "port": "587",
    "login": "",
    "imap_host": "",
    "imap_port": "993",
    "imap_login": "",
    "delete": "",
}
MOST_FILE: Final = 256 << 10
MOST_CAME: Final = 30
PASSWORDS: Final = frozenset({"secret", "imap_secret", "key", "again"})  # fields of the two forms
PUT_DOWN: Final = "put-down"  # a field that says: the passwords of this form wait in memory
NO_ADDRESS: Final = "Please set up your own Direct address first."
TRUST_NOBODY: Final = (
    "You trust nobody's certificates yet, so none can be found good. Ask the practice for its "
    "anchor, and add it under Direct mail."
)
FOR_WHOM: Final = {
    Bound.ADDRESS: "It is for this one address.",
    Bound.DOMAIN: "It is for every address of this domain: whoever runs it can open the mail.",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A certificate as people see it."""

    name: str
    issuer: str
    fingerprint: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Known:
    """An anchor: its certificate, for which direction, and whether a person chose it."""

    number: int
    seen: Seen
    direction: str
    by_hand: bool


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found out about a Direct address; nothing goes there unless `may_send`."""

    mark: str  # class of the word
    word: str
    sentence: str
    may_send: bool = False
    steps: Sequence[Step] = ()
    certificates: Sequence[Seen] = ()
    reads: str = ""  # who can read what goes there


# --------------------------------------------------------------------------------------- an address


def check(visit: Visit, address: str) -> Checked:
    """Look for the certificate of an address and say in words how it went; never raises for it."""
    if not address:
        return Checked(
            "none", "Not checked yet", "Type the address; it looks like name@clinic.example."
        )
    if sentence := discovery.problem(address):
        return Checked("wait", "Not an address yet", sentence)
    with visit.vault.read() as session:
        box = postbox.get(session)
        anchors = postbox.anchors(session, Direction.OUT)
    if box is None:
        return Checked("wait", "Not yet", NO_ADDRESS)
    reads = postbox.who_reads(box.mode)
    if box.mode == MailMode.HISP:
        sentence = (
            "Your provider looks for the certificate and seals the message. Nothing to check here."
        )
        return Checked("fresh", "Goes through your provider", sentence, may_send=True, reads=reads)
    found = discovery.find(
        address, anchors=anchors, places=discovery.places(visit.appliance.http), now=clock.now()
    )
    if found.certificates and found.bound is not None:
        return Checked(
            "fresh",
            "A certificate was found, and you trust it",
            FOR_WHOM[found.bound],
            may_send=True,
            steps=found.steps,
            certificates=[_seen(each) for each in found.certificates],
            reads=reads,
        )
    sentence = (
        "Another try later may find one." if found.passing else "So nothing can be sent there."
    )
    return Checked(
        "wait",
        "There is no certificate to trust",
        sentence if anchors else TRUST_NOBODY,
        steps=found.steps,
    )


def _seen(certificate: x509.Certificate) -> Seen:
    return Seen(
        name=_name(certificate.subject),
        issuer=_name(certificate.issuer),
        fingerprint=identity.fingerprint(certificate),
        until=certificate.not_valid_after_utc,
    )


def seen(certificate: bytes) -> Seen:
    """Return a certificate (DER, as it is kept) as people see it."""
    return _seen(x509.load_der_x509_certificate(certificate))


def _name(name: x509.Name) -> str:
    """Return what a person reads of a name in a certificate: its common name, or all of it."""
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return (str(common[0].value) if common else name.rfc4514_string())[:200] or "without a name"


# ---------------------------------------------------------------------------------------- the page


def draw(visit: Visit, *, sentence: str = "", form: Form | None = None) -> Response[Any]:
    """Draw the page; after a mistake with its sentence and what was typed."""
    now = clock.now()
    with visit.vault.read() as session:
        box = postbox.get(session)
        own, chain = postbox.current(session), postbox.chain(session)
        anchors = session.query(Anchor).order_by(Anchor.direction, Anchor.id).all()
        bundles = session.query(TrustBundle).order_by(TrustBundle.id).all()
        came = letterbox.listed(session, *LetterState, limit=MOST_CAME)
    steps = echo.steps(visit.vault, now=now) if box is not None else ()
    sealed = box is not None and box.mode == MailMode.STA
    published = [own.certificate] if own is not None and sealed else []
    return visit.render(
        "pages/direct.html",
        status=422 if sentence else 200,
        block="tried",
        sentence=sentence,
        steps=steps,
        tested=echo.began(visit.vault) if steps else None,
        waits=any(each.state == "waiting" for each in steps),
        typed=_typed(form, box),
        asked=form or Form(),
        box=box,
        sealed=sealed,
        own=_seen(own.certificate) if own and sealed else None,
        due=own is not None and postbox.is_due(own.certificate, now=now),
        root=_seen(chain[0]) if chain else None,
        zone=identity.zone_lines(box.address, published) if box and published else "",
        entry=identity.directory_entry(box.address, published) if box and published else "",
        least=identity.LEAST_PASSWORD,
        anchors=[_known(each) for each in anchors],
        bundles=bundles,
        directions=DIRECTIONS,
        came=came,
        listens=_listens(visit),
        by_nobody=postbox.READ_BY_NOBODY,
        by_provider=postbox.READ_BY_HISP,
        opens=opens_by_itself(visit),
    )


def _typed(form: Form | None, box: Postbox | None) -> Mapping[str, str]:
    """Return what the settings form shows: as typed, as kept, or how most begin; no password."""
    if form is not None and form.has("address"):
        return {name: form.get(name) for name in FIRST}
    if box is None:
        return FIRST
    return {
        "address": box.address,
        "mode": box.mode,
        "bound": box.bound,
        "host": box.smtp_host,
        "port": str(box.smtp_port),
        "login": box.smtp_login or "",
        "imap_host": box.imap_host or "",
        "imap_port": str(box.imap_port or FIRST["imap_port"]),
        "imap_login": box.imap_login or "",
        "delete": "1" if box.imap_delete else "",
    }


def _listens(visit: Visit) -> str:
    """Return where mail is taken in, "" for nowhere."""
    place = visit.appliance.settings.mail_listen
    return f"{place[0]}:{place[1]}" if place else ""


def _known(row: Anchor) -> Known:
    direction = DIRECTIONS[Direction(row.direction)]
    return Known(row.id, seen(row.certificate), direction, by_hand=row.bundle_id is None)


# --------------------------------------------------------------------------------- does it work


def test(visit: Visit) -> Response[Any]:
    """Send a message to oneself, as to anybody else, and follow where it gets."""
    listens = visit.appliance.settings.mail_listen is not None
    try:
        echo.begin(visit.vault, http=visit.appliance.http, listens=listens, now=clock.now())
    except InvalidInput as error:
        return draw(visit, sentence=error.sentence)
    for job in ("mail", "mailboxes"):
        wake(visit, job)
    return _back(visit, "A message to yourself was tried. Below stands how far it got.")


def look(visit: Visit) -> Response[Any]:
    """Look into the mailbox at the provider now."""
    try:
        said = collect.look(visit.vault, http=visit.appliance.http, now=clock.now())
    except (InvalidInput, MailboxFailed) as error:
        return draw(visit, sentence=error.sentence)
    wake(visit, "mail")
    return _back(visit, said)


# ------------------------------------------------------------------------------------ the own side


def save(visit: Visit, form: Form) -> Response[Any]:
    """Keep the settings, after the password."""
    try:
        form = _whole(visit, form)
        wanted = _wanted(form)
        postbox.check(wanted)
        _confirmed(visit, form)
        arrived.route(visit.vault.house, visit.vault.id, [wanted.address])
        with visit.vault.write() as session:
            postbox.set_up(session, visit.vault, wanted, visit.actor, now=clock.now())
    except (InvalidInput, Conflict) as error:
        return draw(visit, sentence=error.sentence, form=form)
    wake(visit, "mailboxes")
    return _back(visit, "Saved. Send a message to yourself to see whether it works.")


def _confirmed(visit: Visit, form: Form) -> None:
    """Require the fresh password, or raise StepUpNeeded.

    The confirm page repeats the form in hidden fields. Passwords typed into it are put down in
    memory meanwhile, so that no page holds them.
    """
    try:
        step_up_of(visit)
    except StepUpNeeded:
        typed = [pair for pair in form.pairs() if pair[0] in PASSWORDS]
        visit.put_down(_typed_on(visit), typed)
        visit.form = Form([*form.without(PASSWORDS).pairs(), (PUT_DOWN, "1")])
        raise


def _whole(visit: Visit, form: Form) -> Form:
    """Return the form with the passwords that were put down for it; InvalidInput if they are gone.

    A form that was typed anew takes what was put down before it away.
    """
    name = _typed_on(visit)
    typed = visit.kept(name)
    visit.forget(name)
    if not form.has(PUT_DOWN):
        return form
    if typed is None:
        raise InvalidInput("What you typed was kept for 15 minutes only. Please type it again.")
    return Form([*form.without(frozenset({PUT_DOWN})).pairs(), *typed])


def _typed_on(visit: Visit) -> str:
    return f"typed {visit.path}"


def _wanted(form: Form) -> postbox.Wanted:
    if form.get("mode") not in set(MailMode):
        raise InvalidInput("Please choose who seals your messages.")
    mode = MailMode(form.get("mode"))
    imap_host = form.get("imap_host").strip().lower() if mode is MailMode.HISP else ""
    return postbox.Wanted(
        address=form.get("address").strip(),
        mode=mode,
        smtp_host=form.get("host").strip().lower(),
        smtp_port=_port(form.get("port")),
        smtp_login=form.get("login").strip() or None,
        smtp_password=form.get("secret") or None,
        imap_host=imap_host or None,
        imap_port=_port(form.get("imap_port")) if imap_host else None,
        imap_login=form.get("imap_login").strip() or None if imap_host else None,
        imap_password=form.get("imap_secret") or None if imap_host else None,
        imap_delete=imap_host != "" and form.has("delete"),
        bound=Bound.DOMAIN if form.get("bound") == Bound.DOMAIN else Bound.ADDRESS,
    )


def _port(text: str) -> int:
    if not is_number(text.strip()):
        raise InvalidInput("Please give the port of each mail server as a number.")
    return int(text)


def renew(visit: Visit) -> Response[Any]:
    """Make a new own certificate; the old one still opens what was sent to it."""
    step_up_of(visit)
    with visit.vault.write() as session:
        postbox.rotate(session, visit.vault, visit.actor, now=clock.now())
    return _back(visit, "There is a new certificate. Publish it where the old one was.")


def file(visit: Visit, name: str) -> Response[Any]:
    """Give what others need: the anchor, lines of a zone, an entry of a directory."""
    with visit.vault.read() as session:
        box, own = postbox.get(session), postbox.current(session)
        chain = postbox.chain(session)
    if box is None or own is None or not chain:
        raise NotFound
    made = {
        "anchor.pem": lambda: chain[0].public_bytes(Encoding.PEM).decode(),
        "certificate.pem": lambda: own.certificate.public_bytes(Encoding.PEM).decode(),
        "zone.txt": lambda: identity.zone_lines(box.address, [own.certificate]),
        "directory.ldif": lambda: identity.directory_entry(box.address, [own.certificate]),
    }.get(name)
    if made is None:
        raise NotFound
    return Response(made(), media_type="text/plain; charset=utf-8", headers=_saved_as(name))


def export(visit: Visit, form: Form) -> Response[Any]:
    """Give the own certificate with its key as a PKCS#12 file under a password of its own."""
    with visit.vault.read() as session:
        own, chain = postbox.current(session), postbox.chain(session)
    if own is None:
        raise NotFound
    try:
        form = _whole(visit, form)
        made = identity.exported(own, chain, _chosen(form))
    except InvalidInput as error:
        return draw(visit, sentence=error.sentence)
    _confirmed(visit, form)
    with visit.vault.write() as session:
        audit.append(session, visit.vault, "direct.key_exported", visit.actor)
    return Response(made, media_type="application/x-pkcs12", headers=_saved_as("direct.p12"))


def _chosen(form: Form) -> str:
    if form.get("key") != form.get("again"):
        raise InvalidInput("The two passwords for the file are not the same.")
    return form.get("key")


def _saved_as(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}


# ---------------------------------------------------------------------------------- whom to trust


def trust(visit: Visit, form: Form) -> Response[Any]:
    """Trust a certificate, or follow a bundle, for one direction."""
    step_up_of(visit)
    try:
        said = _take(visit, form)
    except (InvalidInput, NetError) as error:
        return draw(visit, sentence=error.sentence, form=form)
    return _back(visit, said)


def _take(visit: Visit, form: Form) -> str:
    if form.get("direction") not in set(Direction):
        raise InvalidInput("Please choose whom it is for.")
    direction = Direction(form.get("direction"))
    vault, now, url = visit.vault, clock.now(), form.get("bundle").strip()
    if url:
        visit.appliance.http.guard.check(url)
        with vault.write() as session:
            postbox.add_bundle(session, vault, url, direction, visit.actor, now=now)
        push.refresh_bundles(vault, http=visit.appliance.http, now=now)
        return "Kept. What it names is shown below, and what changes in it."
    data = bytearray()
    for upload in form.uploads():
        for chunk in upload.chunks:
            data += chunk
            if len(data) > MOST_FILE:
                raise InvalidInput("This file is larger than a certificate can be.")
    if not data:
        raise InvalidInput("Please choose a file with exactly one certificate, or give an address.")
    with vault.write() as session:
        postbox.add_anchor(session, vault, bytes(data), direction, visit.actor, now=now)
    return "Kept. Compare the fingerprint with what its owner tells you."


def distrust(visit: Visit, form: Form) -> Response[Any]:
    """Trust a certificate, or follow a bundle, no more."""
    remove = postbox.remove_bundle if form.get("bundle") else postbox.remove_anchor
    number = form.get("bundle") or form.get("anchor")
    if not is_number(number):
        raise NotFound
    with visit.vault.write() as session:
        remove(session, visit.vault, int(number), visit.actor)
    return _back(visit, "It is not trusted any more.")


def _back(visit: Visit, said: str) -> Response[Any]:
    return visit.redirect(f"{base_of(visit)}/direct", said)
