"""The share form as it was filled in, as a provision and as a wish.

Reading it is all that happens here; what it leads to is `phr.web.pages.shares`.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from operator import or_

from phr import ids
from phr.fhir.labels import Label
from phr.fhir.references import key_of
from phr.sharing import provision as policy
from phr.sharing.links import Wish
from phr.sharing.provision import PARTS, ROLES, SENSITIVE, Action, Provision
from phr.web.forms import Form
from phr.web.pages import picking

HOURS = {1: "1 hour", 24: "1 day", 7 * 24: "7 days", 30 * 24: "30 days"}
LONGER = {180 * 24: "half a year", 365 * 24: "1 year"}  # for what is sent; a link lasts 30 days
USES = {"": "As often as they need", "1": "Once", "3": "3 times", "10": "10 times"}
REACH = {"": "all years", "1": "1 year", "2": "2 years", "5": "5 years", "10": "10 years"}
PRIVATE_SHOWN = 50
MOST_KEY = 4000  # characters of a public key
MOST_ADDRESS = 320  # characters kept of a Direct address; 254 are too many already
DIRECT = "direct"  # the other way than a link that the form knows fields for


@dataclass(frozen=True, slots=True)
class Asked:
    """The share form as it was filled in."""

    what: str
    parts: frozenset[str]
    reach: str
    also: frozenset[str]
    places: frozenset[int]
    ticked: frozenset[str]
    without: frozenset[str]  # local ids of single records that are taken out
    whom: str
    why: str
    hours: int
    uses: str
    may_print: bool
    may_download: bool
    may_send: bool
    once: str
    server: str = ""  # for a ticket: the address of a server, or its public key
    by: str = ""  # DIRECT, or "" for a link and what else needs no address
    to: str = ""  # a Direct address, as typed
    standing: bool = False  # by Direct mail: also what arrives later


def asked_of(form: Form) -> Asked:
    """Read the form; what makes no sense in it becomes the default, never more than was asked."""
    what = form.get("what")
    hours = form.get("hours")
    once = form.get("once")
    return Asked(
        what=what if what in ROLES and ROLES[what].offered else "primary",
        parts=frozenset(form.all("part")) & PARTS.keys(),
        reach=form.get("reach") if form.get("reach") in REACH else "",
        also=frozenset(form.all("also")) & SENSITIVE.keys(),
        places=frozenset(int(each) for each in form.all("from")[:200] if is_number(each)),
        ticked=frozenset(
            each for each in form.all("private")[:PRIVATE_SHOWN] if key_of(each) is not None
        ),
        without=picking.taken_out(form),
        whom=form.get("whom")[:200],
        why=form.get("why")[:400],
        hours=int(hours) if is_number(hours) and int(hours) in HOURS | LONGER else 24,
        uses=form.get("uses") if form.get("uses") in USES else "",
        may_print=form.has("print"),
        may_download=form.has("download"),
        may_send=form.has("send"),
        once=once if is_id(once) else ids.new_id(),
        server=form.get("server")[:MOST_KEY].strip(),
        by=DIRECT if form.get("by") == DIRECT else "",
        to=form.get("to")[:MOST_ADDRESS].strip(),
        standing=form.get("standing") == "1",
    )


def is_number(text: str) -> bool:
    """Tell a whole number that fits into a column; `int` refuses thousands of digits by raising."""
    return text.isascii() and text.isdigit() and len(text) < 19


def is_id(text: str) -> bool:
    """Tell an id of ours, as forms carry it so that what is sent twice is made once."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def fields_of(asked: Asked) -> list[tuple[str, str]]:
    """Return the form again as name and value, for hidden fields; not what is taken out singly."""
    return [
        ("what", asked.what),
        *(("part", each) for each in sorted(asked.parts)),
        ("reach", asked.reach),
        *(("also", each) for each in sorted(asked.also)),
        *(("from", str(each)) for each in sorted(asked.places)),
        *(("private", each) for each in sorted(asked.ticked)),
        ("whom", asked.whom),
        ("why", asked.why),
        ("hours", str(asked.hours)),
        ("uses", asked.uses),
        *([("print", "1")] if asked.may_print else []),
        *([("download", "1")] if asked.may_download else []),
        *([("send", "1")] if asked.may_send else []),
        ("once", asked.once),
        ("server", asked.server),
        ("by", asked.by),
        ("to", asked.to),
        *([("standing", "1")] if asked.standing else []),
    ]


def provision_of(asked: Asked, now: datetime) -> Provision:
    """Return what the form asks to share."""
    chosen = asked.what == "chosen"
    years = int(asked.reach) if chosen and asked.reach else None
    rules = (
        policy.rules_for(sorted(asked.parts), days=years and years * 365, now=now)
        if chosen
        else policy.preset(asked.what, now=now).rules
    )
    optional = (
        (asked.may_print, Action.PRINT),
        (asked.may_download, Action.DOWNLOAD),
        (asked.may_send, Action.CONTRIBUTE),
    )
    return Provision(
        rules=rules,
        labels=reduce(or_, (SENSITIVE[each][1] for each in asked.also), Label.NONE),
        actions=frozenset({Action.VIEW, *(what for given, what in optional if given)}),
        connections=tuple(sorted(asked.places)) if chosen else (),
        excluded=asked.without,
        ticked=asked.ticked,
    )


def wish_of(asked: Asked, now: datetime) -> Wish:
    """Return the form as a wish, for a link."""
    return Wish(
        recipient=asked.whom,
        reason=asked.why,
        role=asked.what,
        provision=provision_of(asked, now),
        ends_at=now + timedelta(hours=asked.hours),
        uses=int(asked.uses) if asked.uses else None,
    )
