"""The pages of a record in the real application: sections, one record, files, search, Home."""

import base64
import re

import pytest

from phr import views
from phr.clock import now
from phr.store import records
from phr.store.models import Member
from tests.fixtures_records import concept, juniper, keep_records, lab

SLUGS = [slug for slug in views.VIEWS if slug != "other"]


@pytest.fixture
def ada(cast):
    """Ada's browser, with Juniper's records in her vault."""
    keep_records(cast.vault("Ada"), juniper())
    return cast.browser("Ada")


@pytest.fixture
def base(cast):
    """The path of Ada's record."""
    return f"/p/{cast.patients['Ada']}"


def local(cast, type_, remote_id):
    """Return the path below the record's own pages of one resource."""
    with cast.vault("Ada").read() as session:
        found = records.select(session, cast.vault("Ada"), records_of(type_))
        (one,) = [record for record in found if record.remote_id == remote_id]
    return f"/record/{type_}/{one.local_id}"


def records_of(type_):
    from phr.fhir.record import Selection

    return Selection(types=(type_,))


# ------------------------------------------------------------------------- sections


def test_every_section_is_a_page_of_its_own(ada, base):
    for slug in (*SLUGS, "other", "more", "search", "", "results?show=tests"):
        answer = ada.get(f"{base}/{slug}")
        assert answer.status_code == 200, slug
        assert answer.text.count("<h1") == 1, slug
        assert "style=" not in answer.text, slug
        assert answer.headers["cache-control"] == "no-store", slug
        assert len(answer.content) < 60_000, slug


def test_a_new_record_has_honest_empty_pages(cast):
    browser = cast.browser("Eve")
    for slug in (*SLUGS, "other", "more", "search", ""):
        answer = browser.get(f"/p/{cast.patients['Eve']}/{slug}")
        assert answer.status_code == 200, slug
        heading = re.findall(r"<h1[^>]*>(.*?)</h1>", answer.text, re.DOTALL)
        assert len(heading) == 1, slug
        assert not re.search(r"\b0\b", heading[0]), slug


def test_somebody_elses_record_is_not_found(cast, base):
    browser = cast.browser("Eve")
    for slug in (*SLUGS, "other", "record/Patient/0", "search", ""):
        assert browser.get(f"{base}/{slug}").status_code == 404, slug


def test_the_digits_of_a_result_are_those_of_the_source(ada, base):
    page = ada.get(f"{base}/results/2823-3").text
    assert "5.40" in page
    assert "Potassium: 5.40 mmol/L, higher than last time" in page


def test_a_test_under_another_code_system_has_its_own_page(cast, ada, base):
    other = lab("Local test", "X/1", "7.70", on="2026-01-01")
    other["code"] = {"coding": [{"system": "urn:lab", "code": "X1", "display": "Local test"}]}
    keep_records(cast.vault("Ada"), [other], name="Second")
    page = ada.get(f"{base}/results?show=tests").text
    (href,) = re.findall(r'href="([^"]*/results/X1[^"]*)"', page)
    assert "Local test: 7.70 mmol/L" in ada.get(href.replace("&amp;", "&")).text


def test_long_lists_go_on_until_the_last_record(cast, base):
    browser = cast.browser("Ada")
    undated = [{"resourceType": "Practitioner", "id": f"p{n}"} for n in range(150)]
    dated = [lab("X", "1", str(n), on=f"20{n % 20:02}-01-01") | {"id": f"x{n}"} for n in range(120)]
    keep_records(cast.vault("Ada"), [*undated, *dated])
    for kind, count in (("Practitioner", 150), ("Observation", 120)):
        seen: set[str] = set()
        path = f"{base}/other?type={kind}"
        for _ in range(4):
            page = browser.get(path).text
            seen.update(re.findall(rf"/record/{kind}/([0-9a-f]{{16}})", page))
            further = re.search(r'href="([^"]+)">Older ones', page)
            if further is None:
                break
            path = further[1].replace("&amp;", "&")
        assert len(seen) == count


def test_a_made_up_place_in_a_list_does_no_harm(ada, base):
    for place in ("x", "1", "1.x", "9" * 40 + ".1", "-1.-1"):
        assert ada.get(f"{base}/timeline?before={place}").status_code == 200, place


def test_the_timeline_can_be_narrowed_to_one_kind(ada, base):
    page = ada.get(f"{base}/timeline?only=vaccines").text
    assert "Influenza" in page
    assert "thyroid" not in page.partition("<main")[2]


def test_an_unknown_kind_is_not_found(ada, base):
    assert ada.get(f"{base}/other?type=Nonsense").status_code == 404


def test_search_finds_the_beginning_of_a_word_and_survives_anything(ada, base):
    assert "2 records found" in ada.get(f"{base}/search?q=bronch").text
    for words in ('"', "*", "NEAR(", "a:b", "'; DROP", "x" * 10_000, "\u202e", "-"):
        assert ada.get(f"{base}/search", params={"q": words}).status_code == 200


# ------------------------------------------------------------------------- one record


def test_one_record_shows_its_fields_and_where_it_comes_from(cast, ada, base):
    page = ada.get(base + local(cast, "Condition", "problem-0")).text
    assert "Underactive thyroid" in page
    assert "Saltmarsh University Hospital" in page
    assert "Condition/problem-0" in page


def test_the_raw_bytes_are_exactly_what_was_received(cast, ada, base):
    place = local(cast, "Observation", "2823-3-2026-11-19")
    answer = ada.get(f"{base}{place}/raw")
    assert b'"value":5.40' in answer.content
    assert answer.headers["content-type"].startswith("text/plain")
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_earlier_versions_stay_readable(cast, ada, base):
    vault = cast.vault("Ada")
    with vault.read() as session:
        connection = records.select(session, vault, records_of("Condition"))[0].connection_id
    changed = next(one for one in juniper() if one["id"] == "problem-0")
    changed = changed | {"code": concept("Something else")}
    keep_records(vault, [changed], connection_id=connection, now=now())
    place = local(cast, "Condition", "problem-0")
    assert "Something else" in ada.get(base + place).text
    listed = ada.get(f"{base}{place}/versions").text
    assert "2 versions of this record" in listed
    first = ada.get(f"{base}{place}?version=1").text
    assert "Underactive thyroid" in first
    assert "earlier version" in first
    assert ada.get(f"{base}{place}?version=9").status_code == 404


def test_a_member_can_keep_a_record_private_and_a_viewer_cannot(cast, ada, base):
    place = local(cast, "Condition", "problem-0")
    answer = ada.submit(f"{base}{place}/private", {"on": "yes"}, page=base + place)
    assert answer.status_code == 303
    assert "it is left out of all you share, unless" in ada.get(base + place).text
    ada.submit(f"{base}{place}/private", {"on": "no"}, page=base + place)
    assert "it is left out of all you share, unless" not in ada.get(base + place).text
    viewer = cast.browser("Cleo")
    assert viewer.get(base + place).status_code == 200
    assert viewer.submit(f"{base}{place}/private", {"on": "yes"}).status_code == 403


def test_a_record_that_is_not_there_is_not_found(ada, base):
    for path in ("record/Condition/0", "record/Nonsense/0", "record/Condition/" + "f" * 16):
        for tail in ("", "/raw", "/versions", "/narrative", "/file/0"):
            assert ada.get(f"{base}/{path}{tail}").status_code == 404, path + tail


# ------------------------------------------------------------------------- files


def test_hospital_html_appears_only_in_a_frame_with_its_own_policy(cast, ada, base):
    place = local(cast, "DocumentReference", "letter-1")
    page = ada.get(f"{base}{place}/file/0").text
    assert "<iframe" in page
    assert "sandbox" in page
    assert "Dear Juniper" not in page
    framed = ada.get(f"{base}{place}/file/0/content")
    assert "Dear Juniper" in framed.text
    assert "<script" not in framed.text
    policy = framed.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'self'" in policy
    assert policy.endswith("sandbox")
    assert framed.headers["x-frame-options"] == "SAMEORIGIN"


def test_the_narrative_of_a_record_is_cleaned_and_framed(cast, ada, base):
    place = local(cast, "DocumentReference", "letter-1")
    assert "A letter." not in ada.get(base + place).text
    framed = ada.get(f"{base}{place}/narrative")
    assert "A letter." in framed.text
    assert "<img" not in framed.text
    empty = local(cast, "Procedure", "procedure-1")
    assert ada.get(f"{base}{empty}/narrative").status_code == 404


def test_a_text_file_is_shown_as_text_and_can_be_saved(cast, ada, base):
    place = local(cast, "DocumentReference", "letter-1")
    assert "plain text" in ada.get(f"{base}{place}/file/2").text
    assert ada.get(f"{base}{place}/file/2/content").status_code == 404
    saved = ada.get(f"{base}{place}/file/2/save")
    assert saved.content == b"plain text"
    assert saved.headers["content-disposition"].startswith("attachment; filename=")


def test_a_file_that_was_never_fetched_says_so(cast, ada, base):
    place = local(cast, "DocumentReference", "letter-1")
    page = ada.get(f"{base}{place}/file/1").text
    assert "The file itself is not here" in page
    assert ada.get(f"{base}{place}/file/1/save").status_code == 404
    assert ada.get(f"{base}{place}/file/9").status_code == 404


def test_a_file_is_served_as_what_it_is_and_not_as_it_is_called(cast, ada, base):
    picture = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (4).to_bytes(4) * 2 + b"\0" * 20
    claimed = {
        "resourceType": "DocumentReference",
        "id": "odd-1",
        "status": "current",
        "content": [
            {
                "attachment": {
                    "contentType": "text/html",
                    "title": "../../x.html",
                    "data": base64.b64encode(picture).decode(),
                }
            }
        ],
    }
    keep_records(cast.vault("Ada"), [claimed], name="Second")
    place = local(cast, "DocumentReference", "odd-1")
    page = ada.get(f"{base}{place}/file/0").text
    assert "The source calls this text/html, but its content is something else" in page
    content = ada.get(f"{base}{place}/file/0/content")
    assert content.headers["content-type"] == "image/png"
    saved = ada.get(f"{base}{place}/file/0/save")
    assert saved.headers["content-disposition"] == 'attachment; filename="x.png"'


# ------------------------------------------------------------------------- Home


def test_home_answers_the_three_questions(ada, base):
    page = ada.get(f"{base}/").text
    words = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "Hello, Ada" in words
    assert "Penicillin (severe: throat swelling) · Latex (skin rash)" in words
    assert "16 new things" in words  # two allergies came without a date
    assert "2 flagged among the newest value of each test" in words
    assert "2 medicines and 1 problem listed as active" in words
    assert "Up to date" in words
    assert "Nobody outside the household" in words


def test_newest_means_every_report_of_the_newest_day(cast, base):
    """One report of the day is all in range, another of the same minute is not: both count."""
    day = "2026-11-13T07:40:00Z"
    calm = [lab(f"Calm {n}", f"c{n}", "5", low="1", high="9", on=day) for n in range(3)]
    high = [lab("Loud", "l1", "50", low="1", high="9", flag="H", on=day)]
    reports = [
        {
            "resourceType": "DiagnosticReport",
            "id": name,
            "status": "final",
            "category": [concept(code="LAB")],
            "code": concept(name),
            "effectiveDateTime": day,
            "result": [{"reference": f"Observation/{one['id']}"} for one in some],
        }
        for name, some in (("quiet", calm), ("loud", high))
    ]
    older = [lab("Old", "o1", "50", flag="H", on="2026-11-12")]
    keep_records(cast.vault("Ada"), [*calm, *high, *older, *reports])
    browser = cast.browser("Ada")
    words = " ".join(re.sub(r"<[^>]+>", " ", browser.get(f"{base}/").text).split())
    assert "2 flagged among the newest value of each test" in words  # the one of the day before too
    assert "No source flagged" not in words
    page = browser.get(f"{base}/results").text
    assert "1 of the 4 newest results is flagged by the source" in page
    assert "The newest results are those of 13 Nov 2026." in page


def test_what_was_seen_is_no_longer_new(cast, ada, base):
    answer = ada.submit(f"{base}/seen", page=f"{base}/")
    assert answer.status_code == 303
    assert "Nothing new" in ada.get(f"{base}/").text
    with cast.vault("Ada").read() as session:
        assert session.get(Member, cast.accounts["Ada"]).seen_at is not None
    later = {
        "resourceType": "Immunization",
        "id": "later",
        "status": "completed",
        "vaccineCode": concept("Tetanus"),
        "occurrenceDateTime": "1999-05-05",
    }
    keep_records(cast.vault("Ada"), [later], name="Second", now=now())
    page = ada.get(f"{base}/").text
    assert "1 new thing" in page
    assert "Tetanus" in page


def test_an_empty_record_leads_to_the_first_steps(cast):
    page = cast.browser("Eve").get(f"/p/{cast.patients['Eve']}/").text
    assert "Connect a hospital" in page
    assert "Bring a file" in page


def test_a_result_that_says_no_category_is_on_the_results_page_and_a_vital_sign_is_not(cast, base):
    bare = lab("Sodium", "2951-2", "140")
    del bare["category"]
    pulse = lab("Heart rate", "8867-4", "61", "/min")
    pulse["category"] = [concept(code="vital-signs", system="http://hl7.org/category")]
    keep_records(cast.vault("Ada"), [bare, pulse])
    page = cast.browser("Ada").get(f"{base}/results").text
    assert "Sodium" in page
    assert "Heart rate" not in page
