"""The inbox: what strangers send waits, is accepted beside the record, and every step is undone."""

import base64
import json
from collections.abc import Mapping
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy.orm import Session

from phr import clock, keep, transcribe
from phr.errors import Conflict, Denied, Ended, InvalidInput, NotFound, TooManyTries
from phr.fhir.record import Record, Selection
from phr.sharing import gate, inbox, recipients
from phr.sharing import provision as policy
from phr.sharing.gate import Presented, Terms
from phr.sharing.handles import Link
from phr.sharing.inbox import Sent
from phr.sharing.provision import READING, Action
from phr.store import audit, connections, papers, records
from phr.store.models import Arrival, ArrivalState, Authorization, RecipientKind
from tests.fixtures_clinical import RXNORM, allergy, document, medicine
from tests.fixtures_sharing import ADA, Share, condition, lab, share

__all__ = ["share"]
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00"
    b"\x1f\x15\xc4\x89"
)
CANARY = "Zinnoberkanarie"


class Doctor:
    """Somebody with a claimed link under which he may send."""

    def __init__(self, share: Share, *, may_send: bool = True, whom: str = "Dr. Pell") -> None:
        now = clock.now()
        provision = policy.preset("primary", now=now)
        if may_send:
            provision = policy.Provision(provision.rules, actions=READING | {Action.CONTRIBUTE})
        self.share = share
        self.link: Link = share.link(provision, recipient=whom)
        self.cookie = share.claimed(self.link)

    def stands(self) -> Terms:
        shown = Presented(self.link.handle_id, self.cookie)
        return gate.look(self.share.vault, shown, now=clock.now())

    def sends(self, content: bytes | str = "Please repeat the potassium.", **more: Any) -> Any:
        body = content.encode() if isinstance(content, str) else content
        sent = Sent(body, **{"is_note": isinstance(content, str), **more})
        given = {"handle_id": self.link.handle_id, "now": clock.now()}
        return inbox.receive(self.share.vault, self.stands, sent, **given)

    def withdraws(self, arrival_id: str) -> str:
        return inbox.withdraw(self.share.vault, self.stands, arrival_id, now=clock.now())


@pytest.fixture
def doctor(share: Share) -> Doctor:
    return Doctor(share)


def arrival(share: Share, arrival_id: str) -> Arrival:
    with share.vault.read() as session:
        return inbox.get(session, arrival_id)


def accept(share: Share, arrival_id: str) -> None:
    inbox.accept(share.vault, arrival_id, ADA, now=clock.now())


def undo(share: Share, arrival_id: str) -> None:
    inbox.undo(share.vault, arrival_id, ADA, now=clock.now())


def everything(share: Share) -> list[Record]:
    with share.vault.read() as session:
        return records.select(session, share.vault, Selection())


def documents(share: Share) -> list[Record]:
    return [one for one in everything(share) if one.type == "DocumentReference"]


def state(share: Share, arrival_id: str) -> str:
    return arrival(share, arrival_id).state


def bundle(*resources: Mapping[str, Any]) -> bytes:
    entries = [{"resource": each} for each in resources]
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}).encode()


def events(share: Share) -> list[str]:
    with share.vault.read() as session:
        found = [each.event for each in audit.entries(session, limit=50)]
    return [each for each in found[::-1] if each.startswith("inbox.")]


# ------------------------------------------------------------------ receiving


def test_what_a_doctor_sends_waits_outside_of_the_record(share: Share, doctor: Doctor) -> None:
    before = everything(share)
    received = doctor.sends(CANARY, title="Advice", signed="A. Pell")
    assert (received.is_known, received.state) == (False, ArrivalState.WAITING)
    assert [one.pk for one in everything(share)] == [one.pk for one in before]
    held = arrival(share, received.id)
    assert (held.kind, held.what, held.title, held.signed) == (
        "note",
        ["note"],
        "Advice",
        "A. Pell",
    )
    assert inbox.received(held) == CANARY.encode()
    assert inbox.waiting(share.vault) == 1
    assert events(share) == ["inbox.received"]


def test_a_grant_that_does_not_let_its_holder_send_takes_nothing(share: Share) -> None:
    with pytest.raises(Denied):
        Doctor(share, may_send=False).sends()
    assert inbox.waiting(share.vault) == 0


def by_mail(share: Share, content: str, name: str = "pell@direct.example") -> inbox.Received:
    def sender(session: Session) -> str:
        found = recipients.named(session, name, RecipientKind.LINK, now=clock.now())
        return found.id

    sent = Sent(content.encode(), is_note=True, way=inbox.DIRECT)
    return inbox.receive_from(share.vault, sender, sent, now=clock.now())


def test_what_came_without_a_grant_waits_within_the_same_limits(
    share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = by_mail(share, "a letter")
    held = arrival(share, received.id)
    assert (held.grant_id, held.handle_id, received.state) == (None, None, ArrivalState.WAITING)
    assert by_mail(share, "a letter").is_known
    monkeypatch.setattr(inbox, "MOST_HOURLY_MAILED", 2)
    by_mail(share, "another")
    with pytest.raises(TooManyTries):
        by_mail(share, "one more")
    assert by_mail(share, "one more", "moss@direct.example").state == ArrivalState.WAITING
    accept(share, received.id)
    with share.vault.read() as session:
        assert inbox.by_what(session, held) == "by Direct mail, its signature checked"
        (place,) = connections.listed(session, kind=connections.CONTRIBUTED)
        assert place.name == "pell@direct.example (by Direct mail, its signature checked)"
    assert events(share) == ["inbox.received"] * 3 + ["inbox.accepted"]


def test_what_a_server_sends_is_not_called_an_apps(share: Share, doctor: Doctor) -> None:
    held = arrival(share, doctor.sends("words").id)
    with share.vault.write() as session:
        assert inbox.by_what(session, held) == "by link, not verified"
        held.way = inbox.API
        assert inbox.by_what(session, held) == "by an app, not verified"
        allowed = Authorization(
            grant_id=str(held.grant_id), client_id="x", account_id="ada", scopes="",
            redirect_uri="https://app.example.org/back", code_challenge="", chain_key=b"",
        )  # fmt: skip
        session.add(allowed)
        session.flush()
        assert inbox.by_what(session, held) == "by an app, not verified"
        allowed.redirect_uri = ""
        assert inbox.by_what(session, held) == "by a server, not verified"


def test_a_web_page_is_taken_from_mail_alone(share: Share, doctor: Doctor) -> None:
    page = b"<!doctype html><html><body><p>Advice</p></body></html>"
    with pytest.raises(InvalidInput):
        doctor.sends(page)
    content = inbox.look_at(Sent(page, way=inbox.DIRECT))
    assert (content.kind, content.media_type) == ("file", "text/html")


def test_what_must_not_be_kept_leaves_nothing(share: Share) -> None:
    def sender(_: Session) -> str:
        raise Denied

    with pytest.raises(Denied):
        inbox.receive_from(share.vault, sender, Sent(b"x", is_note=True), now=clock.now())
    assert inbox.waiting(share.vault) == 0


def test_nothing_arrives_after_the_grant_has_ended(share: Share, doctor: Doctor) -> None:
    gate.end(share.vault, doctor.link.grant_id, "patient", ADA, now=clock.now())
    with pytest.raises(Ended):
        doctor.sends()
    assert inbox.waiting(share.vault) == 0


def test_the_same_bytes_are_one_arrival_however_often_they_come(
    share: Share, doctor: Doctor
) -> None:
    first, again = doctor.sends(PDF), doctor.sends(PDF)
    assert (again.id, again.is_known) == (first.id, True)
    assert inbox.waiting(share.vault) == 1
    other = Doctor(share, whom="Dr. Moss").sends(PDF)
    assert not other.is_known
    with share.vault.read() as session:
        assert [one.id for one in inbox.twins(session, arrival(share, other.id))] == [first.id]


@pytest.mark.parametrize(
    ("content", "kind", "media_type"),
    [
        (PDF, "file", "application/pdf"),
        (PNG, "file", "image/png"),
        (b"Potassium 4.1", "file", "text/plain"),
        (bundle(lab("s1", "2024-05-01")), "records", "application/fhir+json"),
        (json.dumps(lab("s1", "2024-05-01")).encode(), "records", "application/fhir+json"),
    ],
    ids=["pdf", "picture", "text", "bundle", "resource"],
)
def test_what_something_is_its_bytes_say(
    share: Share, doctor: Doctor, content: bytes, kind: str, media_type: str
) -> None:
    held = arrival(share, doctor.sends(content, name="report.exe").id)
    assert (held.kind, held.media_type) == (kind, media_type)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"   \n",
        b"PK\x03\x04zip",
        b"\x7fELF\x00\x00",
        b"<html><script>alert(1)</script></html>",
        b'{"resourceType": "Observation", "id": "1"',
        b'{"resourceType": "Nonsense", "id": "1"}',
        b'{"resourceType":"Observation","resourceType":"Patient","id":"1"}',
        b'{"resourceType":"Bundle","entry":[' + b"[" * 500,
        b'{"resourceType":"Patient","id":"1","birthDate":"1970-01-01"}',
        b'{"resourceType":"Consent","id":"1","status":"active"}',
        bundle(*(lab(f"s{n}", "2024-05-01") for n in range(201))),
        b"%PDF-" + b"x" * (10 << 20),
    ],
    ids=[
        *("empty", "blank", "zip", "program", "web page", "cut off", "unknown type", "twice"),
        *("deep", "only a person", "a consent", "too many", "too large"),
    ],
)
def test_hostile_files_are_refused_with_a_sentence_and_leave_nothing(
    share: Share, doctor: Doctor, content: bytes
) -> None:
    with pytest.raises(InvalidInput):
        doctor.sends(content)
    assert inbox.waiting(share.vault) == 0
    assert events(share) == []


def test_limits_are_kept_in_the_record_itself(share: Share, doctor: Doctor) -> None:
    for number in range(inbox.MOST_HOURLY):
        doctor.sends(f"note {number}")
    with pytest.raises(TooManyTries):
        doctor.sends("one more")


def test_a_full_inbox_says_so(
    share: Share, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MOST_WAITING", 1)
    doctor.sends("first")
    with pytest.raises(Conflict):
        doctor.sends("second")
    monkeypatch.setattr(inbox, "MOST_WAITING", 20)
    monkeypatch.setattr(inbox, "MOST_BYTES", 9)
    with pytest.raises(Conflict, match=inbox.NO_ROOM):
        doctor.sends("third")


def test_one_sender_fills_his_own_share_and_nobody_elses(
    share: Share, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Doctor(share, whom="Dr. Moss")
    monkeypatch.setattr(inbox, "MOST_OF_ONE", 9)
    doctor.sends("first")
    with pytest.raises(Conflict, match=inbox.FULL):
        doctor.sends("second")
    assert other.sends("third").state == ArrivalState.WAITING
    assert inbox.MOST_OF_ONE * 4 <= inbox.MOST_BYTES


def test_a_note_has_an_end(share: Share, doctor: Doctor) -> None:
    with pytest.raises(InvalidInput):
        doctor.sends("x" * (inbox.MOST_NOTE + 1))


# ------------------------------------------------------------------ accepting, and back


def test_an_accepted_note_stands_beside_the_record_with_its_author(
    share: Share, doctor: Doctor
) -> None:
    before = {one.pk: one.body for one in everything(share)}
    received = doctor.sends(CANARY, title="Advice", signed="A. Pell")
    accept(share, received.id)
    after = {one.pk: one for one in everything(share)}
    assert {pk: after[pk].body for pk in before} == before
    added = [one for pk, one in after.items() if pk not in before]
    assert sorted(one.type for one in added) == ["DocumentReference", "Provenance"]
    (note,) = documents(share)
    assert note.document["description"] == CANARY
    with share.vault.read() as session:
        place = gate.origins(session)[note.connection_id]
    assert place.name == "Dr. Pell (by link, not verified)"
    (provenance,) = [one.document for one in added if one.type == "Provenance"]
    who = [agent["who"]["display"] for agent in provenance["agent"]]
    assert who == ["Dr. Pell, by link, not verified; signed as A. Pell", "Ada"]
    assert inbox.waiting(share.vault) == 0
    assert events(share) == ["inbox.received", "inbox.accepted"]


def test_an_accepted_file_is_kept_as_it_came(share: Share, doctor: Doctor) -> None:
    received = doctor.sends(PDF, name="letter.pdf")
    accept(share, received.id)
    (letter,) = documents(share)
    with share.vault.read() as session:
        (link,) = records.attachments(session, letter.pk)
        held = records.attachment(session, link.hash or b"")
    assert held is not None
    assert held[1] == PDF


def test_accepting_can_be_undone_and_done_again(share: Share, doctor: Doctor) -> None:
    before = [one.pk for one in everything(share)]
    received = doctor.sends(PDF)
    accept(share, received.id)
    kept = documents(share)[0].local_id
    undo(share, received.id)
    assert [one.pk for one in everything(share)] == before
    assert state(share, received.id) == "waiting"
    accept(share, received.id)
    assert documents(share)[0].local_id == kept
    assert events(share)[-3:] == ["inbox.accepted", "inbox.undone", "inbox.accepted"]


def test_what_is_decided_is_not_decided_again(share: Share, doctor: Doctor) -> None:
    received = doctor.sends()
    accept(share, received.id)
    with pytest.raises(Conflict):
        accept(share, received.id)
    with pytest.raises(Conflict):
        inbox.reject(share.vault, received.id, ADA, now=clock.now())
    with pytest.raises(NotFound):
        accept(share, "nothing")


def test_rejecting_can_be_undone_for_thirty_days(share: Share, doctor: Doctor) -> None:
    received = doctor.sends()
    inbox.reject(share.vault, received.id, ADA, now=clock.now())
    inbox.tidy(share.vault, now=clock.now())
    undo(share, received.id)
    assert state(share, received.id) == "waiting"
    inbox.reject(share.vault, received.id, ADA, now=clock.now())
    inbox.tidy(share.vault, now=clock.now() + timedelta(days=31))
    assert arrival(share, received.id).content is None
    with pytest.raises(Conflict):
        undo(share, received.id)


def test_received_resources_are_kept_byte_for_byte(share: Share, doctor: Doctor) -> None:
    sent = json.dumps(lab("s9", "2024-05-01", value="4.10"))
    received = doctor.sends(bundle(json.loads(sent)), is_note=False)
    accept(share, received.id)
    (kept,) = [one for one in everything(share) if one.remote_id == "s9"]
    assert json.loads(kept.body) == json.loads(sent)


def test_two_files_that_call_something_alike_stay_two(share: Share, doctor: Doctor) -> None:
    first = doctor.sends(bundle(lab("1", "2024-05-01", value="4.1")))
    second = doctor.sends(bundle(lab("1", "2024-06-01", value="5.2")))
    accept(share, first.id)
    accept(share, second.id)
    found = [one for one in everything(share) if (one.type, one.remote_id) == ("Observation", "1")]
    assert len({one.local_id for one in found}) == 2


def test_nothing_of_a_hospital_is_ever_overwritten(share: Share, doctor: Doctor) -> None:
    before = {one.pk: (one.version, one.body) for one in everything(share)}
    accept(share, doctor.sends(bundle(condition("c1", "Nothing at all"), lab("o1", "2024"))).id)
    after = {one.pk: (one.version, one.body) for one in everything(share)}
    assert {pk: after[pk] for pk in before} == before


def test_a_person_in_a_file_is_told_and_never_added(share: Share, doctor: Doctor) -> None:
    stranger = {
        "resourceType": "Patient",
        "id": "x",
        "name": [{"family": "Other", "given": ["Somebody"]}],
        "birthDate": "1950-01-01",
    }
    received = doctor.sends(bundle(stranger, lab("s1", "2024-05-01")))
    held = arrival(share, received.id)
    assert inbox.named_person(held) == ("Somebody Other", "1950-01-01")
    assert held.what == ["Observation"]
    before = sum(one.type == "Patient" for one in everything(share))
    accept(share, received.id)
    assert sum(one.type == "Patient" for one in everything(share)) == before


def test_what_would_be_added_can_be_looked_at_and_nothing_is_kept(
    share: Share, doctor: Doctor
) -> None:
    received = doctor.sends(bundle(lab("s1", "2024-05-01"), condition("k", "Gout")))
    before = [one.pk for one in everything(share)]
    shown = inbox.as_records(share.vault, arrival(share, received.id))
    assert [one.type for one in shown] == ["Observation", "Condition"]
    assert [one.pk for one in everything(share)] == before


# ------------------------------------------------------------------ the sender's own


def test_amending_what_waits_replaces_it(share: Share, doctor: Doctor) -> None:
    first = doctor.sends("first")
    second = doctor.sends("second", amends=first.id)
    assert (state(share, first.id), state(share, second.id)) == ("withdrawn", "waiting")
    assert arrival(share, first.id).content is None
    with share.vault.read() as session:
        listed = inbox.sent_by(session, doctor.link.grant_id)
    assert [one.id for one in listed] == [second.id]


def test_amending_what_was_accepted_waits_and_then_is_the_newer_version(
    share: Share, doctor: Doctor
) -> None:
    first = doctor.sends("first")
    accept(share, first.id)
    second = doctor.sends("second", amends=first.id)
    assert documents(share)[0].document["description"] == "first"
    accept(share, second.id)
    (note,) = documents(share)
    assert note.document["description"] == "second"
    with share.vault.read() as session:
        versions = records.versions(session, share.vault, note.type, note.local_id)
    assert [one.document["description"] for one in versions] == ["second", "first"]
    undo(share, second.id)
    assert documents(share)[0].document["description"] == "first"
    assert (state(share, first.id), state(share, second.id)) == ("accepted", "waiting")


def test_withdrawing_what_waits_ends_it(share: Share, doctor: Doctor) -> None:
    received = doctor.sends()
    assert doctor.withdraws(received.id) == "withdrawn"
    assert arrival(share, received.id).content is None
    assert inbox.waiting(share.vault) == 0
    with pytest.raises(NotFound):
        doctor.withdraws(received.id)


def test_withdrawing_what_was_accepted_asks_the_patient(share: Share, doctor: Doctor) -> None:
    received = doctor.sends()
    accept(share, received.id)
    assert doctor.withdraws(received.id) == "accepted"
    assert doctor.withdraws(received.id) == "accepted"  # asked once
    assert len(documents(share)) == 1
    with share.vault.read() as session:
        (asked,) = inbox.listed(session, ArrivalState.WAITING)
    accept(share, asked.id)
    assert documents(share) == []
    assert state(share, received.id) == "withdrawn"
    undo(share, asked.id)
    assert len(documents(share)) == 1
    assert state(share, received.id) == "accepted"


def test_asking_again_to_withdraw_is_no_news(share: Share, doctor: Doctor) -> None:
    received = doctor.sends()
    accept(share, received.id)
    doctor.withdraws(received.id)
    told = events(share)
    for _ in range(20):
        assert doctor.withdraws(received.id) == "accepted"
    assert events(share) == told
    assert inbox.waiting(share.vault) == 1


def test_withdrawing_counts_within_what_a_grant_may_ask_for(
    share: Share, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = doctor.sends()
    accept(share, received.id)
    monkeypatch.setattr(inbox, "MOST_EVER", 1)
    with pytest.raises(Conflict):
        doctor.withdraws(received.id)
    monkeypatch.setattr(inbox, "MOST_HOURLY", 1)
    with pytest.raises(TooManyTries):
        doctor.withdraws(received.id)
    assert inbox.waiting(share.vault) == 0


def test_an_amendment_never_becomes_a_version_of_something_else_that_was_sent(
    share: Share, doctor: Doctor
) -> None:
    one = doctor.sends(bundle(lab("n1", "2024-05-01", "1.11")))
    two = doctor.sends(bundle(lab("n2", "2024-05-02", "2.22")))
    accept(share, one.id)
    accept(share, two.id)
    amended = doctor.sends(bundle(lab("n2", "2024-05-03", "9.99")), amends=one.id)
    accept(share, amended.id)
    assert values(share) == [("n2", 1, "2.22"), ("n2", 1, "9.99")]
    undo(share, amended.id)
    assert values(share) == [("n1", 1, "1.11"), ("n2", 1, "2.22")]


def values(share: Share) -> list[tuple[str, int, str]]:
    return sorted(
        (one.remote_id, one.version, str(one.document["valueQuantity"]["value"]))
        for one in everything(share)
        if one.remote_id in {"n1", "n2"}
    )


def test_nobody_amends_or_withdraws_what_somebody_else_sent(share: Share, doctor: Doctor) -> None:
    received = doctor.sends()
    other = Doctor(share, whom="Dr. Moss")
    with pytest.raises(NotFound):
        other.sends("mine", amends=received.id)
    with pytest.raises(NotFound):
        other.withdraws(received.id)
    with share.vault.read() as session, pytest.raises(NotFound):
        inbox.own(session, other.link.grant_id, received.id)


def test_who_may_no_longer_send_may_not_withdraw_either(share: Share, doctor: Doctor) -> None:
    received = doctor.sends()
    less = policy.preset("primary", now=clock.now())
    gate.narrow(share.vault, doctor.link.grant_id, less, ADA)
    with pytest.raises(Denied):
        doctor.withdraws(received.id)
    with pytest.raises(Denied):
        doctor.sends("more")


# ------------------------------------------------------------------ rules


def test_what_is_let_in_beforehand_comes_in_and_says_by_which_rule(
    share: Share, doctor: Doctor
) -> None:
    first = doctor.sends("first")
    inbox.always(share.vault, first.id, ADA, now=clock.now())
    second = doctor.sends("second")
    assert second.state == ArrivalState.ACCEPTED
    assert doctor.sends(PDF).state == ArrivalState.WAITING  # another kind of thing
    assert Doctor(share, whom="Dr. Moss").sends("third").state == ArrivalState.WAITING
    with share.vault.read() as session:
        (rule,) = inbox.rules(session)
        assert [one.id for one in inbox.let_in_by(session, rule.id)] == [second.id]
    inbox.end_rule(share.vault, rule.id, ADA, now=clock.now())
    inbox.end_rule(share.vault, rule.id, ADA, now=clock.now())
    assert doctor.sends("fourth").state == ArrivalState.WAITING
    undo(share, second.id)
    assert documents(share) == []


def test_a_rule_made_for_one_link_is_not_for_another_of_the_same_name(
    share: Share, doctor: Doctor
) -> None:
    inbox.always(share.vault, doctor.sends("first").id, ADA, now=clock.now())
    assert doctor.sends("second").state == ArrivalState.ACCEPTED
    namesake = Doctor(share)
    assert (
        arrival(share, namesake.sends("third").id).recipient_id
        == arrival(share, doctor.sends("fourth").id).recipient_id
    )
    assert namesake.sends("fifth").state == ArrivalState.WAITING


def test_a_rule_never_lets_in_what_names_a_person(share: Share, doctor: Doctor) -> None:
    first = doctor.sends(bundle(lab("s1", "2024-05-01")))
    inbox.always(share.vault, first.id, ADA, now=clock.now())
    named = bundle({"resourceType": "Patient", "id": "x"}, lab("s2", "2024-05-02"))
    assert doctor.sends(named).state == ArrivalState.WAITING
    assert doctor.sends(bundle(lab("s3", "2024-05-03"))).state == ArrivalState.ACCEPTED


def test_a_rule_that_is_not_there_cannot_be_ended(share: Share) -> None:
    with pytest.raises(NotFound):
        inbox.end_rule(share.vault, 99, ADA, now=clock.now())
    with pytest.raises(NotFound):
        inbox.always(share.vault, "nothing", ADA, now=clock.now())


def test_a_rule_never_lets_in_what_takes_the_place_of_something(
    share: Share, doctor: Doctor
) -> None:
    first = doctor.sends("first words")
    accept(share, first.id)
    inbox.always(share.vault, first.id, ADA, now=clock.now())
    assert doctor.sends("other words", amends=first.id).state == ArrivalState.WAITING
    assert [one.document["description"] for one in documents(share)] == ["first words"]
    assert doctor.sends("something else").state == ArrivalState.ACCEPTED


def test_a_rule_never_lets_in_a_clinical_document(share: Share, doctor: Doctor) -> None:
    inbox.always(share.vault, doctor.sends(PDF).id, ADA, now=clock.now())
    inbox.always(share.vault, doctor.sends(paper_of(PNG)).id, ADA, now=clock.now())
    coded = doctor.sends(LETTER)
    assert coded.state == ArrivalState.WAITING
    with pytest.raises(InvalidInput):
        inbox.always(share.vault, coded.id, ADA, now=clock.now())
    assert doctor.sends(paper_of(LETTER)).state == ArrivalState.WAITING
    assert doctor.sends(paper_of(PDF)).state == ArrivalState.ACCEPTED
    assert doctor.sends(PDF + b"2").state == ArrivalState.ACCEPTED


def paper_of(content: bytes) -> bytes:
    data = base64.b64encode(content).decode()
    held = [{"attachment": {"data": data}}, {"attachment": {"url": "Binary/none"}}]
    return bundle({"resourceType": "DocumentReference", "id": sha256(content).hexdigest()[:9],
                   "status": "current", "content": held})  # fmt: skip


# ------------------------------------------------------------------ what documents say

LETTER = document(
    allergy(f'<code code="111" displayName="{CANARY}" {RXNORM}/>'),
    medicine('<statusCode code="active"/>'),
    born="19840314",
)
NEXT = document(allergy(f'<code code="112" displayName="Latex" {RXNORM}/>'), born="19840314")


def told(share: Share) -> list[str]:
    """Read what waits; return what stands in the record of places that recipients filled."""
    transcribe.run(share.vault)
    with share.vault.read() as session:
        origins = connections.origins(session)
    found = [one for one in everything(share) if origins[one.connection_id].kind != "fhir"]
    return sorted(one.type for one in found if "Dr." in origins[one.connection_id].name)


def test_undoing_a_clinical_document_takes_out_all_it_said(share: Share, doctor: Doctor) -> None:
    before = [one.pk for one in everything(share)]
    received = doctor.sends(LETTER)
    accept(share, received.id)
    assert {"AllergyIntolerance", "MedicationStatement"} <= set(first := told(share))
    undo(share, received.id)
    assert told(share) == []
    assert [one.pk for one in everything(share)] == before
    with share.vault.read() as session:
        names = [one.name for one in connections.origins(session).values()]
        assert papers.find(session, CANARY, 5) == []
    assert not any("Pell" in name for name in names)
    accept(share, received.id)
    assert told(share) == first


def test_what_is_withdrawn_or_amended_takes_along_what_it_said(
    share: Share, doctor: Doctor
) -> None:
    other = Doctor(share, whom="Dr. Moss").sends(NEXT)
    accept(share, other.id)
    beside = told(share)
    received = doctor.sends(LETTER)
    accept(share, received.id)
    assert "MedicationStatement" in told(share)
    amended = doctor.sends(NEXT, amends=received.id)
    accept(share, amended.id)
    assert "MedicationStatement" not in told(share)
    assert told(share).count("AllergyIntolerance") == 2
    doctor.withdraws(amended.id)
    (asked,) = waiting_ones(share)
    accept(share, asked.id)
    assert told(share) == beside


def waiting_ones(share: Share) -> list[Arrival]:
    with share.vault.read() as session:
        return inbox.listed(session, ArrivalState.WAITING)


def test_what_is_taken_back_while_it_is_read_leaves_nothing(
    share: Share, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(everything(share))
    read, judged = transcribe.apart.entries, transcribe._labelled
    received = doctor.sends(LETTER)

    def read_meanwhile(content: bytes) -> Any:
        undo(share, received.id)
        return read(content)

    def judged_meanwhile(*given: Any, **more: Any) -> Any:
        undo(share, received.id)
        return judged(*given, **more)

    for where, name, meanwhile in (
        (transcribe.apart, "entries", read_meanwhile),
        (transcribe, "_labelled", judged_meanwhile),
    ):
        accept(share, received.id)
        with monkeypatch.context() as patched:
            patched.setattr(where, name, meanwhile)
            transcribe.run(share.vault)
        assert state(share, received.id) == "waiting"
        assert told(share) == []
        assert len(everything(share)) == before


# ------------------------------------------------------------------ odd moments


def test_an_acceptance_that_is_cut_off_stops_nothing_else(
    share: Share, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = doctor.sends()
    ready = inbox._ready

    def meanwhile(*given: Any) -> Any:
        made = ready(*given)
        doctor.withdraws(received.id)
        return made

    monkeypatch.setattr(inbox, "_ready", meanwhile)
    with pytest.raises(Conflict):
        accept(share, received.id)
    with share.vault.read() as session:
        assert not papers.is_importing(session)
        (place,) = connections.listed(session, kind=connections.CONTRIBUTED)
        assert place.id not in connections.origins(session)
    monkeypatch.undo()
    accept(share, doctor.sends("the next").id)
    with share.vault.read() as session:
        runs = connections.pulls(session, place.id)
        assert place.id in connections.origins(session)
    assert [run.state for run in runs] == ["done", "stopped"]


def test_a_claim_on_what_somebody_sent_is_no_import(share: Share, doctor: Doctor) -> None:
    accept(share, doctor.sends().id)
    with share.vault.write() as session:
        (place,) = connections.listed(session, kind=connections.CONTRIBUTED)
        place.claimed_by = connections.last_pull(session, place.id).id
    with share.vault.read() as session:
        assert not papers.is_importing(session)


def test_a_file_in_the_place_of_another_is_kept_with_it_and_goes_with_it(
    share: Share, doctor: Doctor
) -> None:
    first = doctor.sends(PDF)
    accept(share, first.id)
    second = doctor.sends(PDF + b"2", amends=first.id)
    accept(share, second.id)
    (letter,) = documents(share)
    with share.vault.read() as session:
        assert all(each.hash for each in records.attachments(session, letter.pk))
    undo(share, second.id)
    assert documents(share)[0].document["content"][0]["attachment"]["size"] == len(PDF)
    undo(share, first.id)
    assert documents(share) == []


def test_each_sender_has_a_place_of_his_own(share: Share, doctor: Doctor) -> None:
    accept(share, doctor.sends("one").id)
    accept(share, Doctor(share, whom="Dr. Moss").sends("two").id)
    accept(share, doctor.sends("three").id)
    assert len({one.connection_id for one in documents(share)}) == 2


def test_two_people_who_decide_at_once_decide_once(
    share: Share, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = doctor.sends()
    inbox.reject(share.vault, received.id, ADA, now=clock.now())
    look = inbox._replaced_by

    def meanwhile(session: Any, held: Arrival) -> Any:
        monkeypatch.setattr(inbox, "_replaced_by", look)
        undo(share, received.id)
        return look(session, held)

    monkeypatch.setattr(inbox, "_replaced_by", meanwhile)
    with pytest.raises(Conflict):
        undo(share, received.id)
    assert state(share, received.id) == "waiting"


def test_what_cannot_be_kept_after_all_is_not_accepted_by_half(
    share: Share, doctor: Doctor
) -> None:
    resource = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}
    sent = json.dumps(resource).encode()
    received = doctor.sends(sent, way=inbox.API, type="Observation")
    before = [one.pk for one in everything(share)]
    spoilt = sent[:-1] + b',"x":' + b"[" * 200 + b"]" * 200 + b"}"
    with share.vault.write() as session:
        sql = "UPDATE arrival SET content = ? WHERE id = ?"
        session.connection().exec_driver_sql(sql, (spoilt, received.id))
    with pytest.raises(InvalidInput):
        accept(share, received.id)
    assert [one.pk for one in everything(share)] == before
    assert state(share, received.id) == "waiting"


def test_a_rule_whose_arrival_cannot_be_kept_leaves_it_waiting(
    share: Share, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.always(share.vault, doctor.sends("first").id, ADA, now=clock.now())
    inbox.always(share.vault, doctor.sends(PDF).id, ADA, now=clock.now())
    inbox.always(share.vault, arrival_of(share, "note"), ADA, now=clock.now())

    def refused(*_: Any, **__: Any) -> None:
        raise Conflict

    monkeypatch.setattr(inbox, "accept", refused)
    assert doctor.sends("second").state == ArrivalState.WAITING


def arrival_of(share: Share, kind: str) -> str:
    with share.vault.read() as session:
        found = inbox.listed(session, ArrivalState.WAITING)
    return next(one.id for one in found if one.kind == kind)


def test_what_was_erased_adds_nothing(share: Share, doctor: Doctor) -> None:
    received = doctor.sends(bundle(lab("s1", "2024-05-01")))
    doctor.withdraws(received.id)
    assert inbox.as_records(share.vault, arrival(share, received.id)) == []
    assert inbox.named_person(arrival(share, received.id)) is None


def test_a_program_sends_one_resource_of_an_offered_type(share: Share, doctor: Doctor) -> None:
    with pytest.raises(InvalidInput):
        doctor.sends(b'{"resourceType":"Patient"}', way=inbox.API, type="Patient")


def test_taking_out_what_is_not_there_changes_nothing(share: Share) -> None:
    before = [one.pk for one in everything(share)]
    with share.vault.write() as session:
        assert keep.take_out(session, 1, [("Observation", "nothing")]) == 0
    assert [one.pk for one in everything(share)] == before
