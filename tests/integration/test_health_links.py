"""SMART Health Links of ours: viewers, guessers, the patient who stops them (SHL 1.0)."""

import base64
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from phr import clock, ids, keep
from phr.errors import InvalidInput
from phr.fhir.record import Selection
from phr.sharing import gate, grants, health_links
from phr.sharing import provision as policy
from phr.sharing.provision import Provision, Rule
from phr.store import audit, records
from phr.store.models import Handle
from tests.cast import PUBLIC, Cast
from tests.fixtures_health_links import Made, health_link, payload_of
from tests.fixtures_sharing import ADA, Share, a_record, another_record, keep_all, label

HIDDEN = ("Hiddendepression", "Hiddenpractitioner", "Secretville")
LETTER = {
    "resourceType": "DocumentReference",
    "id": "d1",
    "status": "current",
    "type": {"text": "Discharge letter"},
    "subject": {"reference": "Patient/1"},
    "date": "2026-01-02T10:00:00Z",
    "content": [
        {
            "attachment": {
                "contentType": "text/plain",
                "data": base64.b64encode(b"Take it easy.").decode(),
            }
        }
    ],
}
SECRET_LETTER = LETTER | {"id": "d2", "meta": label("PSY"), "type": {"text": "Hiddendepression"}}


@pytest.fixture
def share(cast: Cast) -> Iterator[Share]:
    """Ada's record, shared from the running appliance."""
    vault = cast.vault("Ada")
    keep_all(vault, "North Quay", [*a_record(), LETTER, SECRET_LETTER])
    keep_all(vault, "Saltmarsh", another_record())
    return Share(cast.appliance, vault)


def lines(share: Share, made: Made) -> list[tuple[str, dict[str, Any]]]:
    with share.vault.read() as session:
        found = audit.entries(session, grant_id=made.grant_id)
        return [(each.event, dict(each.detail)) for each in found]


def tries_left(share: Share, made: Made) -> int:
    with share.vault.read() as session:
        return session.get_one(Handle, made.handle_id).tries_left


# ------------------------------------------------------------------ what the link says


def test_the_payload_is_what_the_standard_asks(cast: Cast, share: Share) -> None:
    made = health_link(share, has_passcode=True)
    said = made.payload
    assert said["url"].startswith(f"{PUBLIC}/h/")
    assert len(said["url"]) <= 128
    assert len(base64.urlsafe_b64decode(said["url"][-43:] + "=")) * 8 >= 256
    assert len(said["key"]) == 43
    assert said["flag"] == "P"
    assert said["v"] == 1
    assert len(said["label"]) <= 80
    assert said["exp"] == pytest.approx((clock.now() + timedelta(hours=24)).timestamp(), abs=60)
    assert "Ada" not in str(said)


@pytest.mark.parametrize(
    ("has_passcode", "days", "flag"),
    [(False, 1, ""), (True, 1, "P"), (False, 7, "L"), (True, 30, "LP")],
)
def test_flags_say_passcode_and_more_than_one_visit(
    *, has_passcode: bool, days: int, flag: str
) -> None:
    assert health_links.flags(has_passcode=has_passcode, lasts=timedelta(days=days)) == flag


def test_a_public_address_that_leaves_no_room_is_told_before_anything_is_made() -> None:
    health_links.must_fit("https://" + "x" * 52)
    with pytest.raises(InvalidInput, match="too long for a health link"):
        health_links.must_fit("https://" + "x" * 53)


def test_neither_secret_nor_passcode_is_kept(share: Share) -> None:
    made = health_link(share, has_passcode=True)
    with share.vault.read() as session:
        row = session.get_one(Handle, made.handle_id)
        kept = [value for value in vars(row).values() if isinstance(value, str | bytes)]
    secret = made.path[-43:]
    for value in kept:
        text = value if isinstance(value, str) else value.decode("latin-1")
        assert secret not in text
        assert made.passcode not in text


# ------------------------------------------------------------------ opening it


def test_a_viewer_gets_the_summary_made_now_from_what_is_shared(cast: Cast, share: Share) -> None:
    made = health_link(share)
    answer = made.ask(cast.stranger())
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert "status" not in answer.json()  # one visit
    first, letter = answer.json()["files"]
    bundle = made.opened(first["embedded"])
    assert bundle["type"] == "document"
    assert bundle["entry"][0]["resource"]["resourceType"] == "Composition"
    for word in ("Penicillin", "Asthma", "Underactive thyroid"):
        assert word in str(bundle)
    assert not [word for word in HIDDEN if word in str(bundle) + answer.text]
    assert letter["contentType"] == first["contentType"] == "application/fhir+json"
    assert lines(share, made)[0][0] == "health_link.opened"
    assert lines(share, made)[0][1]["claimed"] == "Clinic A"


def test_a_link_for_more_than_a_day_says_that_it_may_change(cast: Cast, share: Share) -> None:
    made = health_link(share, ends_at=clock.now() + timedelta(days=7))
    assert made.payload["flag"] == "L"
    assert made.ask(cast.stranger()).json()["status"] == "can-change"


def test_each_fetch_is_sealed_anew(cast: Cast, share: Share) -> None:
    made = health_link(share)
    viewer = cast.stranger()
    one, two = (made.ask(viewer).json()["files"][0]["embedded"] for _ in range(2))
    assert one.split(".")[2] != two.split(".")[2]
    assert "zip" not in str(base64.urlsafe_b64decode(one.split(".")[0] + "=="))


def test_a_letter_is_fetched_once_at_an_address_of_its_own(cast: Cast, share: Share) -> None:
    made = health_link(share)
    viewer = cast.stranger()
    place = made.ask(viewer).json()["files"][1]["location"].removeprefix(PUBLIC)
    assert viewer.head(place).status_code == 404
    answer = viewer.get(place)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/jose"
    assert answer.headers["cache-control"] == "no-store"
    bundle = made.opened(answer.text)
    types = [each["resource"]["resourceType"] for each in bundle["entry"]]
    assert types == ["Patient", "DocumentReference"]
    assert bundle["entry"][1]["resource"]["type"] == {"text": "Discharge letter"}
    assert viewer.get(place).status_code == 404
    assert lines(share, made)[0][0] == "health_link.fetched"


def test_the_kept_file_of_a_letter_comes_beside_it(cast: Cast, share: Share) -> None:
    there, gone = {"url": "Binary/b1"}, {"url": "Binary/b2"}
    content = [{"attachment": each} for each in (there, gone)]
    keep_all(share.vault, "Harbour", [LETTER | {"id": "d3", "content": content}])
    with share.vault.read() as session:
        wanted = Selection(types=("DocumentReference",))
        found = records.select(session, share.vault, wanted)
    (letter,) = [one for one in found if b"Binary/b1" in one.body]
    keep.attach(share.vault, letter.pk, "Binary/b1", "text/html", b"%PDF-1.4 x")
    made = health_link(share)
    viewer = cast.stranger()
    bundles = [
        made.opened(viewer.get(each["location"].removeprefix(PUBLIC)).text)
        for each in made.ask(viewer).json()["files"][1:]
    ]
    (bundle,) = [each for each in bundles if "Binary/b1" in str(each)]
    entry = bundle["entry"][2]
    assert entry["fullUrl"] == f"{PUBLIC}/fhir/Binary/b1"
    assert entry["resource"]["contentType"] == "application/pdf"  # by its bytes, not as it was said
    assert base64.b64decode(entry["resource"]["data"]) == b"%PDF-1.4 x"
    assert len(bundle["entry"]) == 3  # the other file never came


def test_an_address_of_a_letter_is_good_for_an_hour(
    cast: Cast, share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = health_link(share)
    viewer = cast.stranger()
    place = made.ask(viewer).json()["files"][1]["location"].removeprefix(PUBLIC)
    later = clock.now() + timedelta(minutes=61)
    monkeypatch.setattr(clock, "now", lambda: later)
    assert viewer.get(place).status_code == 404


def test_what_has_no_room_in_the_manifest_lies_apart(cast: Cast, share: Share) -> None:
    made = health_link(share)
    viewer = cast.stranger()
    files = made.ask(viewer, embeddedLengthMax=100).json()["files"]
    assert all("embedded" not in each for each in files)
    assert len({each["location"] for each in files}) == 2
    summary = viewer.get(files[0]["location"].removeprefix(PUBLIC))
    assert made.opened(summary.text)["type"] == "document"


def test_what_is_hidden_between_manifest_and_file_stays(cast: Cast, share: Share) -> None:
    made = health_link(share)
    viewer = cast.stranger()
    place = made.ask(viewer).json()["files"][1]["location"].removeprefix(PUBLIC)
    less = Provision((Rule(("AllergyIntolerance",)),), actions=policy.READING)
    gate.narrow(share.vault, made.grant_id, less, ADA)
    assert viewer.get(place).status_code == 404
    files = made.ask(viewer).json()["files"]
    assert len(files) == 1
    bundle = str(made.opened(files[0]["embedded"]))
    assert "Penicillin" in bundle
    assert "Asthma" not in bundle


def test_any_page_elsewhere_may_be_the_viewer(cast: Cast, share: Share) -> None:
    made = health_link(share)
    viewer = cast.stranger()
    asked = viewer.request("OPTIONS", made.path, headers={"origin": "https://viewer.example"})
    assert asked.status_code == 204
    assert "Content-Type" in asked.headers["access-control-allow-headers"]
    answer = viewer.post(
        made.path, json={"recipient": "x"}, headers={"origin": "https://viewer.example"}
    )
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers


def test_the_claimed_recipient_is_one_short_line_of_the_log(cast: Cast, share: Share) -> None:
    made = health_link(share)
    made.ask(cast.stranger(), recipient="Dr.\nNo\u202e " + "x" * 500)
    claimed = lines(share, made)[0][1]["claimed"]
    assert claimed.startswith("Dr. No x")
    assert len(claimed) == 80


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"recipient": ""}', b'{"recipient": 1}', b"{" * 2000,
     b'{"recipient": "x", "passcode": 7}', b'{"recipient": "x", "embeddedLengthMax": "1"}'],
    ids=["empty", "list", "nothing", "blank", "number", "deep", "passcode", "most"],
)  # fmt: skip
def test_what_is_no_request_is_refused_and_nothing_is_written(
    cast: Cast, share: Share, body: bytes
) -> None:
    made = health_link(share, has_passcode=True)
    answer = cast.stranger().post(made.path, content=body)
    assert answer.status_code == 400
    assert [event for event, _ in lines(share, made)] == ["grant.approved"]


# ------------------------------------------------------------------ passcodes


def test_a_wrong_passcode_is_told_with_what_is_left(cast: Cast, share: Share) -> None:
    made = health_link(share, has_passcode=True)
    viewer = cast.stranger()
    none = made.ask(viewer, passcode=None)
    assert (none.status_code, none.json()) == (401, {"remainingAttempts": 5})
    wrong = made.ask(viewer, passcode="not it")
    assert (wrong.status_code, wrong.json()) == (401, {"remainingAttempts": 4})
    assert made.ask(viewer).status_code == 200
    assert tries_left(share, made) == 4  # wrong ones count for good
    assert lines(share, made)[1][0] == "health_link.wrong_code"


def test_two_hundred_guesses_at_once_are_five_and_then_the_link_is_dead(
    cast: Cast, share: Share
) -> None:
    made = health_link(share, has_passcode=True)
    seen: Counter[int] = Counter()
    held = threading.Lock()
    start = threading.Barrier(20)
    viewers = [cast.stranger() for _ in range(20)]

    def guess(number: int) -> None:
        start.wait()
        for turn in range(10):
            passcode = f"{number * 10 + turn:06d}x"
            status = made.ask(viewers[number], passcode=passcode).status_code
            with held:
                seen[status] += 1

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert seen == {401: 5, 404: 195}
    assert made.ask(viewers[0]).status_code == 404  # also for who knows it
    assert "locked after five wrong passcodes" in str(share.vault.house.warnings(share.vault.id))


# ------------------------------------------------------------------ the end


def test_whatever_does_not_open_answers_alike(cast: Cast, share: Share) -> None:
    ended, paused, made = (health_link(share) for _ in range(3))
    gate.end(share.vault, ended.grant_id, "patient", ADA, now=clock.now())
    gate.suspend(share.vault, paused.grant_id, ADA)
    link = share.link()
    handle = link.url.rpartition("/")[2].split(".")
    of_a_link = health_links._routing(handle[0]) + handle[1]
    viewer = cast.stranger()
    wrong = made.path[:-43] + ids.new_secret()
    unknown = f"/h/{health_links._routing(ids.new_id())}{ids.new_secret()}"
    paths = [ended.path, paused.path, wrong, unknown, "/h/x", f"/h/{of_a_link}", "/h/" + "ä" * 65]
    answers = [viewer.post(path, json={"recipient": "x"}) for path in paths]
    assert {(each.status_code, each.content) for each in answers} == {(404, b"{}")}
    kept = [{n: v for n, v in each.headers.items() if n != "date"} for each in answers]
    assert all(each == kept[0] for each in kept)
    for odd in ("", "/results", "/record.json"):  # and it is no link for a browser
        assert viewer.get(f"/s/{made.handle_id}{odd}").status_code == 404


def test_stopping_ends_link_and_files_at_once_and_wipes_the_key(cast: Cast, share: Share) -> None:
    made = health_link(share)
    viewer = cast.stranger()
    place = made.ask(viewer).json()["files"][1]["location"].removeprefix(PUBLIC)
    ada = cast.browser("Ada")
    at = f"/p/{cast.patients['Ada']}/grants"
    assert ada.submit(f"{at}/{made.grant_id}/stop", page=at).status_code == 303
    assert made.ask(viewer).status_code == 404
    assert viewer.get(place).status_code == 404
    with share.vault.read() as session:
        assert grants.get(session, made.grant_id).ended_because == "patient"
        assert session.get_one(Handle, made.handle_id).content_key is None


def test_what_is_stopped_while_it_is_being_made_is_not_sent(
    cast: Cast, share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = health_link(share)
    whole = health_links.summary.bundle

    def stopped(released: Any, **given: Any) -> bytes:
        gate.end(share.vault, made.grant_id, "patient", ADA, now=clock.now())
        return whole(released, **given)

    monkeypatch.setattr(health_links.summary, "bundle", stopped)
    answer = made.ask(cast.stranger())
    assert (answer.status_code, answer.content) == (404, b"{}")


def test_a_link_ends_by_its_time(cast: Cast, share: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    made = health_link(share)
    later = clock.now() + timedelta(hours=25)
    monkeypatch.setattr(clock, "now", lambda: later)
    assert made.ask(cast.stranger()).status_code == 404
    with share.vault.read() as session:  # whoever asks first ends it, with its key
        assert grants.get(session, made.grant_id).ended_because == "time"
        assert session.get_one(Handle, made.handle_id).content_key is None


def test_who_asks_again_and_again_is_told_to_wait_also_in_parallel(
    cast: Cast, share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = health_link(share)
    at = clock.now()
    monkeypatch.setattr(clock, "now", lambda: at)
    viewers = [cast.stranger() for _ in range(health_links.RATE + 4)]
    with ThreadPoolExecutor(len(viewers)) as pool:
        heard = Counter(each.status_code for each in pool.map(made.ask, viewers))
    assert heard == {200: health_links.RATE, 429: 4}
    answer = made.ask(cast.stranger())
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 60
    later = at + timedelta(minutes=1)
    monkeypatch.setattr(clock, "now", lambda: later)
    assert made.ask(cast.stranger()).status_code == 200


def test_a_locked_link_gives_none_of_its_files_any_more(cast: Cast, share: Share) -> None:
    made = health_link(share, has_passcode=True)
    viewer = cast.stranger()
    given = made.ask(viewer, embeddedLengthMax=0).json()["files"]
    wrong = "000000" if made.passcode != "000000" else "111111"
    for _ in range(5):
        made.ask(viewer, passcode=wrong)
    for one in given:
        answer = viewer.get(one["location"].removeprefix(PUBLIC))
        assert (answer.status_code, answer.content) == (404, b"{}")


def test_a_sealed_record_says_come_back(cast: Cast, share: Share) -> None:
    made = health_link(share)
    cast.appliance.vaults.seal(cast.patients["Ada"])
    answer = made.ask(cast.stranger())
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "30"


# ------------------------------------------------------------------ the pages


def fields(cast: Cast, what: str) -> tuple[Any, dict[str, str], str]:
    ada = cast.browser("Ada")
    page = f"/p/{cast.patients['Ada']}/share"
    form = {"what": "primary", "whom": "Dr. Pell", "hours": "168", "do": what, "once": ids.new_id()}
    return ada, form, page


@pytest.mark.parametrize("what", ["health", "scan"])
def test_the_share_page_makes_one(cast: Cast, share: Share, what: str) -> None:
    ada, form, page = fields(cast, what)
    shown = ada.submit(page, form, page=page)
    assert shown.status_code == 200
    text = shown.text.partition('value="shlink:/')[2].partition('"')[0]
    said = payload_of(text)
    assert said.get("flag") == ("LP" if what == "health" else None)
    assert 'class="qr"' in shown.text
    answer = cast.stranger().post(said["url"].removeprefix(PUBLIC), json={"recipient": "x"})
    assert answer.status_code == (401 if what == "health" else 200)
    again = ada.submit(page, form, page=page)
    assert again.status_code == 409  # a form sent twice makes one link


def test_making_one_asks_for_a_fresh_password(
    cast: Cast, share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, form, page = fields(cast, "health")
    later = clock.now() + timedelta(minutes=6)
    monkeypatch.setattr(clock, "now", lambda: later)
    assert "password" in ada.submit(page, form, page=page).text.lower()
    with share.vault.read() as session:
        assert not grants.standing(session)


def test_what_the_patient_confirmed_names_the_way(cast: Cast, share: Share) -> None:
    ada, form, page = fields(cast, "scan")
    ada.submit(page, form, page=page)
    with share.vault.read() as session:
        (grant,) = grants.standing(session)
        assert "by a health link to scan" in grants.approvals(session, grant.id)[0].shown
        assert grant.ends_at - grant.starts_at == timedelta(days=1)
