"""Reading hostile files: what is found in good ones, and that bad ones end as a sentence."""

import io
import sys
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phr.papers import apart, cda, dicom, readers
from phr.papers.child import read as read_here
from phr.papers.kinds import Reader, Way, kind_of
from phr.papers.reading import MOST_TEXT, Reading, excerpt, of_text, unpacked
from phr.views import attachment
from tests.corpus import corpus
from tests.fixtures_papers import RTF, ccda, pdf, wrapped
from tests.fixtures_papers import dicom as dicom_file

# ------------------------------------------------------------------------------ what is found


def test_the_words_of_a_pdf_are_read_in_a_child_process():
    found = apart.read(Reader.PDF, pdf("Dear Juniper,", "your ferritin is low.", title="Letter"))
    assert found.text.splitlines() == ["Dear Juniper,", "your ferritin is low."]
    assert found.title == "Letter"
    assert ("Pages", "1") in found.facts


def test_a_pdf_of_pictures_says_that_it_has_no_text():
    found = apart.read(Reader.PDF, pdf())
    assert not found.text
    assert "only pictures of pages" in found.sentence


def test_a_locked_pdf_says_that_it_is_locked():
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(PdfReader(io.BytesIO(pdf("secret"))))
    writer.encrypt("a password", algorithm="RC4-128")
    held = io.BytesIO()
    writer.write(held)
    assert "locked with a password" in readers.read_pdf(held.getvalue()).sentence


def test_an_rtf_letter_reads_as_lines_without_its_machinery():
    found = apart.read(Reader.RTF, RTF)
    assert "Arztbrief" in found.text
    assert "Befund: älter, € 12" in found.text
    assert "01020304" not in found.text
    assert "Word" not in found.text


def test_a_web_page_reads_without_scripts_and_styles():
    page = b"<html><style>p{}</style><p>One</p><script>alert(1)</script><p>Two <b>bold</b></p>"
    assert readers.read_html(page).text == "One\nTwo bold"


def test_the_head_of_a_dicom_file_is_read_and_never_its_pixels():
    found = apart.read(Reader.DICOM, dicom_file())
    told = dict(found.facts)
    assert told["Patient"] == found.whose.name == "Juniper Sample"
    assert told["Born"] == found.whose.born == "1984-02-17"
    assert told["Modality"] == "CT"
    assert told["Body part"] == "CHEST"
    assert told["Study"] == "Thorax low dose"
    assert told["Series"] == "Axial 2 mm"
    assert told["Taken"] == "2026-11-04 10:15"
    assert told["Picture"] == "2 x 2 pixels"


def test_without_the_extra_a_dicom_file_says_what_is_missing(monkeypatch):
    file = dicom_file()  # made with the extra, before it is gone
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert dicom.read(file).sentence == dicom.MISSING


# ------------------------------------------------------------------------------ C-CDA


def test_the_head_of_a_clinical_document_is_told_in_words():
    found = apart.read(Reader.CDA, ccda())
    assert found.title == "Discharge Letter"
    assert dict(found.facts) == {
        "Patient": "Juniper Sample",
        "Born": "17 Feb 1984",
        "Sex": "female",
        "Kind": "Summarization of Episode Note",
        "Written": "4 Nov 2026, 10:30 (UTC+01:00)",
        "Author": "Dr. Imogen Placeholder, 4 Nov 2026",
        "Kept by": "Saltmarsh University Hospital",
        "Marked": "restricted",
    }
    assert "Nothing to report." in found.text
    assert found.html == "<h2>Findings</h2><p>Nothing to report.</p>"


def test_narrative_keeps_its_structure():
    html = cda.read(
        ccda(
            '<content styleCode="Bold Italics">x</content>'
            '<content revised="delete">gone</content>'
            '<list listType="ordered"><caption>Doses</caption><item>one</item><item>two</item>'
            '</list><table><caption>T</caption><thead><tr><th colspan="2">H</th></tr></thead>'
            '<tbody><tr><td>a &lt; b</td><td styleCode="Underline">c</td></tr></tbody></table>'
            'As told<footnote ID="n1">by the patient</footnote>, twice'
            '<footnoteRef IDREF="n1"/>.<br/><sub>2</sub><sup>3</sup>'
        )
    ).html
    assert "<em><strong>x</strong></em><s>gone</s>" in html
    assert "<p><strong>Doses</strong></p><ol><li>one</li><li>two</li></ol>" in html
    assert '<th colspan="2">H</th>' in html
    assert "<td>a &lt; b</td><td><u>c</u></td>" in html
    assert "As told<sup>1</sup>, twice<sup>1</sup>." in html
    assert html.endswith("<hr><p><sup>1</sup> by the patient</p>")
    assert attachment.clean(html).count("<td>") == 2


def test_table_rows_are_lines_of_text_with_their_cells_apart():
    rows = "<table><tbody><tr><td>Ferritin</td><td>9</td></tr><tr><td>TSH</td><td>2.40</td></tr>"
    text = cda.read(ccda(f"{rows}</tbody></table>")).text
    assert "Ferritin | 9\nTSH | 2.40" in text


@pytest.mark.parametrize(
    "narrative",
    [
        "<script xmlns='http://www.w3.org/1999/xhtml'>alert(1)</script>",
        '<linkHtml href="javascript:alert(1)">click</linkHtml>',
        '<renderMultiMedia referencedObject="MM1"/>',
        '<paragraph onclick="alert(1)" style="position:fixed">p</paragraph>',
        '<iframe src="http://198.51.100.7/"/>',
        '<img src="http://198.51.100.7/x.png"/>',
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        '<td colspan="1&quot; onload=&quot;alert(1)">x</td>',
    ],
)
def test_hostile_narrative_is_inert(narrative):
    """security.md E4: the same as hospital HTML."""
    shown = attachment.read_page(cda.read(ccda(narrative)), "x", with_head=True).decode().lower()
    body = shown.partition("<body>")[2]
    for bad in ("<script", "<iframe", "<img", "href=", "src=", "onclick=", "onload=", "style="):
        assert bad not in body


def test_a_link_shows_where_it_leads_and_leads_nowhere():
    html = cda.read(ccda('<linkHtml href="https://evil.example/x">Your bank</linkHtml>')).html
    assert "Your bank (https://evil.example/x)" in html


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x SYSTEM "http://198.51.100.7/x.dtd">',
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>',
        '<!DOCTYPE x [<!ENTITY % p SYSTEM "http://198.51.100.7/p"> %p;]>',
    ],
)
def test_a_document_with_a_dtd_is_refused(head):
    """security.md E1, E2: nothing is resolved, nothing is fetched."""
    plain = ccda("&e;" if "ENTITY e " in head else "<paragraph/>").decode()
    hostile = plain.replace("<ClinicalDocument", f"{head}<ClinicalDocument", 1)
    assert apart.read(Reader.CDA, hostile.encode()).sentence == cda.WITH_DTD
    wide = hostile.replace('encoding="UTF-8"', 'encoding="UTF-16"').encode("utf-16")
    assert apart.read(Reader.CDA, wide).sentence == cda.WITH_DTD


@pytest.mark.parametrize(
    "narrative", ["<content>" * 100_000, "<content>" * 300 + "</content>" * 300]
)
def test_xml_that_is_nested_without_end_is_refused(narrative):
    assert apart.read(Reader.CDA, ccda(narrative)).sentence == cda.DAMAGED


def test_another_root_and_broken_xml_say_so():
    other = b'<Other xmlns="urn:hl7-org:v3"><ClinicalDocument/></Other>'
    assert cda.read(other).sentence == cda.NOT_CDA
    assert cda.read(ccda()[:-20]).sentence == cda.DAMAGED


def test_a_section_without_text_says_what_the_sender_did():
    def told(section):
        body = f"<structuredBody><component>{section}</component></structuredBody>"
        return cda.read(ccda(body=body)).html

    assert "no information" in told('<section nullFlavor="NI"><title>A</title></section>')
    assert "coded entries only" in told("<section><title>A</title><entry/></section>")
    assert "left this section empty" in told("<section><title>A</title></section>")
    inner = "<component><section><text>deep</text></section></component>"
    assert "in the parts below" in told(f"<section><title>A</title>{inner}</section>")
    assert "<h3>Section without a title</h3>deep" in told(f"<section>{inner}</section>")


def test_a_file_inside_a_document_is_read_and_can_be_taken_out():
    inner = pdf("words of the wrapped letter")
    outer = wrapped(inner, "application/pdf")
    found = apart.read(Reader.CDA, outer)
    assert "words of the wrapped letter" in found.text
    assert found.inside == "application/pdf"
    assert apart.inside(outer) == inner
    assert apart.inside(ccda()) is None
    assert "is damaged" in cda.read(wrapped(b"", "application/pdf")).sentence


def test_a_document_in_another_file_says_that_it_did_not_come():
    text = '<text mediaType="application/pdf"><reference value="x.pdf"/></text>'
    body = f"<nonXMLBody>{text}</nonXMLBody>"
    assert "separate file (x.pdf)" in cda.read(ccda(body=body)).sentence


@pytest.mark.corpus
def test_every_published_clinical_document_is_readable():
    folder = corpus() / "ccda"
    files = [*folder.rglob("*.xml"), *folder.rglob("*.ccda")]
    whole = [path for path in files if kind_of(path.read_bytes()) is attachment.CDA]
    assert len(whole) >= 65
    for path in whole:
        found = cda.read(path.read_bytes())
        assert found.whose.name, path.name
        assert found.title, path.name
        assert found.html or found.inside or found.sentence, path.name
        page = attachment.read_page(found, found.title, with_head=True)
        assert b"<script" not in page
        assert unpacked(found.packed()) == found


@pytest.mark.corpus
def test_what_stands_in_the_narrative_of_published_documents_stands_on_the_page():
    """Every piece of every section's text is shown: nothing is dropped."""
    for path in sorted((corpus() / "ccda" / "vendor").glob("*.xml")):
        content = path.read_bytes()
        root = cda.parse(content)
        said = [
            "".join(piece.split())
            for text in root.iter("{urn:hl7-org:v3}text")
            if text.getparent().tag.endswith("section")
            for piece in text.itertext()
        ]
        read = readers.read_html(cda.read(content).html.encode()).text
        shown = "".join(read.split())
        assert not [piece for piece in said if piece not in shown], path.name


@pytest.mark.corpus
def test_fragments_and_other_xml_are_no_documents_but_do_no_harm():
    for path in (corpus() / "ccda" / "hl7").rglob("*.xml"):
        assert isinstance(cda.read(path.read_bytes()), Reading)


# ------------------------------------------------------------------------------ what is broken


@pytest.mark.parametrize("reader", [one for one in Reader if one is not Reader.NONE])
def test_noise_ends_as_a_sentence_or_as_words(reader):
    noise = b"".join(sha256(bytes([n])).digest() for n in range(160))
    for content in (b"", b"\0", noise, b"%PDF-" + noise, b"{\\rtf" + noise, b"<" * 5000):
        found = apart.read(reader, content)
        assert found.sentence or reader in (Reader.HTML, Reader.TEXT, Reader.RTF) or found.facts


def test_a_pdf_that_unpacks_without_end_is_ended():
    """A stream of nested deflate: the child's memory and time are bounded, ours is not touched."""
    import zlib

    bomb = zlib.compress(b"\0" * 200_000_000, 9)
    whole = pdf("x")
    start, end = whole.index(b"stream\n") + 7, whole.index(b"\nendstream")
    length = whole[whole.index(b"/Length ") : whole.index(b" /Filter")]
    hostile = (whole[:start] + bomb + whole[end:]).replace(length, b"/Length %d" % len(bomb), 1)
    found = apart.read(Reader.PDF, hostile)
    assert not found.text
    assert found.sentence


def test_a_child_that_takes_too_long_is_ended(monkeypatch):
    monkeypatch.setattr(apart, "PATIENCE", 0.01)
    assert apart.read(Reader.PDF, pdf("x")).sentence == apart.TOO_HARD


def test_a_file_that_is_larger_than_what_is_kept_is_not_read():
    assert "too large" in apart.read(Reader.TEXT, b"x" * (apart.LARGEST + 1)).sentence


def test_a_file_of_no_kind_is_not_read():
    assert apart.read(Reader.NONE, b"\1\2") == Reading()


def test_a_very_long_text_is_cut_and_says_so():
    found = apart.read(Reader.TEXT, b"word " * 300_000)
    assert found.cut
    assert len(found.text) == MOST_TEXT


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_give_a_reading(content):
    for reader in (Reader.RTF, Reader.HTML, Reader.TEXT, Reader.CDA, Reader.DICOM, Reader.PDF):
        assert isinstance(read_here(reader, content), Reading)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet='<>/ab "=&;tdrlis', max_size=300))
def test_any_narrative_gives_a_page_without_anything_active(narrative):
    page = attachment.frame_page(cda.read(ccda(narrative)).html, "x").decode()
    assert "<script" not in page


def test_html_nested_deeper_than_people_write_is_shown_as_text():
    """security.md: the cleaner's time grows with the square of the depth."""
    page = attachment.clean("<div>" * 100_000)
    assert page.startswith("<pre>&lt;div&gt;")
    assert attachment.clean("<p>a" * 5000).count("<p>") == 5000


# ------------------------------------------------------------------------------ excerpts


def test_an_excerpt_shows_the_place_of_the_word_and_that_it_was_cut():
    text = "alpha " * 100 + "The Ferritin is low. " + "omega " * 100
    told = excerpt(text, ["ferrit"])
    assert "The Ferritin is low." in told
    assert told.startswith("… ")
    assert told.endswith(" …")
    assert len(told) < 320


def test_an_excerpt_finds_a_word_whatever_its_accents_and_case():
    assert "Ödem" in excerpt("x " * 200 + "ein Ödem links", ["odem"])
    assert excerpt("short", ["nothing"]) == "short"
    assert excerpt("", ["x"]) == ""


@given(st.text(), st.lists(st.text(min_size=1, max_size=5), max_size=3))
def test_an_excerpt_of_anything_is_short(text, terms):
    assert len(excerpt(text, terms)) < 350


@given(st.text())
def test_a_reading_survives_its_way_through_the_store(text):
    found = of_text(text.encode("utf-8", "replace").decode().replace("\0", ""), title="t")
    assert unpacked(found.packed()) == found


def test_kinds_are_told_from_bytes():
    assert kind_of(wrapped(b"x", "text/plain")).way is Way.READ
    assert kind_of(ccda().decode().replace('encoding="UTF-8"', "").encode("utf-16")).way is Way.READ
    assert kind_of(dicom_file()).reader is Reader.DICOM
