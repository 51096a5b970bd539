"""Rows A of the list of bad inputs (docs/security-rows.md) that no other test covers."""

import json
import ssl
from urllib.parse import urlsplit

import pytest

from phr.http import Http
from phr.net import Guard
from phr.store import audit
from phr.store.models import LedgerState, PullState
from tests.fakes import puller
from tests.fakes.hospital import Hospital, patient
from tests.fixtures_hospital import FHIR, connected, go, ledger, observation, stored
from tests.fixtures_net import plain
from tests.unit.test_http import self_signed

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def vault(cast):
    return cast.vault("Ada")


def page_of(number, following):
    """One page with one record, leading on to `following`."""
    whole = {
        "resourceType": "Bundle",
        "link": [{"relation": "next", "url": following}],
        "entry": [{"resource": json.loads(observation(number))}],
    }
    return plain(json.dumps(whole).encode(), "200 OK", FHIR)


def test_two_pages_that_point_at_each_other_end_the_chain(vault, hospital, to_hospital):
    def in_a_circle(asked):
        other = 2 if asked.params.get("page") == "1" else 1
        return page_of(other, f"{hospital.base}/Observation?page={other}")

    hospital.faults["Observation"] = in_a_circle
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.PARTIAL
    assert hospital.count("Observation") < 10
    assert "circle" in ledger(vault, cid)["Observation"].sentence
    assert len(stored(vault, "Observation")) == 2


@pytest.mark.parametrize(
    "link",
    [
        "{base}.evil.example/Observation?page=2",
        "{scheme}evil@{place}/fhir/Observation?page=2",
        "{scheme}{place}@evil.example/fhir/Observation?page=2",
        "{scheme}{host}:1/fhir/Observation?page=2",
        "{base}/../../other/Observation?page=2",
        "{base}\\@evil.example/Observation",
    ],
    ids=["suffix", "userinfo", "userinfo host", "port", "dots", "backslash"],
)
def test_a_next_link_that_only_looks_like_ours_gets_no_token(vault, hospital, to_hospital, link):
    host, _, _ = hospital.server.place.partition(":")
    url = link.format(base=hospital.base, scheme="http://", place=hospital.server.place, host=host)
    hospital.faults["Observation"] = lambda _: page_of(1, url)
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.PARTIAL
    assert ledger(vault, cid)["Observation"].sentence
    assert not [asked for asked in hospital.asked if "page=2" in asked.url or "evil" in asked.url]


ODD = {
    "login page": (
        plain(b"<html><body>Sign in</body></html>", "200 OK", "Content-Type: text/html"),
        "sent a web page where records were asked for",
    ),
    "204": (plain(b"", "204 No Content"), "sent an empty answer"),
    "206": (plain(b'{"resourceType":"Bundle"', "206 Partial Content", FHIR), "hospital"),
    "304": (plain(b"", "304 Not Modified"), "sent an empty answer"),
    "418": (plain(b"tea", "418 Teapot"), "refused the question (answer 418)"),
    "500": (plain(b"", "500 Oops"), "failed at this question (error 500)"),
    "502": (
        plain(b"<html>bad gateway</html>", "502 Bad Gateway", "Content-Type: text/html"),
        "failed at this question (error 502)",
    ),
}


@pytest.mark.parametrize(("answer", "words"), ODD.values(), ids=ODD.keys())
def test_an_odd_answer_is_a_line_in_words_and_takes_nothing_away(
    vault, hospital, to_hospital, answer, words
):
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    hospital.faults["Observation"] = lambda _: answer
    go(vault, cid, to_hospital, full_days=0)
    line = ledger(vault, cid)["Observation"]
    assert line.state != LedgerState.DONE
    assert words in line.sentence
    assert "None" not in line.sentence
    assert len(stored(vault, "Observation")) == 6
    assert not any(record.withdrawn for record in stored(vault, "Observation"))
    assert ledger(vault, cid)["Condition"].got == 1


def test_a_certificate_that_changed_is_allowed_and_written_down(vault, tmp_path, caplog):
    """Valid both times, by another key: allowed, in the log and in the record's own log."""
    caplog.set_level("WARNING")
    hospital = Hospital(records={"Patient": [patient()]}, page=1000)
    shown = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shown[name] = self_signed(tmp_path / name)
    cid = puller.connect(vault, f"https://{urlsplit(hospital.base).netloc}/fhir")
    told = []
    for name in ("one", "one", "two", "two"):
        hospital._server.tls = shown[name]
        trusting = ssl.create_default_context(cafile=str(tmp_path / name / "cert.pem"))
        http = Http(Guard([hospital.place]), tls=trusting)
        assert go(vault, cid, http, full_days=0) in {PullState.DONE, PullState.PARTIAL}
        http.close()
        with vault.read() as session:
            told.append(audit.entries(session, limit=1)[0].detail.get("certificate"))
    hospital.close()
    assert told == [None, None, "changed", None]
    assert caplog.text.count("certificate.changed") == 1
