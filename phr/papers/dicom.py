"""Reads the head of a DICOM file (PS3.10) by pydicom, extra `dicom`: never its pixels."""

import io
from typing import Any, Final

from phr.papers.reading import Reading, Whose

MISSING: Final = (
    "Reading the description of DICOM images needs the extra “dicom” of Homeport. "
    "The file can be saved."
)
_TOO_FAR: Final = "This DICOM file is damaged. It can be saved."
_MODALITIES: Final = {  # PS3.3 §C.7.3.1.1.1, the common ones
    "CR": "X-ray (computed radiography)",
    "CT": "CT",
    "DX": "X-ray (digital)",
    "ECG": "ECG",
    "ES": "endoscopy",
    "IO": "dental X-ray",
    "MG": "mammography",
    "MR": "MRI",
    "NM": "nuclear medicine",
    "OP": "photograph of the eye",
    "OT": "other",
    "PT": "PET",
    "PX": "dental panorama X-ray",
    "RF": "fluoroscopy",
    "SC": "secondary capture",
    "SR": "structured report",
    "US": "ultrasound",
    "XA": "angiography",
    "XC": "photograph",
}
_SEXES: Final = {"M": "male", "F": "female", "O": "other"}
_FACTS: Final = (  # label, keyword of PS3.6
    ("Body part", "BodyPartExamined"),
    ("Study", "StudyDescription"),
    ("Series", "SeriesDescription"),
    ("Institution", "InstitutionName"),
    ("Referred by", "ReferringPhysicianName"),
    ("Device", "ManufacturerModelName"),
)


def read(content: bytes) -> Reading:
    """Return what the head of a DICOM file says: modality, body part, dates, descriptions, size."""
    try:
        import pydicom  # noqa: PLC0415 - an extra, and only this child needs it
        from pydicom.errors import InvalidDicomError  # noqa: PLC0415 - see above
    except ImportError:
        return Reading(sentence=MISSING)
    try:
        head = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, defer_size="16 KB")
    except (InvalidDicomError, EOFError, ValueError, KeyError, NotImplementedError):
        return Reading(sentence=_TOO_FAR)
    whose = Whose(
        name=_name(head),
        born=_day(_said(head, "PatientBirthDate")),
        sex=_SEXES.get(_said(head, "PatientSex").upper(), ""),
    )
    facts = [("Patient", whose.name), ("Born", whose.born), ("Sex", whose.sex)]
    modality = _said(head, "Modality")
    facts += [
        ("Modality", _MODALITIES.get(modality.upper(), modality)),
        ("Taken", _moment(head)),
        *((label, _said(head, keyword)) for label, keyword in _FACTS),
        ("Picture", _size(head)),
    ]
    kept = tuple((label, value) for label, value in facts if value)
    title = _said(head, "StudyDescription") or _said(head, "SeriesDescription")
    text = "\n".join(f"{label}: {value}" for label, value in kept)
    return Reading(text=text, title=title, facts=kept, whose=whose)


def _said(head: Any, keyword: str) -> str:
    """Return an element in words, on one line; nothing where it is empty or cannot be read."""
    value = head.get(keyword)
    return " ".join(str(value).split())[:500] if value is not None else ""


def _name(head: Any) -> str:
    """Return a PN (PS3.5 §6.2.1.2) in the order in which it is spoken."""
    said = _said(head, "PatientName").partition("=")[0]
    family, given, middle, prefix, suffix = (*said.split("^"), "", "", "", "", "")[:5]
    return " ".join(filter(None, (prefix, given, middle, family, suffix)))


def _day(said: str) -> str:
    """Return a DA (PS3.5 §6.2) as YYYY-MM-DD."""
    plain = said.replace(".", "")
    whole = len(plain) == 8 and plain.isascii() and plain.isdigit()
    return f"{plain[:4]}-{plain[4:6]}-{plain[6:]}" if whole else ""


def _moment(head: Any) -> str:
    day = _day(_said(head, "AcquisitionDate") or _said(head, "StudyDate"))
    clock = _said(head, "AcquisitionTime" if head.get("AcquisitionDate") else "StudyTime")
    told = day and len(clock) >= 4 and clock[:4].isdigit()
    return f"{day} {clock[:2]}:{clock[2:4]}" if told else day


def _size(head: Any) -> str:
    columns, rows = _said(head, "Columns"), _said(head, "Rows")
    frames = _said(head, "NumberOfFrames")
    if not (columns.isdigit() and rows.isdigit()):
        return ""
    size = f"{columns} x {rows} pixels"
    return f"{size}, {frames} frames" if frames.isdigit() and int(frames) > 1 else size
