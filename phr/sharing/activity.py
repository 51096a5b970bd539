"""The audit log in sentences: who saw what, when, in words a patient understands.

One row per event in EVENTS; what is not in it still gets a line. Nothing here reads the log.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from phr import clock
from phr.chart.plain import sentence_case
from phr.chart.titles import list_words
from phr.fhir.kinds import KINDS
from phr.store.models import AuditEntry
from phr.views import VIEWS


class Sentence(NamedTuple):
    """`who` did `what`; `mark` is a state's class and word; `aside` says what follows from it."""

    what: str
    aside: str = ""
    mark: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log as it is shown."""

    seq: int
    at: datetime
    who: str
    what: str
    aside: str
    mark: tuple[str, str] | None
    grant_id: str | None


STAYS = "this copy stays with them"
SHELL = "command line"  # the actor of what `phr` did
PASSWORD = {"password": "with the password", "totp": "with a code from the phone"}

EVENTS: dict[str, Sentence] = {
    "grant.approved": Sentence("shared records with {recipient}, until {until}.", "{factor}"),
    "grant.extended": Sentence("let {recipient} read until {until}.", "{factor}"),
    "grant.narrowed": Sentence("now shares less with {recipient}."),
    "grant.suspended": Sentence("paused what {recipient} may see.", mark=("paused", "Paused")),
    "grant.resumed": Sentence("let {recipient} read again.", "{factor}"),
    "grant.ended": Sentence("stopped sharing with {recipient}.", "{because}", ("ended", "Ended")),
    "push.proposed": Sentence("asked to send records to {to}. It waits for an answer."),
    "push.started": Sentence("began to send records to {recipient}."),
    "push.prepared": Sentence("looked for what is to be sent to {recipient}."),
    "push.stopped": Sentence("stopped sending to {recipient}.", mark=("ended", "Stopped")),
    "delivery.processed": Sentence("Opened by {recipient}'s mail server."),
    "delivery.dispatched": Sentence("Arrived at {recipient}, says their mail server."),
    "mail.taken": Sentence("took Direct mail in; it waits in the inbox."),
    "mail.notice": Sentence("read a notice about a message that was sent."),
    "mail.refused": Sentence("sealed Direct mail away that cannot be trusted."),
    "mail.again": Sentence("had a refused mail looked at again."),
    "direct.set_up": Sentence("changed the settings for Direct mail."),
    "direct.certificate_made": Sentence("made a new certificate for Direct mail."),
    "direct.key_exported": Sentence("took the certificate for Direct mail along, with its key."),
    "direct.anchor_added": Sentence("trusts one more certificate for Direct mail."),
    "direct.anchor_removed": Sentence("trusts a certificate for Direct mail no more."),
    "direct.bundle_added": Sentence("follows a published list of anchors for Direct mail."),
    "direct.bundle_removed": Sentence("follows a published list of anchors no more."),
    "direct.bundle_changed": Sentence("A followed list of anchors for Direct mail changed."),
    "link.claimed": Sentence("opened the link with the right code.", "on {browser}"),
    "link.viewed": Sentence("looked at {section}."),
    "link.file": Sentence("opened a file of {section}."),
    "link.printed": Sentence("opened the page for printing: {records}.", STAYS),
    "link.downloaded": Sentence("downloaded {records}.", STAYS),
    "link.wrong_code": Sentence(
        "Somebody typed a wrong code for the link of {name}. {left} left.",
        "on {browser} · nothing was shown",
        ("wait", "Wrong code"),
    ),
    "link.second_browser": Sentence(
        "Somebody with the right code tried the link of {name} on a second device.",
        "on {browser} · nothing was shown",
        ("wait", "Second device"),
    ),
    "link.new_code": Sentence("made a new code for {recipient}.", "the old code stopped working"),
    "link.browser_allowed": Sentence("allowed {recipient} one more device."),
    "app.connected": Sentence("connected and may read from now on."),
    "api.read": Sentence("asked for one record{of_kind}."),  # it may not be there
    "api.searched": Sentence("asked for {kind}."),
    "api.sent": Sentence("handed something in{of_kind}."),
    "api.many": Sentence("asked for many records.", "too many in a minute to name each"),
    "api.everything": Sentence("fetched everything that is shared.", STAYS),
    "api.file": Sentence("asked for a file of a document."),
    "api.exported": Sentence("asked for a copy of everything that is shared."),
    "api.export_file": Sentence("fetched {kind}, as a copy.", STAYS),
    "api.summary": Sentence("fetched the patient summary.", STAYS),
    "ticket.made": Sentence("made a ticket for {recipient}.", "it serves that server's key alone"),
    "between.started": Sentence("asked {connection} to let another server fetch."),
    "between.stopped": Sentence("stopped what another server may fetch from {connection}."),
    "between.sending": Sentence("asked {connection} to send records to {to}."),
    "between.halted": Sentence("stopped what {connection} sends to {to}."),
    "consent.proposed": Sentence("proposed a Consent to share. It waits for an answer."),
    "consent.withdrawn": Sentence("withdrew its proposal. Nothing was shared under it."),
    "statement.signed": Sentence("had this Homeport sign for another server who it is."),
    "fetch.proposed": Sentence("proposed to fetch from another server. It waits for an answer."),
    "client.registered": Sentence("took a new app on the list.", "it can read nothing yet"),
    "client.let_in": Sentence("let an app in."),
    "client.blocked": Sentence("blocked an app.", "it can read nothing any more"),
    "client.forgotten": Sentence("took an app off the list."),
    "inbox.received": Sentence(
        "sent {sent_what}.", "it came into the inbox, outside of the record"
    ),
    "inbox.withdrawn": Sentence("took back what they had sent."),
    "inbox.accepted": Sentence("let {sent_what} into the record.", "can be undone"),
    "inbox.rejected": Sentence("rejected {sent_what}.", "can be undone for 30 days"),
    "inbox.undone": Sentence("took back a decision about {sent_what}.", "it waits again"),
    "inbox.always": Sentence("let {sent_what} of {recipient} in without asking from now on."),
    "inbox.rule_ended": Sentence("made {sent_what} wait in the inbox again from now on."),
    "health_link.opened": Sentence("opened the health link: {records}.", "says it is: {claimed}"),
    "health_link.fetched": Sentence("fetched a file of the health link: {records}.", STAYS),
    "health_link.wrong_code": Sentence(
        "Somebody sent a wrong passcode for the health link of {name}. {left} left.",
        "says it is: {claimed} · nothing was shown",
        ("wait", "Wrong passcode"),
    ),
    "card.opened": Sentence(
        "Somebody opened the emergency card. They said: {claimed}. Reason: {reason}.",
        "on {browser} · emergency, for 60 minutes",
        ("wait", "Emergency"),
    ),
    "card.made": Sentence("made one more emergency card."),
    "card.refused": Sentence(
        "Somebody tried the emergency card after it was opened as often as allowed this week.",
        "nothing was shown",
        ("wait", "Emergency"),
    ),
    "paper.shown": Sentence("opened a page to print for {recipient}: {records}.", "on this box"),
    "paper.saved": Sentence("saved a file for {recipient}: {records}.", "on this box"),
    "delivery.queued": Sentence("asked to {send} {recipient}."),
    "delivery.released": Sentence("Made ready for {recipient}: {records}."),
    "delivery.sent": Sentence("{sent} {recipient}.", STAYS),
    "delivery.failed": Sentence("could not {send} {recipient}.", "nothing left this box"),
    "delivery.stopped": Sentence("did not {send} {recipient}: it was stopped before."),
    "delivery.uncertain": Sentence(
        "stopped while it had to {send} {recipient}.",
        "it may have gone out",
        ("wait", "Uncertain"),
    ),
    "export.done": Sentence("took a copy of the whole record.", "it is readable by whoever has it"),
    "pull.done": Sentence("asked {connection} for news.", "{counts}"),
    "own.stated": Sentence("added or changed something by hand."),
    "entry.joined": Sentence("said that two records are the same.", "both are kept; can be undone"),
    "entry.split": Sentence("said that records are not the same.", "all are kept; can be undone"),
    "entry.undone": Sentence("took back what was said about which records are the same."),
    "import.done": Sentence("added records from a file.", "{counts}"),
    "backup.made": Sentence("made a backup."),
    "backup.restored": Sentence("restored this record from a backup."),
    "vault.created": Sentence("created this record."),
    "patient.created": Sentence("created this record."),
    "member.invited": Sentence("invited a new member."),
    "member.added": Sentence("added {member}.", "{may}"),
    "member.removed": Sentence("removed {member}.", "{might} · the record has a new key"),
    "member.role": Sentence("changed what {member} may do.", "{may}"),
    "connection.added": Sentence("added the connection to {connection}."),
    "connection.authorised": Sentence("signed in at {connection}.", "Homeport may fetch there now"),
    "connection.wrong_patient": Sentence(
        "stopped asking {connection}: another patient signed in there.",
        "nothing of theirs was kept",
        ("wait", "Another patient"),
    ),
    "connection.paused": Sentence("paused the connection to {connection}."),
    "connection.resumed": Sentence("resumed the connection to {connection}."),
    "connection.followed": Sentence("let the connection to {connection} follow to a new address."),
    "connection.removed": Sentence("removed the connection to {connection}.", "{fate}"),
    "vault.opens_by_itself": Sentence("made this record open by itself after a restart."),
    "vault.waits_for_member": Sentence("made this record wait for a member after a restart."),
    "vault.restored": Sentence(
        "put this record back from a backup.", "what was shared waits until it is confirmed"
    ),
    "vault.rolled_back": Sentence(
        "found an older copy in the place of this record.",
        "what was shared waits until it is confirmed",
        ("wait", "Older copy"),
    ),
}
ASKED = {  # of one record, which may not be there
    "link.viewed": Sentence("asked for one record{of_kind}."),
    "link.file": Sentence("asked for a file of one record{of_kind}."),
}
ROLES = {"self": "it is their own record", "proxy": "may change and share", "viewer": "may look"}
SENDING = {  # by channel: what is asked for, and what was done
    "": ("send records to", "sent the records to"),
    "folder": ("save records as files for", "saved the records as files for"),
}
ENDED_BECAUSE = {
    "patient": "no further access; copies already made stay with the recipient",
    "time": "the time had run out",
    "uses": "it was opened as often as allowed",
    "restored": "it had ended before the backup was restored",
    "refused": "it was only proposed, and nothing was shared by it",
}


def line(
    entry: AuditEntry,
    recipients: Mapping[str, str],
    me: str | None,
    places: Mapping[int, str] | None = None,
) -> Line:
    """Put one audit entry into words.

    `recipients` names each grant's recipient, `places` each connection; `me` is who reads.
    """
    sentence = EVENTS.get(entry.event) or Sentence(f"did “{entry.event.replace('.', ' ')}”.")
    if entry.detail.get("section") == "record":
        sentence = ASKED.get(entry.event, sentence)
    words = _Words(_words(entry, recipients, places or {}))
    what = sentence.what.format_map(words)
    impersonal = sentence.what[0].isupper()
    who, because = _who(entry.actor, me), entry.detail.get("because")
    if entry.event == "grant.ended" and because in ("time", "uses"):
        who, what = "Homeport", f"ended what {words['recipient']} could see."
    return Line(
        seq=entry.seq,
        at=entry.at,
        who="" if impersonal else who,
        what=what,
        aside=sentence.aside.format_map(words).strip(" ·"),
        mark=sentence.mark,
        grant_id=entry.grant_id,
    )


class _Words(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return ""


def _words(
    entry: AuditEntry, recipients: Mapping[str, str], places: Mapping[int, str]
) -> dict[str, str]:
    detail = entry.detail
    words = {key: str(value) for key, value in detail.items()}
    words["recipient"] = recipients.get(entry.grant_id or "", "a recipient")
    words["name"] = str(entry.actor.get("name") or words["recipient"])
    number = detail.get("connection")
    words["connection"] = places.get(number, "a source") if isinstance(number, int) else "a source"
    words["send"], words["sent"] = SENDING.get(words.get("channel", ""), SENDING[""])
    words["fate"] = {
        "kept": "its records are kept",
        "erased": "its records were erased",
    }.get(words.get("records", ""), "")
    words["factor"] = PASSWORD.get(words.get("factor", ""), "")
    words["because"] = ENDED_BECAUSE.get(words.get("because", ""), "")
    type_ = words.get("type", "")  # of what is not offered nothing is said: an app may have made it
    kind = list_words(type_).lower() if type_ in KINDS or type_ == "Provenance" else ""
    words["kind"], words["of_kind"] = kind or "records", f": {kind}" if kind else ""
    words["sent_what"] = _sent_what(words.get("what", ""))
    words["member"] = str(detail.get("member") or "a member")
    words["may"] = ROLES.get(words.get("role", ""), "")
    words["might"] = f"until then: {words['may']}" if words["may"] else ""
    words["section"] = _section(detail.get("section"))
    words["records"] = counted(detail.get("records"), "record", "records")
    words["left"] = counted(detail.get("left"), "try", "tries")
    words["until"] = _moment(detail.get("until"))
    words["counts"] = ", ".join(
        f"{detail[name]} {name}"
        for name in ("new", "changed", "kept", "quarantined")
        if name in detail
    )
    return words


def _sent_what(what: str) -> str:
    """Return what an arrival holds, from the words of `sharing.inbox`: ours, never a sender's."""
    named = {"note": "a note", "file": "a file"}
    kinds = [named.get(each) or list_words(each).lower() for each in what.split(", ") if each]
    return ", ".join(kinds) or "something"


def counted(number: Any, one: str, many: str) -> str:
    """Return "1 record", "12 records", or "records" where the number is not known."""
    if not isinstance(number, int):
        return many
    return f"{number} {one if number == 1 else many}"


def _section(slug: Any) -> str:
    if slug == "first page":
        return "the first page"
    view = VIEWS.get(str(slug))
    return f"the page “{view.title}”" if view else "the record"


def _moment(text: Any) -> str:
    try:
        return clock.minute_here(datetime.fromisoformat(str(text)))
    except ValueError:
        return "a time that is not known"


def _who(actor: Mapping[str, Any], me: str | None) -> str:
    if actor.get("kind") == "account":
        return "You" if me is not None and actor.get("id") == me else str(actor.get("name", ""))
    if actor.get("kind") == "recipient":
        name = str(actor.get("name") or "A recipient")
        return sentence_case(name) if name.startswith("whoever ") else name
    return "The command line on this machine" if actor.get("name") == SHELL else "Homeport"
