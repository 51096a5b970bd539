"""Files by the FHIR API: what an address in a document leads to, who may read it, and $docref.

FHIR R4 §2.37 (Binary), US Core 6.1.0 DocumentReference/$docref; leaks: no way but the document's.
"""

import base64
import json
from typing import Any

import pytest

from phr import clock, keep
from phr.fhir import references
from phr.sharing import gate
from phr.sharing.provision import Action, Provision
from phr.store import records
from phr.store.models import Connection
from phr.store.vault import Vault
from tests.cast import Cast
from tests.fixtures_fhir import App, app_for, everything, issue_of
from tests.fixtures_sharing import a_record, keep_all, keep_more, label, recent

PDF = b"%PDF-1.7 Canaryletter"
LETTER = "Binary/letter"
ELSEWHERE = "https://files.example/scan.pdf"
CCD = {"coding": [{"system": "http://loinc.org", "code": "34133-9"}]}
NOTE = {"coding": [{"system": "http://loinc.org", "code": "11506-3"}]}


def paper(name: str, *urls: str, kind: Any = None, said: str = "application/pdf", **more: Any):
    return {
        "resourceType": "DocumentReference",
        "id": name,
        "status": "current",
        "type": kind or NOTE,
        "subject": {"reference": "Patient/1"},
        "date": recent(20),
        "content": [{"attachment": {"contentType": said, "url": url}} for url in urls],
        **more,
    }


class Papers:
    """A record with documents, and what was fetched for them."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault
        self.connection = keep_all(vault, "North Quay", a_record())

    def keep(self, *resources: dict[str, Any]) -> None:
        keep_more(self.vault, self.connection, list(resources))

    def id_of(self, name: str, type_: str = "DocumentReference") -> str:
        return records.local_id(self.vault, self.connection, type_, name)

    def fetched(self, name: str, url: str, content: bytes, said: str = "application/pdf") -> None:
        with self.vault.read() as session:
            found = records.get(session, self.vault, "DocumentReference", self.id_of(name))
        keep.attach(self.vault, found.pk, url, said, content)

    def base(self) -> str:
        with self.vault.read() as session:
            return session.get_one(Connection, self.connection).base_url


@pytest.fixture
def papers(cast: Cast) -> Papers:
    return Papers(cast.vault("Ada"))


def addresses(app: App, local_id: str) -> list[str]:
    body = app.get(f"DocumentReference/{local_id}").json()
    return [each["attachment"]["url"] for each in body["content"]]


# ------------------------------------------------------------------ the bytes


def test_every_address_of_a_document_leads_to_its_bytes_with_the_same_token(
    cast: Cast, papers: Papers
) -> None:
    absolute = f"{papers.base()}/Binary/other"
    papers.keep(paper("d1", LETTER, absolute, ELSEWHERE))
    for url, content in ((LETTER, PDF), (absolute, PDF + b"2"), (ELSEWHERE, PDF + b"3")):
        papers.fetched("d1", url, content)
    app = app_for(cast, papers.vault, scopes="patient/DocumentReference.rs")

    given = addresses(app, papers.id_of("d1"))
    found = [app.get(address, headers={"accept": "application/pdf"}) for address in given]

    assert [each.content for each in found] == [PDF, PDF + b"2", PDF + b"3"]
    assert all(each.headers["content-type"] == "application/pdf" for each in found)
    search = app.found("DocumentReference")[0]["content"]
    assert [each["attachment"]["url"] for each in search] == given


def test_a_file_is_sandboxed_and_only_saved(cast: Cast, papers: Papers) -> None:
    page = b"<html><script>alert(1)</script></html>"
    papers.keep(paper("d1", LETTER, said="text/html"))
    papers.fetched("d1", LETTER, page, "text/html")
    app = app_for(cast, papers.vault)
    answer = app.get(addresses(app, papers.id_of("d1"))[0], headers={"accept": "*/*"})
    assert answer.content == page
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("content", "said", "served"),
    [
        (PDF, "text/html", "application/pdf"),
        (b"<html><p>x", "application/pdf", "text/html"),
        (b"a;b\n1;2\n", "text/csv", "text/csv"),
        (b"alert(1)", "text/javascript", "text/plain"),
        (b"plain", "image/svg+xml", "text/plain"),
        (b"\0\1\2", "application/msword", "application/msword"),
        (b"\0\1\2", "nonsense\r\nx: y", "application/octet-stream"),
    ],
    ids=["pdf", "html", "csv", "script", "svg", "word", "nonsense"],
)
def test_the_media_type_is_what_the_bytes_are(
    cast: Cast, papers: Papers, content: bytes, said: str, served: str
) -> None:
    papers.keep(paper("d1", LETTER))
    papers.fetched("d1", LETTER, content, said)
    app = app_for(cast, papers.vault)
    answer = app.get(addresses(app, papers.id_of("d1"))[0], headers={"accept": "*/*"})
    assert answer.headers["content-type"].partition(";")[0] == served
    assert answer.content == content


def test_who_asks_for_fhir_gets_a_binary_that_names_its_document(
    cast: Cast, papers: Papers
) -> None:
    papers.keep(paper("d1", LETTER))
    papers.fetched("d1", LETTER, PDF)
    app = app_for(cast, papers.vault)
    address = addresses(app, papers.id_of("d1"))[0]
    found = app.get(address).json()
    assert found["resourceType"] == "Binary"
    assert f"Binary/{found['id']}" == address
    assert base64.b64decode(found["data"]) == PDF
    assert found["securityContext"] == {"reference": f"DocumentReference/{papers.id_of('d1')}"}


def test_a_binary_that_came_in_the_same_file_is_served_unless_it_is_private(
    cast: Cast, papers: Papers
) -> None:
    data = base64.b64encode(PDF).decode()
    sent = {"resourceType": "Binary", "id": "letter", "contentType": "application/pdf"}
    papers.keep(paper("d1", LETTER), sent | {"data": data})
    app = app_for(cast, papers.vault)
    address = addresses(app, papers.id_of("d1"))[0]
    assert app.get(address, headers={"accept": "*/*"}).content == PDF
    keep.mark_private(papers.vault, papers.id_of("letter", "Binary"), on=True)
    assert app.get(address).status_code == 404


def test_a_file_that_is_not_here_is_told_like_one_that_never_was(
    cast: Cast, papers: Papers
) -> None:
    papers.keep(paper("d1", LETTER, ELSEWHERE))
    app = app_for(cast, papers.vault)
    own, foreign = addresses(app, papers.id_of("d1"))
    assert foreign == ELSEWHERE  # nothing of it is here: it stays the sender's
    answer = app.get(own)
    absent = app.get(f"Binary/{papers.id_of('d1')}-{'0' * 16}")
    assert (answer.status_code, answer.content) == (absent.status_code, absent.content)
    assert issue_of(answer)["code"] == "not-found"


# ------------------------------------------------------------------ leaks


def test_no_way_leads_to_the_file_of_a_hidden_document(cast: Cast, papers: Papers) -> None:
    vault = papers.vault
    papers.keep(
        paper("open", LETTER),
        paper("closed", "Binary/secret", meta=label("PSY")),
        {"resourceType": "Binary", "id": "secret", "contentType": "text/plain",
         "data": base64.b64encode(b"Canary in a Binary").decode()},
    )  # fmt: skip
    papers.fetched("open", LETTER, PDF)
    papers.fetched("closed", "Binary/secret", b"Canarysecret")
    whole = Provision(everything().rules, ~everything().labels, frozenset(Action))
    knows = app_for(cast, vault, whole)
    [theirs] = addresses(knows, papers.id_of("closed"))
    assert knows.get(theirs, headers={"accept": "*/*"}).content == b"Canarysecret"

    app = app_for(cast, vault)
    mark = theirs.rpartition("-")[2]
    tried = [
        theirs,
        f"Binary/{papers.id_of('secret', 'Binary')}",
        f"Binary/{papers.id_of('closed')}",
        f"Binary/{papers.id_of('open')}-{mark}",
        "Binary/secret",
        "Binary?_id=secret",
        f"Binary/{papers.id_of('secret', 'Binary')}/_history",
        f"{theirs}/_history/1",
    ]
    absent = {
        accept: app.get(f"Binary/{'0' * 16}-{'0' * 16}", headers={"accept": accept})
        for accept in ("*/*", "application/fhir+json")
    }
    for path in tried:
        for accept, nothing in absent.items():
            answer = app.get(path, headers={"accept": accept})
            assert answer.status_code == 404, path
            assert answer.content == nothing.content, path
            assert b"Canary" not in answer.content


@pytest.mark.parametrize(("type_", "name"), [("Patient", "1"), ("Practitioner", "gp")])
def test_a_file_of_a_person_leaves_by_no_address_also_by_one_made_up_rightly(
    cast: Cast, papers: Papers, type_: str, name: str
) -> None:
    """The Patient that leaves is composed, and who treated is only named: photos are not of it."""
    papers.keep(paper("d1", LETTER))
    papers.fetched("d1", LETTER, PDF)
    whose = papers.id_of(name, type_)
    with papers.vault.read() as session:
        person = records.get(session, papers.vault, type_, whose)
    keep.attach(papers.vault, person.pk, LETTER, "application/pdf", PDF)
    app = app_for(cast, papers.vault)
    [address] = addresses(app, papers.id_of("d1"))
    assert app.get(address).status_code == 200
    mark = address.rpartition("-")[2]  # of the file's own address, the same in every record
    assert app.get(f"Binary/{whose}-{mark}").status_code == 404


def test_a_token_that_reaches_no_documents_reaches_no_files(cast: Cast, papers: Papers) -> None:
    papers.keep(paper("d1", LETTER))
    papers.fetched("d1", LETTER, PDF)
    [address] = addresses(app_for(cast, papers.vault), papers.id_of("d1"))
    other = app_for(cast, papers.vault, scopes="patient/Observation.rs")
    assert other.get(address).status_code == 404
    stranger = App(papers.vault, other.token, cast.stranger())
    stranger.token = type(other.token)("", "", "", "", other.token.expires_at)
    assert stranger.get(address).status_code == 401


def test_the_doctors_download_keeps_addresses_that_lead_nowhere_else(papers: Papers) -> None:
    """Only a token can read a Binary: a Bundle for a link names none."""
    papers.keep(paper("d1", ELSEWHERE))
    papers.fetched("d1", ELSEWHERE, PDF)
    with papers.vault.read() as session:
        found = records.get(session, papers.vault, "DocumentReference", papers.id_of("d1"))
    assert ELSEWHERE.encode() in records.released_bytes(papers.vault, found)


# ------------------------------------------------------------------ $docref


def me(papers: Papers) -> str:
    return references.patient_id(papers.vault.id_key)


def documents(app: App, query: str) -> list[str]:
    answer = app.get(f"DocumentReference/$docref?{query}")
    assert answer.status_code == 200, answer.text
    bundle = answer.json()
    assert (bundle["type"], bundle["total"]) == ("searchset", len(bundle.get("entry", ())))
    return [each["resource"]["id"] for each in bundle.get("entry", ())]


@pytest.fixture
def shelf(papers: Papers) -> Papers:
    period = {"period": {"start": "2019-03-01", "end": "2019-03-04"}}
    papers.keep(
        paper("old", LETTER, kind=CCD, date="2018-01-01T00:00:00Z"),
        paper("new", "Binary/2", kind=CCD, date="2021-01-01T00:00:00Z"),
        paper("stay", "Binary/3", date="2019-05-01T00:00:00Z", context=period),
        paper("closed", "Binary/4", date="2022-01-01T00:00:00Z", meta=label("PSY")),
    )
    return papers


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["new", "stay"]),  # the most recent one of each kind
        ("&type=http://loinc.org|34133-9", ["new"]),
        ("&start=2018-01-01&end=2018-12-31", ["old"]),
        ("&start=2019-03-03&end=2019-03-03", ["stay"]),
        ("&start=2019-05-01&end=2019-05-02", []),  # it is about March, whenever it was written
        ("&start=2020", ["new"]),
        ("&end=2019-03-01", ["stay", "old"]),
        ("&start=2022-01-01", []),  # one is hidden
        ("&start=2000&type=http://loinc.org|34133-9&on-demand=false", ["new", "old"]),
    ],
)
def test_docref_finds_documents_by_patient_type_and_time_of_care(
    cast: Cast, shelf: Papers, query: str, names: list[str]
) -> None:
    app = app_for(cast, shelf.vault)
    found = documents(app, f"patient={me(shelf)}{query}")
    assert found == [shelf.id_of(name) for name in names]


def test_docref_takes_parameters_in_a_body_too(cast: Cast, shelf: Papers) -> None:
    app = app_for(cast, shelf.vault)
    sent = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "patient", "valueId": me(shelf)},
            {"name": "type", "valueCodeableConcept": CCD},
            {"name": "start", "valueDate": "2018-01-01"},
            {"name": "end", "valueDate": "2018-12-31"},
        ],
    }
    answer = app.browser.post(
        "/fhir/DocumentReference/$docref",
        content=json.dumps(sent),
        headers={
            "authorization": f"Bearer {app.token.text}",
            "content-type": "application/fhir+json",
            "accept": "application/fhir+json",
        },
    )
    assert answer.status_code == 200, answer.text
    assert [e["resource"]["id"] for e in answer.json()["entry"]] == [shelf.id_of("old")]


def test_docref_refuses_what_it_does_not_understand(cast: Cast, shelf: Papers) -> None:
    app = app_for(cast, shelf.vault)
    for query in ("", "patient=", f"patient={me(shelf)}&start=yesterday",
                  f"patient={me(shelf)}&color=red", f"patient={me(shelf)}&patient=x"):  # fmt: skip
        assert app.get(f"DocumentReference/$docref?{query}").status_code == 400, query
    assert documents(app, f"patient={'0' * 16}") == []
    none = app_for(cast, shelf.vault, scopes="patient/Observation.rs")
    assert none.get(f"DocumentReference/$docref?patient={me(shelf)}").status_code == 403


def test_nothing_of_a_file_is_read_once_the_grant_is_over(cast: Cast, papers: Papers) -> None:
    papers.keep(paper("d1", LETTER))
    papers.fetched("d1", LETTER, PDF)
    app = app_for(cast, papers.vault)
    [address] = addresses(app, papers.id_of("d1"))
    gate.end(papers.vault, app.token.grant_id, "patient", {"kind": "account"}, now=clock.now())
    answer = app.get(address)
    assert answer.status_code == 401
    assert PDF not in answer.content
