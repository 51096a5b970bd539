"""Health links and cards that others made: opened, shown, kept or refused in plain words."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from phr import clock, jwt
from phr.connectors import health_card, health_link
from phr.errors import InvalidInput, TrustError
from phr.fhir.record import Selection
from phr.store import audit, connections, records
from tests.cast import Browser, Cast
from tests.fakes import shl_host
from tests.fakes.shl_host import CARD, FHIR, Host, sealed, text
from tests.fixtures_health_links import health_link as our_link
from tests.fixtures_sharing import Share, a_record, keep_all

BUNDLE = {
    "resourceType": "Bundle",
    "type": "collection",
    "entry": [
        {"fullUrl": "urn:uuid:1", "resource": {
            "resourceType": "Patient", "id": "p", "name": [{"family": "Sample"}],
            "birthDate": "1984-03-14"}},
        {"fullUrl": "urn:uuid:2", "resource": {
            "resourceType": "AllergyIntolerance", "id": "a", "code": {"text": "Latex"},
            "patient": {"reference": "Patient/p"}}},
    ],
}  # fmt: skip
SHOT = [
    {"resourceType": "Patient", "name": [{"family": "Sample"}], "birthDate": "1984-03-14"},
    {
        "resourceType": "Immunization",
        "status": "completed",
        "vaccineCode": {"coding": [{"system": "http://hl7.org/fhir/sid/cvx", "code": "207"}]},
        "patient": {"reference": "resource:0"},
        "occurrenceDateTime": "2021-03-01",
    },
]


@pytest.fixture
def host(cast: Cast) -> Iterator[Host]:
    with shl_host.running() as made:
        cast.appliance.http.guard.allow(f"127.0.0.1:{made.port}")
        made.publish()
        made.manifest = [{"contentType": FHIR, "embedded": sealed(json.dumps(BUNDLE).encode())}]
        yield made


def page_of(cast: Cast) -> str:
    return f"/p/{cast.patients['Ada']}/files/link"


def look(cast: Cast, given: str, *, ada: Browser | None = None, **more: str) -> Any:
    ada = ada or cast.browser("Ada")
    return ada.submit(page_of(cast), {"text": given} | more, page=page_of(cast))


def keep_it(cast: Cast, ada: Browser, page: Any, whose: str = "Ada") -> Any:
    """Press the button of a page on which something is shown; or the same at another's record."""
    shown = page.text.partition('name="shown" value="')[2].partition('"')[0]
    where = f"/p/{cast.patients[whose]}/files/link"
    return ada.submit(f"{where}/keep", {"shown": shown}, page=where)


def kept(cast: Cast, *types: str) -> list[Any]:
    vault = cast.vault("Ada")
    with vault.read() as session:
        return records.select(session, vault, Selection(types=types))


# ------------------------------------------------------------------ links


def test_what_is_behind_a_link_is_shown_before_anything_is_kept(cast: Cast, host: Host) -> None:
    ada = cast.browser("Ada")
    page = look(cast, host.link(label="A visit"), ada=ada)
    assert page.status_code == 200
    assert "Nothing is kept yet" in page.text
    for word in ("Latex", "Sample", "14 Mar 1984", "127.0.0.1", "“A visit”"):
        assert word in page.text
    assert not kept(cast, "AllergyIntolerance")
    assert host.asked == [("/m", {"recipient": health_link.RECIPIENT})]

    done = keep_it(cast, ada, page)
    assert done.status_code == 303
    (record,) = kept(cast, "AllergyIntolerance")
    assert record.document["code"] == {"text": "Latex"}
    vault = cast.vault("Ada")
    with vault.read() as session:
        (brought,) = connections.listed(session, kind="upload")
        assert brought.name.startswith("Health link of 127.0.0.1, ")
        assert next(e.event for e in audit.entries(session)) == "import.done"
    again = keep_it(cast, ada, page)
    assert again.status_code == 422  # once


def test_a_link_behind_a_viewer_and_a_file_at_a_location(cast: Cast, host: Host) -> None:
    host.files["/f"] = (200, sealed(json.dumps(BUNDLE).encode(), packed=True).encode())
    host.manifest = [{"contentType": FHIR, "location": f"{host.url}/f"}]
    page = look(cast, f"https://viewer.example/#{host.link()}")
    assert "Latex" in page.text


def test_one_file_without_a_manifest(cast: Cast, host: Host) -> None:
    host.files["/m"] = (200, sealed(json.dumps(BUNDLE).encode()).encode())
    assert "Latex" in look(cast, host.link(flag="U")).text
    assert host.asked[0][0].startswith("/m?recipient=A%20personal")


def test_a_link_of_our_own_opens_too(cast: Cast) -> None:
    """Two boxes and one standard: what we make, we read (here in memory, through no network)."""
    keep_all(cast.vault("Eve"), "North Quay", a_record())
    made = our_link(Share(cast.appliance, cast.vault("Eve")))
    link = health_link.read(made.text)
    assert link.url == made.payload["url"]
    answer = made.ask(cast.stranger()).json()
    body, kind = jwt.unseal(answer["files"][0]["embedded"], link.key)
    assert (kind, json.loads(body)["type"]) == (FHIR, "document")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("hello", "neither a health link"),
        ("shlink:/%%%", "cut off or was altered"),
        (f"shlink:/{text(b'[]')}", "cut off or was altered"),
        (f"shlink:/{text(b'{}')}", "not a health link"),
        ("shlink:/" + "A" * 5000, "not a health link"),
        ("", "Paste a health link"),
    ],
)
def test_what_is_no_link_is_said(cast: Cast, given: str, words: str) -> None:
    page = look(cast, given)
    assert page.status_code == 422
    assert words in page.text


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"exp": 1_000_000_000}, "ended on 09 Sep 2001"),
        ({"flag": "X"}, "not known here (“X”)"),
        ({"flag": "PU"}, "not known here (“PU”)"),
        ({"v": 2}, "not known here"),
        ({"flag": "P"}, "needs a passcode"),
        ({"key": "short"}, "no usable key"),
        ({"url": "http://169.254.169.254/x"}, "https"),
        ({"url": "file:///etc/passwd"}, "not"),
    ],
    ids=["expired", "flag", "both", "version", "passcode", "key", "address", "file"],
)
def test_what_cannot_be_opened_is_said_and_nobody_is_asked(
    cast: Cast, host: Host, more: dict[str, Any], words: str
) -> None:
    page = look(cast, host.link(**more))
    assert page.status_code >= 400
    assert words in page.text
    assert not host.asked


def test_wrong_passcodes_are_told_with_what_is_left(cast: Cast, host: Host) -> None:
    host.passcode, host.left = "1234", 3
    link = host.link(flag="P")
    assert "2 more tries are left" in look(cast, link, passcode="1").text
    assert "one more try is left" in look(cast, link, passcode="2").text
    assert "the link is locked" in look(cast, link, passcode="3").text
    assert "Latex" in look(cast, link, passcode="1234").text


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "nothing behind"), (429, "asks to wait"), (500, "an error (500)"), (302, "redirect")],
)
def test_a_server_that_does_not_give_it_is_said(
    cast: Cast, host: Host, status: int, words: str
) -> None:
    host.status = status
    page = look(cast, host.link())
    assert page.status_code >= 400
    assert words in page.text.lower() or status == 302


@pytest.mark.parametrize(
    "token",
    [
        sealed(b"{}")[:-4] + "AAAA",
        sealed(b"{}", enc="A128GCM"),
        sealed(b"{}", zip="GZIP"),
        sealed(b"{}", crit=["x"]),
        sealed(bytes(20 << 20), packed=True),
        "a.b.c",
        "ä..b.c.d",
    ],
    ids=["tag", "enc", "zip", "crit", "bomb", "jws", "ascii"],
)
def test_a_broken_or_boundless_file_is_refused(cast: Cast, host: Host, token: str) -> None:
    host.manifest = [{"contentType": FHIR, "embedded": token}]
    page = look(cast, host.link())
    assert page.status_code == 422
    assert "could not be opened" in page.text


@pytest.mark.parametrize(
    "files",
    [
        [{"contentType": FHIR}],
        ["x"],
        [{"contentType": FHIR, "embedded": "x"}] * 21,
        [{"contentType": "application/smart-api-access", "embedded": "x"}],
        [{"contentType": FHIR, "embedded": sealed(b"not json")}],
    ],
    ids=["neither", "text", "many", "other", "nonsense"],
)
def test_a_manifest_outside_the_standard_is_refused(
    cast: Cast, host: Host, files: list[Any]
) -> None:
    host.manifest = files
    assert look(cast, host.link()).status_code == 422


def test_inflating_stops_at_ten_mebibytes_and_at_what_is_cut_off() -> None:
    whole = json.dumps([{"number": number} for number in range(9_000)]).encode()
    assert jwt.inflated(shl_host.deflated(whole)) == whole
    for broken in (shl_host.deflated(bytes(11 << 20)), shl_host.deflated(whole)[:-3], b"\xff\xff"):
        with pytest.raises(TrustError):
            jwt.inflated(broken)


def test_keeping_what_was_not_looked_at_keeps_nothing(cast: Cast, host: Host) -> None:
    look(cast, host.link())
    elsewhere = cast.browser("Ada")
    page = elsewhere.submit(f"{page_of(cast)}/keep", page=page_of(cast))
    assert page.status_code == 422
    assert "forgotten" in page.text
    assert not kept(cast, "AllergyIntolerance")


def test_what_was_opened_for_one_person_is_never_kept_for_another(cast: Cast, host: Host) -> None:
    ada = cast.browser("Ada")
    page = look(cast, host.link(), ada=ada)
    assert keep_it(cast, ada, page, whose="Ben").status_code == 422
    for name in ("Ada", "Ben"):
        vault = cast.vault(name)
        with vault.read() as session:
            wanted = Selection(types=("AllergyIntolerance",))
            assert not records.select(session, vault, wanted)
    assert keep_it(cast, ada, page).status_code == 303


def test_what_is_kept_is_what_was_shown(cast: Cast, host: Host) -> None:
    ada = cast.browser("Ada")
    first = look(cast, host.link(), ada=ada)
    other = json.dumps(BUNDLE).replace("Latex", "Birch pollen")
    host.manifest = [{"contentType": FHIR, "embedded": sealed(other.encode())}]
    second = look(cast, host.link(), ada=ada)  # in another tab
    refused = keep_it(cast, ada, first)
    assert refused.status_code == 422
    assert "Something else was opened since" in refused.text
    assert not kept(cast, "AllergyIntolerance")
    assert keep_it(cast, ada, second).status_code == 303
    (record,) = kept(cast, "AllergyIntolerance")
    assert record.document["code"] == {"text": "Birch pollen"}


# ------------------------------------------------------------------ cards


def test_a_card_is_verified_shown_kept_and_forwarded_unchanged(cast: Cast, host: Host) -> None:
    jws = host.card(SHOT)
    ada = cast.browser("Ada")
    page = look(cast, health_card.numeric(jws), ada=ada)
    assert page.status_code == 200, page.text
    assert f"Signed by 127.0.0.1:{host.port}, verified on" in page.text
    keep_it(cast, ada, page)

    (shot,) = kept(cast, "Immunization")
    assert shot.document["vaccineCode"]["coding"][0]["code"] == "207"
    (card,) = kept(cast, "DocumentReference")
    assert f"Signed by 127.0.0.1:{host.port}, verified on" in card.document["description"]
    base = f"/p/{cast.patients['Ada']}/files/card/{card.local_id}"
    assert 'class="qr"' in ada.get(base).text
    assert base in ada.get(page_of(cast)).text
    file = ada.get(f"{base}/file")
    assert file.headers["content-type"].startswith(CARD)
    assert file.json() == {"verifiableCredential": [jws]}
    assert health_card.read(file.text) == [jws]


def test_what_is_no_card_cannot_be_forwarded(cast: Cast) -> None:
    paper = {"resourceType": "DocumentReference", "status": "current"}
    odd = {"attachment": {"contentType": CARD, "data": text(b"nothing")}}
    both = [{**paper, "id": "d", "content": [odd]}, {**paper, "id": "e", "content": []}]
    keep_all(cast.vault("Ada"), "North Quay", both)
    ada = cast.browser("Ada")
    for one in kept(cast, "DocumentReference"):
        path = f"/p/{cast.patients['Ada']}/files/card/{one.local_id}"
        assert ada.get(path).status_code == 404
    assert ada.get(f"/p/{cast.patients['Ada']}/files/card/x").status_code == 404


def test_a_file_of_several_cards_is_brought_as_one(cast: Cast, host: Host) -> None:
    cards = [host.card(SHOT), host.card(SHOT[:1])]
    ada = cast.browser("Ada")
    page = ada.post(
        page_of(cast),
        data={"csrf": ada.csrf(page_of(cast)), "text": "", "passcode": ""},
        files={"file": ("a.smart-health-card", health_card.file(cards))},
    )
    assert page.text.count("Signed by 127.0.0.1:") == 2
    keep_it(cast, ada, page)
    assert len(kept(cast, "DocumentReference")) == 2


def test_a_card_inside_a_link_is_judged_like_any_other(cast: Cast, host: Host) -> None:
    inside = sealed(health_card.file([host.card(SHOT)]), CARD)
    host.manifest = [{"contentType": CARD, "embedded": inside}]
    assert "Signed by 127.0.0.1:" in look(cast, host.link()).text


def objection(cast: Cast, jws: str) -> str:
    return health_card.judge(cast.appliance.http, jws, now=clock.now()).objection


def test_a_card_that_stands_has_no_objection(cast: Cast, host: Host) -> None:
    assert objection(cast, host.card(SHOT)) == ""


def test_another_signature_is_told_and_only_the_card_is_kept(cast: Cast, host: Host) -> None:
    jws = host.card(SHOT)
    host.key = type(host.key).generate_key("P-256")
    host.publish()
    assert "does not fit" in objection(cast, jws)
    ada = cast.browser("Ada")
    page = look(cast, jws, ada=ada)
    assert "Not verified" in page.text
    assert "Only the card itself would be kept" in page.text
    keep_it(cast, ada, page)
    assert not kept(cast, "Immunization")
    (card,) = kept(cast, "DocumentReference")
    assert "Not verified" in card.document["description"]


LONG = "health-service." * 8


@pytest.mark.parametrize(
    "issuer",
    [
        "https://[",
        "https://a.example:99999999",
        f"https://{LONG}x.attacker.example",
        "https://g\u03bfv.example",
        "https://attacker.example/\u202egro.ecivres",
        "https://attacker.example/a\nSigned by another",
        "https://attacker.example/a b",
    ],
    ids=["no address", "no port", "long", "alike", "reordered", "two lines", "a space"],
)
def test_an_issuer_that_cannot_be_shown_whole_is_refused(
    cast: Cast, host: Host, issuer: str
) -> None:
    page = look(cast, host.card(SHOT, iss=issuer))
    assert page.status_code == 422
    assert "no address that can be shown whole" in page.text
    assert not host.asked


def test_an_issuer_is_shown_with_its_whole_name(cast: Cast, host: Host) -> None:
    name = f"{LONG[:75]}x.attacker.example"
    assert f"Says it is signed by {name}" in look(cast, host.card(SHOT, iss=f"https://{name}")).text


def nested(deep: int) -> dict[str, Any]:
    return {"resourceType": "Basic", "x": json.loads("[" * deep + "]" * deep)}


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        (nested(400), "nested deeper"),
        (nested(900), "nested deeper"),
        ({"resourceType": "Observation", "code": {"text": "\ud800"}}, "half of a character"),
    ],
    ids=["deep", "deeper", "half a character"],
)
def test_a_card_of_what_no_record_holds_is_refused(
    cast: Cast, host: Host, inside: dict[str, Any], words: str
) -> None:
    page = look(cast, host.card([inside]))
    assert page.status_code == 422
    assert words in page.text


def test_an_altered_payload_does_not_fit(cast: Cast, host: Host) -> None:
    one, two = host.card(SHOT).split("."), host.card(SHOT[:1]).split(".")
    assert "does not fit" in objection(cast, f"{one[0]}.{two[1]}.{one[2]}")


def test_a_key_that_is_named_otherwise_than_its_thumbprint_counts_for_nothing(
    cast: Cast, host: Host
) -> None:
    jws = host.card(SHOT)
    other = type(host.key).generate_key("P-256")
    kid = host.key.thumbprint()
    host.key = other
    host.publish(kid=kid)
    assert "does not fit" in objection(cast, jws)


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"nbf": 9_000_000_000}, "not valid yet"),
        ({"nbf": "soon"}, "not valid yet"),
        ({"exp": 1_700_000_001}, "run out"),
        ({"exp": "never"}, "run out"),
    ],
    ids=["future", "text", "past", "words"],
)
def test_times_are_looked_at(cast: Cast, host: Host, claims: dict[str, Any], words: str) -> None:
    assert words in objection(cast, host.card(SHOT, **claims))


@pytest.mark.parametrize(
    ("listed", "stands"),
    [(["other"], True), (["r1"], False), (["r1.1600000000"], True), (["r1.1800000000"], False),
     (["r1.x"], False)],
    ids=["other", "this", "earlier", "later", "odd"],
)  # fmt: skip
def test_the_list_of_withdrawn_cards_counts(
    cast: Cast,
    host: Host,
    listed: list[str],
    stands: bool,
) -> None:
    host.publish(crlVersion=1)
    jws = host.card(SHOT, vc={"rid": "r1"})
    assert "publishes no keys" in objection(cast, jws)  # a list that is named must be there
    path = f"/.well-known/crl/{host.key.thumbprint()}.json"
    host.files[path] = (200, json.dumps({"rids": listed}).encode())
    assert objection(cast, jws) == ("" if stands else "Its issuer has withdrawn it.")


@pytest.mark.parametrize("more", ["/?said=", "/#", "/a/../b@c"], ids=["query", "mark", "name"])
def test_an_issuer_does_not_let_anothers_server_speak_for_it(
    cast: Cast, host: Host, more: str
) -> None:
    jws = host.card(SHOT, iss=host.url + more)
    assert "no address of its own" in objection(cast, jws)
    assert not host.asked


def test_the_whole_address_of_an_issuer_is_shown(cast: Cast, host: Host) -> None:
    host.files["/clinic/.well-known/jwks.json"] = host.files["/.well-known/jwks.json"]
    jws = host.card(SHOT, iss=f"{host.url}/clinic")
    assert f"Signed by 127.0.0.1:{host.port}/clinic, verified" in look(cast, jws).text


def test_an_issuer_that_cannot_be_asked_is_no_proof(cast: Cast, host: Host) -> None:
    host.files["/.well-known/jwks.json"] = (500, b"")
    assert "publishes no keys" in objection(cast, host.card(SHOT))
    host.files["/.well-known/jwks.json"] = (200, b"[]")
    assert "cannot be read" in objection(cast, host.card(SHOT))
    assert "no https" in objection(cast, host.card(SHOT, iss="http://10.0.0.1"))
    assert "could not be fetched" in objection(cast, host.card(SHOT, iss="https://10.0.0.1"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("shc:/1/3/2859", "several QR codes"),
        ("shc:/285", "cut off"),
        ("shc:/28xx", "cut off"),
        ("shc:/9999", "cut off"),
        ("a.b.c", "cut off"),
        ('{"verifiableCredential": []}', "not a health card"),
        ('{"verifiableCredential": ["x"]}', "not a health card"),
        (json.dumps({"verifiableCredential": ["a.b.c"] * 21}), "more than 20"),
    ],
)
def test_what_is_no_card_is_said(cast: Cast, given: str, words: str) -> None:
    page = look(cast, given)
    assert page.status_code == 422
    assert words in page.text


@pytest.mark.parametrize("claims", [{"iss": 7}, {"vc": []}], ids=["issuer", "credential"])
def test_claims_that_are_none_are_no_card(cast: Cast, host: Host, claims: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        health_card.judge(cast.appliance.http, _signed(host, claims), now=clock.now())


def _signed(host: Host, claims: dict[str, Any]) -> str:
    head = text(json.dumps({"alg": "ES256", "zip": "DEF", "kid": "k"}).encode())
    said = {"iss": host.url, "vc": {}} | claims
    return f"{head}.{text(shl_host.deflated(json.dumps(said).encode()))}.AA"


# ------------------------------------------------------------------ whose it is, and what is what


OTTO = {
    "resourceType": "Patient",
    "id": "o",
    "name": [{"family": "Other", "given": ["Otto"]}],
    "birthDate": "1990-01-01",
}


def manifest(host: Host, *bundles: list[dict[str, Any]]) -> None:
    host.manifest = []
    for inside in bundles:
        body = {"resourceType": "Bundle", "type": "collection"}
        body |= {"entry": [{"resource": each} for each in inside]}
        host.manifest.append({"contentType": FHIR, "embedded": sealed(json.dumps(body).encode())})


def test_what_seems_to_be_about_somebody_else_is_said_beside_whose_record_this_is(
    cast: Cast, host: Host
) -> None:
    ada = cast.browser("Ada")
    first = look(cast, host.link(), ada=ada)
    assert "does not say yet whom it is about" in first.text
    assert "somebody else" not in first.text
    keep_it(cast, ada, first)
    allergy = {"resourceType": "AllergyIntolerance", "id": "z", "code": {"text": "Penicillin"}}
    manifest(host, [allergy, OTTO])
    page = look(cast, host.link(), ada=ada)
    assert "This may be about somebody else" in page.text
    assert "Otto Other, born 1 Jan 1990" in page.text
    assert "This record is about Sample, born 14 Mar 1984" in page.text
    assert 'class="main">Keep it' not in page.text

    keep_it(cast, ada, page)  # said, and kept all the same: nothing of it gets in
    assert [each.document["code"]["text"] for each in kept(cast, "AllergyIntolerance")] == ["Latex"]
    assert len(kept(cast, "Patient")) == 1


def test_a_file_of_a_link_about_another_person_is_set_aside_alone(cast: Cast, host: Host) -> None:
    ada = cast.browser("Ada")
    keep_it(cast, ada, look(cast, host.link(), ada=ada))
    unnamed = {"resourceType": "Observation", "status": "final", "code": {"text": "theirs"}}
    ours = {**unnamed, "code": {"text": "ours"}}
    manifest(host, [unnamed, OTTO], [ours, BUNDLE["entry"][0]["resource"]])  # type: ignore[index]
    keep_it(cast, ada, look(cast, host.link(), ada=ada))
    assert [each.document["code"]["text"] for each in kept(cast, "Observation")] == ["ours"]


def test_all_files_of_a_link_are_one_place(cast: Cast, host: Host) -> None:
    ada = cast.browser("Ada")
    seen = [
        {"resourceType": "Observation", "id": f"o{number}", "status": "final"}
        for number in range(3)
    ]
    manifest(host, *([each] for each in seen))
    page = look(cast, host.link(), ada=ada)
    assert page.text.count("Health link of 127.0.0.1") == 3
    keep_it(cast, ada, page)
    assert len(kept(cast, "Observation")) == 3
    with cast.vault("Ada").read() as session:
        (brought,) = connections.listed(session, kind="upload")
    assert brought.name.startswith("Health link of 127.0.0.1, ")
    assert "3 records" in ada.get(f"/p/{cast.patients['Ada']}/files").text


def test_cards_in_the_list_are_told_apart_by_what_they_say(cast: Cast, host: Host) -> None:
    ada = cast.browser("Ada")
    second = [SHOT[0], {**SHOT[1], "occurrenceDateTime": "2022-04-02"}]
    for inside in (SHOT, second):
        page = look(cast, host.card(inside), ada=ada)
        assert "against COVID-19" in page.text
        keep_it(cast, ada, page)
    listed = ada.get(page_of(cast)).text
    for day in ("1 Mar 2021", "2 Apr 2022"):
        assert f"Vaccine against COVID-19 (CVX 207), {day}" in listed


def test_a_card_that_is_cut_off_is_said_to_be(cast: Cast, host: Host) -> None:
    whole = health_card.numeric(host.card(SHOT))
    page = look(cast, whole[:201])
    assert page.status_code == 422
    assert "cut off or was altered" in page.text


def test_a_wrong_file_is_named_as_one_and_its_text_is_not_shown(cast: Cast) -> None:
    ada = cast.browser("Ada")
    files = {"file": ("notes.txt", b"dear diary", "text/plain")}
    page = ada.submit(page_of(cast), {"text": ""}, page=page_of(cast), files=files)
    assert page.status_code == 422
    assert "in this file" in page.text
    assert "dear diary" not in page.text


def test_a_link_of_this_house_has_nothing_to_bring(cast: Cast) -> None:
    keep_all(cast.vault("Eve"), "North Quay", a_record())
    made = our_link(Share(cast.appliance, cast.vault("Eve")))
    page = look(cast, made.text)
    assert page.status_code == 422
    assert "made by this Homeport" in page.text
