"""What the pages of Direct mail show and do; their routes are `phr.web.pages.direct`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from litestar import Response

from phr import clock, ids, push
from phr.errors import Conflict, InvalidInput, NetError, NotFound
from phr.sharing import gate, grants, letterbox, orders, outbox, postbox
from phr.sharing import provision as policy
from phr.sharing.channels import discovery, identity
from phr.sharing.channels.discovery import Found
from phr.sharing.channels.trust import Bound
from phr.sharing.grants import StepUp
from phr.sharing.links import Wish
from phr.sharing.provision import ROLES, SENSITIVE
from phr.store import arrived
from phr.store.models import (
    Anchor,
    Direction,
    LetterState,
    MailMode,
    PushState,
    TrustBundle,
)
from phr.web.pages.asked import is_id, is_number
from phr.web.pages.shares import base_of, step_up_of
from phr.web.routing import Form, Visit

DAYS: Final = {"1": "one day", "30": "30 days", "180": "half a year", "365": "one year"}
DIRECTIONS: Final = {
    Direction.OUT: "people you send to",
    Direction.IN: "people you accept mail from",
}
MOST_FILE: Final = 256 << 10
MOST_CAME: Final = 30


@dataclass(frozen=True, slots=True)
class Known:
    """A certificate as people see it."""

    number: int
    name: str
    fingerprint: str
    until: datetime
    direction: str
    by_hand: bool


@dataclass(frozen=True, slots=True)
class Order:
    """One order to send, and its messages in words (`outbox.words`)."""

    grant_id: str
    name: str
    address: str
    standing: bool
    goes_on: bool
    messages: Sequence[tuple[str, str, str, datetime | None]]


def draw(
    visit: Visit, *, sentence: str = "", found: Found | None = None, form: Form | None = None
) -> Response[Any]:
    """Draw the page; `found` is how a search for a certificate went."""
    now, asked = clock.now(), form or Form()
    with visit.vault.read() as session:
        box = postbox.get(session)
        own, chain = postbox.current(session), postbox.chain(session)
        anchors = session.query(Anchor).order_by(Anchor.direction, Anchor.id).all()
        bundles = session.query(TrustBundle).order_by(TrustBundle.id).all()
        sending = _orders(session, now)
        came = letterbox.listed(session, *LetterState, limit=MOST_CAME)
        tally = gate.tally(session, _provision(asked, now)) if found is not None else None
    sealed = box is not None and box.mode == MailMode.STA
    published = [own.certificate] if own is not None else []
    return visit.render(
        "pages/direct.html",
        status=422 if sentence else 200,
        sentence=sentence,
        asked=asked,
        box=box,
        sealed=sealed,
        own=own.certificate if own else None,
        due=own is not None and postbox.is_due(own.certificate, now=now),
        print_of=identity.fingerprint,
        root=chain[0] if chain else None,
        zone=identity.zone_lines(box.address, published) if box and published else "",
        entry=identity.directory_entry(box.address, published) if box and published else "",
        anchors=[_known(each) for each in anchors],
        bundles=bundles,
        directions=DIRECTIONS,
        orders=sending,
        came=came,
        listens=_listens(visit),
        found=found,
        tally=tally,
        roles={key: role.title for key, role in ROLES.items() if role.offered},
        chosen=_role(asked),
        sensitive=[title for title, _ in SENSITIVE.values()],
        days=DAYS,
        by_nobody=postbox.READ_BY_NOBODY,
        by_provider=postbox.READ_BY_HISP,
        once=ids.new_id(),
        opens=visit.appliance.vaults.opens_by_itself(visit.vault.id),
    )


def _listens(visit: Visit) -> str:
    """Return where mail is taken in, "" for nowhere."""
    place = visit.appliance.settings.mail_listen
    return f"{place[0]}:{place[1]}" if place else ""


def _known(row: Anchor) -> Known:
    certificate = x509.load_der_x509_certificate(row.certificate)
    return Known(
        number=row.id,
        name=certificate.subject.rfc4514_string()[:200] or "without a name",
        fingerprint=identity.fingerprint(certificate),
        until=certificate.not_valid_after_utc,
        direction=DIRECTIONS[Direction(row.direction)],
        by_hand=row.bundle_id is None,
    )


def _orders(session: Any, now: datetime) -> list[Order]:
    found = []
    for job in orders.every(session):
        sent = outbox.of_grant(session, job.grant_id)
        name = str(gate.actor_of(session, grants.get(session, job.grant_id))["name"])
        goes_on = job.state == PushState.ACTIVE and job in orders.active(session)
        messages = [outbox.words(each, now=now) for each in sent]
        found.append(Order(job.grant_id, name, job.address, bool(job.standing), goes_on, messages))
    return found


# ------------------------------------------------------------------------------------ the own side


def save(visit: Visit, form: Form) -> Response[Any]:
    """Keep the settings, after the password."""
    step_up_of(visit)
    try:
        wanted = _wanted(form)
        postbox.check(wanted)
        arrived.route(visit.vault.house, visit.vault.id, [wanted.address])
        with visit.vault.write() as session:
            postbox.set_up(session, visit.vault, wanted, visit.actor, now=clock.now())
    except (InvalidInput, Conflict) as error:
        return draw(visit, sentence=error.sentence, form=form)
    return _back(visit, "Saved.")


def _wanted(form: Form) -> postbox.Wanted:
    port = form.get("port")
    if not is_number(port):
        raise InvalidInput("Please give the port of the mail server as a number.")
    if form.get("mode") not in set(MailMode):
        raise InvalidInput("Please choose who seals your messages.")
    return postbox.Wanted(
        address=form.get("address").strip(),
        mode=MailMode(form.get("mode")),
        smtp_host=form.get("host").strip().lower(),
        smtp_port=int(port),
        smtp_login=form.get("login").strip() or None,
        smtp_password=form.get("secret") or None,
        bound=Bound.DOMAIN if form.get("bound") == Bound.DOMAIN else Bound.ADDRESS,
    )


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
        "zone.txt": lambda: identity.zone_lines(box.address, [own.certificate]),
        "directory.ldif": lambda: identity.directory_entry(box.address, [own.certificate]),
    }.get(name)
    if made is None:
        raise NotFound
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(made(), media_type="text/plain; charset=utf-8", headers=headers)


# ---------------------------------------------------------------------------------- whom to trust


def trust(visit: Visit, form: Form) -> Response[Any]:
    """Trust a certificate, or follow a bundle, for one direction."""
    step_up_of(visit)
    try:
        _take(visit, form)
    except (InvalidInput, NetError) as error:
        return draw(visit, sentence=error.sentence)
    return _back(visit, "Kept. Compare the fingerprint with what its owner tells you.")


def _take(visit: Visit, form: Form) -> None:
    if form.get("direction") not in set(Direction):
        raise InvalidInput("Please choose whom it is for.")
    direction = Direction(form.get("direction"))
    vault, now, url = visit.vault, clock.now(), form.get("bundle").strip()
    if url:
        visit.appliance.http.guard.check(url)
        with vault.write() as session:
            postbox.add_bundle(session, vault, url, direction, visit.actor, now=now)
        push.refresh_bundles(vault, http=visit.appliance.http, now=now)
        return
    data = bytearray()
    for upload in form.uploads():
        for chunk in upload.chunks:
            data += chunk
            if len(data) > MOST_FILE:
                raise InvalidInput("This file is larger than a certificate can be.")
    with vault.write() as session:
        postbox.add_anchor(session, vault, bytes(data), direction, visit.actor, now=now)


def distrust(visit: Visit, form: Form) -> Response[Any]:
    """Trust a certificate, or follow a bundle, no more."""
    remove = postbox.remove_bundle if form.get("bundle") else postbox.remove_anchor
    number = form.get("bundle") or form.get("anchor")
    if not is_number(number):
        raise NotFound
    with visit.vault.write() as session:
        remove(session, visit.vault, int(number), visit.actor)
    return _back(visit, "It is not trusted any more.")


# --------------------------------------------------------------------------------------- sending


def check(visit: Visit, form: Form) -> Response[Any]:
    """Look for a certificate to trust; where a provider seals, there is nothing to look for."""
    address = form.get("to").strip()
    if sentence := discovery.problem(address):
        return draw(visit, sentence=sentence, form=form)
    with visit.vault.read() as session:
        box = postbox.get(session)
        anchors = postbox.anchors(session, Direction.OUT)
    if box is None:
        return draw(visit, sentence="Please set up your own address first.", form=form)
    if box.mode == MailMode.HISP:
        return draw(visit, found=Found((), None, ()), form=form)
    found = discovery.find(
        address, anchors=anchors, places=discovery.places(visit.appliance.http), now=clock.now()
    )
    return draw(visit, found=found, form=form)


def _provision(form: Form, now: datetime) -> policy.Provision:
    return replace(policy.preset(_role(form), now=now), actions=policy.READING)


def _role(form: Form) -> str:
    role = form.get("what")
    return role if role in ROLES and ROLES[role].offered else "primary"


def send(visit: Visit, form: Form) -> Response[Any]:
    """Make the grant and its order, after the password, and lead to the page that follows it."""
    step_up = step_up_of(visit)
    try:
        grant_id = _begin(visit, form, step_up, clock.now())
    except (InvalidInput, Conflict) as error:
        return draw(visit, sentence=error.sentence, form=form)
    return visit.redirect(f"{base_of(visit)}/grants/{grant_id}", "It goes out within a minute.")


def _begin(visit: Visit, form: Form, step_up: StepUp, now: datetime) -> str:
    whom = " ".join(form.get("whom").split())
    if not whom or form.get("days") not in DAYS or not is_id(form.get("once")):
        raise InvalidInput("Please say who it is for, and for how long.")
    channel = push.post(visit.vault, http=visit.appliance.http).get("direct")
    if channel is None:
        raise InvalidInput("Please set up your own address first.")
    standing, address = form.get("standing") == "1", form.get("to").strip()
    wish = Wish(
        recipient=whom[:120],
        reason=form.get("why").strip()[:200],
        role=_role(form),
        provision=_provision(form, now),
        ends_at=now + timedelta(days=int(form.get("days"))),
        uses=None,
    )
    return push.start(
        visit.vault,
        wish,
        channel=channel,
        address=address,
        standing=standing,
        grant_id=form.get("once"),
        step_up=step_up,
        shown=_shown(visit, wish, address, standing=standing),
        actor=visit.actor,
        now=now,
    )


def _shown(visit: Visit, wish: Wish, address: str, *, standing: bool) -> str:
    """Return exactly what the person confirmed, as text: it is kept, with its hash."""
    with visit.vault.read() as session:
        tally = gate.tally(session, wish.provision)
    lines = [
        f"What: {ROLES[wish.role].title}; {tally.shared} records now",
        "Sensitive: left out",
        f"For whom: {wish.recipient}, by Direct mail to {address}",
        f"Reason: {wish.reason or 'not given'}",
        f"When: {'now, and whenever new records arrive' if standing else 'once, now'}",
        f"Until: {wish.ends_at.isoformat(timespec='minutes')}",
        f"Provision: {policy.to_json(wish.provision)}",
    ]
    return "\n".join(lines)


def stop(visit: Visit, form: Form) -> Response[Any]:
    """Stop an order, and say what cannot be called back."""
    halted = push.halt(visit.vault, form.get("grant"), visit.actor, now=clock.now())
    said = "Stopped. Nothing more leaves."
    if halted.unconfirmed:
        said += f" Handed to the mail server before and not answered yet: {halted.unconfirmed}."
    if halted.uncertain:
        said += " One message was at its very last step: it may have gone."
    return _back(visit, said)


def _back(visit: Visit, said: str) -> Response[Any]:
    return visit.redirect(f"{base_of(visit)}/direct", said)
