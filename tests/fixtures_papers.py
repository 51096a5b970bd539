"""Documents made for tests: a PDF, a C-CDA, an RTF, and a DICOM head. Nobody is real."""

import base64
import io
import zlib
from typing import Any


def pdf(*lines: str, title: str = "") -> bytes:
    """Return a PDF of one page that says these lines (Latin-1)."""
    shown = " T* ".join(f"({line}) Tj" for line in lines)
    stream = zlib.compress(f"BT /F1 12 Tf 14 TL 72 720 Td {shown} ET".encode("latin-1"))
    font = b"/Resources << /Font << /F1 5 0 R >> >>"
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R %s >>" % font
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        page,
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Title (%s) >>" % title.encode("latin-1"),
    ]
    made, places = io.BytesIO(), []
    made.write(b"%PDF-1.4\n")
    for number, part in enumerate(parts, 1):
        places.append(made.tell())
        made.write(b"%d 0 obj\n%s\nendobj\n" % (number, part))
    start = made.tell()
    made.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(parts) + 1))
    for place in places:
        made.write(b"%010d 00000 n \n" % place)
    made.write(b"trailer << /Size %d /Root 1 0 R /Info 6 0 R >>\n" % (len(parts) + 1))
    made.write(b"startxref\n%d\n%%%%EOF\n" % start)
    return made.getvalue()


def ccda(
    narrative: str = "<paragraph>Nothing to report.</paragraph>",
    *,
    given: str = "Juniper",
    family: str = "Sample",
    born: str = "19840217",
    body: str = "",
) -> bytes:
    """Return a clinical document with one section, or with another body."""
    section = (
        "<structuredBody><component><section><title>Findings</title>"
        f"<text>{narrative}</text></section></component></structuredBody>"
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<?xml-stylesheet type="text/xsl" href="http://198.51.100.7/CDA.xsl"?>'
        '<ClinicalDocument xmlns="urn:hl7-org:v3">'
        '<code code="34133-9" displayName="Summarization of Episode Note"/>'
        '<title>Discharge Letter</title><effectiveTime value="20261104103000+0100"/>'
        '<confidentialityCode code="R"/>'
        "<recordTarget><patientRole><patient>"
        f"<name><given>{given}</given><family>{family}</family></name>"
        f'<administrativeGenderCode code="F"/><birthTime value="{born}"/>'
        "</patient></patientRole></recordTarget>"
        '<author><time value="20261104"/><assignedAuthor><assignedPerson><name>'
        "<prefix>Dr.</prefix><given>Imogen</given><family>Placeholder</family></name>"
        "</assignedPerson></assignedAuthor></author>"
        "<custodian><assignedCustodian><representedCustodianOrganization>"
        "<name>Saltmarsh University Hospital</name>"
        "</representedCustodianOrganization></assignedCustodian></custodian>"
        f"<component>{body or section}</component></ClinicalDocument>"
    ).encode()


def wrapped(content: bytes, media_type: str) -> bytes:
    """Return a clinical document that wraps a file (CDA R2 §4.3.1.2)."""
    data = base64.b64encode(content).decode()
    return ccda(
        body=f'<nonXMLBody><text mediaType="{media_type}" representation="B64">{data}</text>'
        "</nonXMLBody>"
    )


RTF = (
    rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}{\*\generator Word;}"
    rb"\b Arztbrief\b0\par Befund: \'e4lter, \u8364? 12 {\field{\*\fldinst{HYPERLINK"
    rb' "http://198.51.100.7/x"}}{\fldrslt link}}\par{\object\objdata 01020304}}'
)


def dicom(name: str = "Sample^Juniper", born: str = "19840217") -> bytes:
    """Return a DICOM file with a head and four pixels."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made: Any = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.PatientName, made.PatientBirthDate, made.PatientSex = name, born, "F"
    made.Modality, made.BodyPartExamined = "CT", "CHEST"
    made.StudyDescription, made.SeriesDescription = "Thorax low dose", "Axial 2 mm"
    made.StudyDate, made.StudyTime = "20261104", "101500"
    made.Rows = made.Columns = 2
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation, made.PixelData = 7, 0, b"\0\1\2\3"
    held = io.BytesIO()
    made.save_as(held, enforce_file_format=True)
    return held.getvalue()
