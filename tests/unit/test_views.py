"""Views: any FHIR-shaped JSON gives HTML, digits stay as sent, hospital HTML comes out harmless."""

import html
import re
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phr import views
from phr.fhir import document
from phr.fhir.kinds import KINDS
from phr.fhir.record import Origin
from phr.papers.reading import TRANSCRIBED
from phr.views import attachment
from phr.views.attachment import Way
from tests.corpus import corpus
from tests.fixtures_records import Digits, as_record, as_records, concept, juniper, lab

NOW = datetime(2026, 11, 22, tzinfo=UTC)
HOSPITAL = Origin(1, "Saltmarsh", "smart", demo=False, as_of=datetime(2026, 11, 21, tzinfo=UTC))
EVERY_VIEW = [
    *views.VIEWS.values(),
    views.TEST,
    views.BY_TEST,
    views.FLAGGED,
    views.KIND,
    views.HITS,
]


def context(**more):
    return views.Context(
        origins={1: HOSPITAL},
        now=NOW,
        link=lambda record: f"/record/{record.type}/{record.local_id}",
        test_link=lambda _system, code: f"/results/{code}",
        attachment_link=lambda _record, place: f"/file/{place}",
        type_link=lambda kind: f"/other?type={kind}",
        **more,
    )


def shown(slug, *resources, **more):
    return views.show(views.VIEWS[slug], as_records(*resources), context(**more))


def text_of(body):
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", str(body))).split())


# ------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("slug", "heading"),
    [
        ("results", "2 of the 6 newest results are flagged by the source"),
        ("medications", "2 medicines are listed as current"),
        ("allergies", "2 allergies are listed, 1 marked severe"),
        ("problems", "1 problem is listed as active"),
        ("immunizations", "1 vaccine dose on record"),
        ("vitals", "The last blood pressure was 128/79 mmHg on 12 Nov 2026"),
        ("visits", "1 visit"),
        ("procedures", "1 procedure listed as done"),
        ("documents", "1 document"),
        ("people", "1 place in this record"),
    ],
)
def test_the_heading_is_the_answer(slug, heading):
    vitals = [one for one in juniper() if one["id"] == "pressure-1"]
    labs = [one for one in juniper() if one["id"] != "pressure-1"]
    assert shown(slug, *(vitals if slug == "vitals" else labs)).heading == heading


def test_allergies_have_three_different_texts():
    none_known = {"resourceType": "AllergyIntolerance", "code": concept("No known allergy")}
    texts = {
        shown("allergies").heading,
        shown("allergies", none_known).heading,
        shown("allergies", *juniper()).heading,
    }
    assert texts == {
        "Allergies are unknown",
        "No known allergy, says Saltmarsh",
        "2 allergies are listed, 1 marked severe",
    }
    assert "That does not mean there are none" in text_of(shown("allergies").body)


def test_an_empty_list_tells_not_asked_from_asked_and_none_listed():
    asked = {"Procedure": ("Saltmarsh, asked on 21 Nov 2026, listed none.",)}
    assert "Nobody has sent any" in text_of(shown("procedures").body)
    assert "Saltmarsh, asked on 21 Nov 2026, listed none." in text_of(
        shown("procedures", answered=asked).body
    )


def test_a_medicine_says_who_lists_it_and_when():
    body = text_of(shown("medications", *juniper()).body)
    assert "listed as current by Saltmarsh on 21 Nov 2026" in body
    assert "1 tablet, once a day" in body
    assert "No dose given by the source" in body


def test_demo_records_are_marked_as_demo():
    demo = Origin(1, "Saltmarsh", "smart", demo=True)
    made = views.show(views.VIEWS["visits"], as_records(*juniper()), views.Context({1: demo}, NOW))
    assert "Saltmarsh (demo)" in made.body


def test_without_links_nothing_is_linked():
    records = as_records(*juniper())
    for view in EVERY_VIEW:
        assert "href" not in views.render(view, records, views.Context({1: HOSPITAL}, NOW))


def test_a_record_that_was_entered_in_error_is_struck_and_not_hidden():
    body = shown("allergies", *juniper()).body
    assert "<s><a" in body
    assert "Marked by the source as entered in error" in body


def test_no_view_speaks_a_word_of_its_own_about_health():
    for view in EVERY_VIEW:
        words = text_of(views.render(view, as_records(*juniper()), context())).lower()
        for forbidden in ("abnormal", "critical", "denies", "failed", "all clear"):
            assert forbidden not in words


def test_the_page_of_one_test_has_a_table_with_the_drawn_values():
    one_test = [one for one in juniper() if one.get("code") == concept("TSH", "3016-3")]
    body = views.render(views.TEST, as_records(*one_test), context())
    drawn = re.findall(r'class="lbl [^"]*"[^>]*>([^<]+)<', body)
    assert drawn == ["2.2", "1.9", "2.60", "2.40"]
    assert set(re.findall(r"<td>([^<]+)</td>", body)) == set(drawn)
    assert 'role="img"' in body
    made = views.show(views.TEST, as_records(*one_test), context())
    assert made.heading == "TSH: 2.40 mIU/L, lower than last time"


def test_a_test_without_results_and_a_panel_are_pages_too():
    assert views.show(views.TEST, [], context()).heading == "No results of this test"
    panel = [one for one in juniper() if one["id"] == "pressure-1"]
    made = views.show(views.TEST, as_records(*panel), context())
    assert made.heading == "Blood pressure: 128/79 mmHg"
    assert "Blood pressure over time" in text_of(made.body)


def test_only_flagged_results_and_one_row_for_each_test():
    records = as_records(*juniper())
    flagged = text_of(views.render(views.FLAGGED, records, context()))
    assert "Ferritin" in flagged
    assert "TSH" not in flagged
    assert views.show(views.BY_TEST, records, context()).heading == "7 tests with results"
    assert views.show(views.FLAGGED, [], context()).heading == (
        "No result here is flagged or out of its range"
    )


def test_long_lists_are_cut_and_lead_to_the_whole_list():
    many = [
        {"resourceType": "Immunization", "status": "completed", "vaccineCode": concept(f"V{n}")}
        for n in range(130)
    ]
    body = shown("immunizations", *many).body
    assert "70 more are not shown on this page" in text_of(body)
    assert "/other?type=Immunization" in body


def test_every_kind_is_counted_and_linked():
    made = views.show(views.VIEWS["other"], [], context(counts={"Goal": 3, "Observation": 1200}))
    assert made.heading == "1,203 records of 2 kinds"
    assert "/other?type=Goal" in made.body
    assert views.show(views.VIEWS["other"], [], context()).heading == "Nothing is kept yet"
    assert "2 kinds" in shown("other", *juniper()[:1], {"resourceType": "Goal"}).heading


def test_text_from_outside_never_becomes_markup():
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    resources = [
        {"resourceType": kind, "code": {"text": evil}, "name": evil, "note": [{"text": evil}]}
        for kind in KINDS
    ]
    for view in EVERY_VIEW:
        body = views.render(view, as_records(*resources), context())
        assert "<script" not in body
        assert "<img" not in body


# ------------------------------------------------------------------------- never an exception

_NAMES = st.sampled_from(
    """resourceType id status code coding text display system value valueQuantity unit low high
    referenceRange interpretation component category effectiveDateTime period start end reaction
    manifestation dosageInstruction timing repeat frequency periodUnit doseAndRate participant
    member individual reference content attachment data url contentType contained result name
    given family telecom address onsetAge verificationStatus clinicalStatus vaccineCode class
    medicationReference medicationCodeableConcept performer location extension meta hasMember
    valueRatio numerator denominator protocolApplied doseNumberPositiveInt reasonReference
    diagnosis condition note issued conclusion presentedForm modifierExtension div""".split()  # noqa: SIM905 (a list of words reads better as words)
)
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.decimals(allow_nan=False, allow_infinity=False, places=3).map(lambda n: Digits(str(n)))
    | st.sampled_from(
        ["", "active", "2026-11-19", "0000-00-00", "#a", "Observation/1", "H", "8480-6"]
    )
    | st.text(max_size=12).filter(lambda text: "\0" not in text and text.isprintable())
)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=5),
    max_leaves=25,
)
_RESOURCES = st.dictionaries(_NAMES, _JSON, max_size=12).flatmap(
    lambda members: st.sampled_from(sorted(KINDS)).map(
        lambda kind: members | {"resourceType": kind}
    )
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_RESOURCES, min_size=1, max_size=4))
def test_any_fhir_shaped_json_gives_html_in_every_view(resources):
    records = [as_record(one, pk=pk) for pk, one in enumerate(resources, start=1)]
    for view in EVERY_VIEW:
        made = views.show(view, records, context())
        assert made.heading
        assert isinstance(made.body, str)
    for record in records:
        assert "<dl" in views.render(views.RECORD, [record], context())


# ------------------------------------------------------------------------- the corpus

_PACKAGES = ("us_core_311.tgz", "us_core_610.tgz", "us_core_800.tgz")


def _examples(path: Path):
    """Yield the resources of a published package's examples."""
    with tarfile.open(path) as package:
        for member in package:
            if "example" in member.name and member.name.endswith(".json"):
                raw = package.extractfile(member).read()
                resource = document.loads(raw)
                if "resourceType" in resource and not member.name.endswith("package.json"):
                    yield resource, raw


@pytest.mark.corpus
@pytest.mark.parametrize("name", _PACKAGES)
def test_every_published_example_is_shown_with_the_digits_of_its_source(name):
    path = corpus() / "fhir" / "uscore-packages" / name
    count = 0
    for resource, _ in _examples(path):
        records = [as_record(resource)]
        for view in EVERY_VIEW:
            views.show(view, records, context())
        body = text_of(views.render(views.RECORD, records, context()))
        quantity = resource.get("valueQuantity")
        if resource["resourceType"] == "Observation" and quantity and "value" in quantity:
            assert str(quantity["value"]) in body
            assert str(quantity["value"]) in text_of(views.render(views.TEST, records, context()))
        count += 1
    assert count > 80


@pytest.mark.corpus
def test_a_whole_reference_patient_is_shown_in_every_view():
    path = corpus() / "fhir" / "uscore-reference" / "uscore_bundle_patient_85.json"
    entries = document.loads(path.read_bytes())["entry"]
    records = [as_record(one["resource"], pk=pk) for pk, one in enumerate(entries, start=1)]
    for view in EVERY_VIEW:
        assert views.show(view, records, context()).heading
    assert len(records) == 267


# ------------------------------------------------------------------------- files from outside

_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (100).to_bytes(4) + (50).to_bytes(4)
_HUGE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60_000).to_bytes(4) * 2
_JPEG = b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08\0\x32\0\x64" + b"\0" * 20


@pytest.mark.parametrize(
    ("content", "media_type", "way"),
    [
        (_PNG, "image/png", Way.IMAGE),
        (_HUGE, "image/png", Way.SAVE),
        (_JPEG, "image/jpeg", Way.IMAGE),
        (b"GIF89a\x10\0\x10\0<script>", "image/gif", Way.IMAGE),
        (b"GIF89a", "image/gif", Way.SAVE),
        (b"%PDF-1.7 ...", "application/pdf", Way.SAVE),
        (b"  <!DOCTYPE html><p>x", "text/html", Way.HTML),
        (b"<div>note</div>", "text/html", Way.HTML),
        (b"<svg onload=alert(1)>", "text/plain", Way.TEXT),
        (b"<?xml version='1.0'?><ClinicalDocument/>", "text/plain", Way.TEXT),
        (b"plain words", "text/plain", Way.TEXT),
        (b"{\\rtf1 }", "application/rtf", Way.READ),
        (b'<ClinicalDocument xmlns="urn:hl7-org:v3"/>', "application/xml", Way.READ),
        (
            b"\xef\xbb\xbf<?xml version='1.0'?>\n<ClinicalDocument xmlns='urn:hl7-org:v3'/>",
            "application/xml",
            Way.READ,
        ),
        ("\ufeffplain words".encode("utf-16-le"), "text/plain", Way.TEXT),
        (b"PK\x03\x04...", "application/zip", Way.SAVE),
        (b"\0" * 128 + b"DICM", "application/dicom", Way.SAVE),
        (b"MZ\x90\0\x03", "application/octet-stream", Way.SAVE),
        (b"\x01\x02 noise", "application/octet-stream", Way.SAVE),
        (b"", "application/octet-stream", Way.SAVE),
    ],
)
def test_a_file_is_what_its_bytes_say(content, media_type, way):
    kind = attachment.kind_of(content)
    assert (kind.media_type, kind.way) == (media_type, way)


@pytest.mark.parametrize(
    "content", [b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\0\x02\xff", b"\xff\xd8\0\0" * 9]
)
def test_a_broken_picture_has_no_size(content):
    assert attachment.dimensions(content) is None


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src='http://evil.example/p.gif'>",
    "<p onclick='alert(1)'>x</p>",
    "<a href='javascript:alert(1)' ping='http://evil.example'>x</a>",
    "<a href='http://evil.example'>www.hospital.example</a>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<object data='x'></object><embed src='x'>",
    "<base href='http://evil.example/'>",
    "<meta http-equiv='refresh' content='0;url=http://evil.example'>",
    "<style>@import url(http://evil.example)</style>",
    "<p style='position:fixed;background:url(http://evil.example)'>x</p>",
    "<link rel='prefetch' href='http://evil.example'>",
    "<form action='http://evil.example'><input type='password'></form>",
    "<svg><animate onbegin=alert(1) attributeName=x></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'></noscript>",
    "<template><script>alert(1)</script></template>",
    "<!--><script>alert(1)</script-->",
    "<div><p>unclosed <b>tags",
]


@pytest.mark.parametrize("html_text", HOSTILE)
def test_hostile_html_comes_out_harmless(html_text):
    out = attachment.clean(html_text).lower()
    for bad in (
        "<script",
        "<img",
        "href",
        "onclick",
        "onerror",
        "style",
        "<form",
        "<input",
        "url(",
    ):
        assert bad not in out
    for bad in ("<iframe", "<object", "<embed", "<base", "<meta", "<link", "<svg", "<math", "evil"):
        assert bad not in out
    assert "<!--" not in out


def test_the_frame_page_carries_a_policy_that_loads_and_runs_nothing():
    page = attachment.frame_page("<p>Dear Juniper</p>", "A <letter>").decode()
    assert "<p>Dear Juniper</p>" in page
    assert "A &lt;letter&gt;" in page
    policy = dict(each.strip().partition(" ")[::2] for each in attachment.FRAME_CSP.split(";"))
    assert policy.pop("style-src").startswith("'sha256-")
    assert policy == {
        "default-src": "'none'",
        "form-action": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'self'",
        "sandbox": "",
    }


def test_text_that_is_no_utf8_is_still_readable_and_long_text_is_cut():
    assert attachment.as_text(b"na\xefve") == ("naïve", False)
    text, cut = attachment.as_text(b"x" * 500_000)
    assert (len(text), cut) == (400_000, True)


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("../../etc/passwd", "etc-passwd.pdf"),
        ("a\r\nSet-Cookie: x", "a--Set-Cookie--x.pdf"),
        ("letter.exe", "letter.pdf"),
        ("\u202efdp.exe", "fdp.pdf"),
        ("", "file.pdf"),
        ("x" * 4000, "x" * 60 + ".pdf"),
    ],
)
def test_a_file_name_from_outside_is_made_harmless(title, name):
    assert attachment.file_name(title, "pdf") == name


def test_the_digits_of_a_result_survive_into_its_page():
    body = text_of(
        shown("results", lab("Potassium", "2823-3", "5.40", low="3.50", high="5.10")).body
    )
    assert "5.40 mmol/L" in body
    assert "3.50 to 5.10" in body


def test_a_count_that_may_be_too_low_says_at_least():
    many = [
        {"resourceType": "Immunization", "status": "completed", "vaccineCode": concept("V")}
        for _ in range(1000)
    ]
    assert shown("immunizations", *many).heading == "At least 1,000 vaccine doses on record"
    measured = [lab("Pulse", "8867-4", "60", "/min") for _ in range(400)]
    assert "From the newest 400 measurements" in shown("vitals", *measured).lead
    assert (
        "The 300 tests done last"
        in views.show(views.BY_TEST, as_records(*measured), context()).lead
    )
    seen = [{"resourceType": "Encounter", "status": "finished"} for _ in range(60)]
    assert shown("visits", *seen).heading == "The newest 60 visits"


def test_visits_of_clinical_documents_are_in_the_list_and_none_is_sent_elsewhere_for():
    seen = {
        "resourceType": "Encounter",
        "status": "finished",
        "meta": {"tag": [TRANSCRIBED]},
        "type": [concept("Office visit")],
    }
    page = shown("visits", seen)
    assert "Office visit" in text_of(page.body)
    assert page.lead == (
        "Future appointments are often not part of what a hospital's interface offers."
    )
