"""Clinical documents (C-CDA) made of single entries, for tests. Nobody is real."""

from tests.fixtures_papers import ccda

_TEMPLATE = "2.16.840.1.113883.10.20.22.4"
SNOMED = 'codeSystem="2.16.840.1.113883.6.96"'
RXNORM = 'codeSystem="2.16.840.1.113883.6.88"'
LOINC = 'codeSystem="2.16.840.1.113883.6.1"'


def document(*entries: str, code: str = "", narrative: str = "", **head: str) -> bytes:
    """Return a document with one section of these entries."""
    listed = "".join(f"<entry>{one}</entry>" for one in entries)
    section = f'<code code="{code}" {LOINC}/>' if code else ""
    body = (
        f"<structuredBody><component><section>{section}<title>Listed</title>"
        f"<text>{narrative}</text>{listed}</section></component></structuredBody>"
    )
    made = ccda(body=body, **head)
    return made.replace(
        b'xmlns="urn:hl7-org:v3"',
        b'xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"',
    )


def statement(element: str, template: str, inside: str, **attributes: str) -> str:
    """Return one statement of a C-CDA template ("7" is 2.16.840.1.113883.10.20.22.4.7)."""
    said = {"classCode": "OBS", "moodCode": "EVN", **attributes}
    listed = " ".join(f'{name}="{value}"' for name, value in said.items())
    return f'<{element} {listed}><templateId root="{_TEMPLATE}.{template}"/>{inside}</{element}>'


def concern(template: str, inside: str, status: str = "active") -> str:
    """Return a concern act (C-CDA 2.1 §3.6, §3.77) around an observation."""
    held = f'<entryRelationship typeCode="SUBJ">{inside}</entryRelationship>'
    return statement("act", template, f'<statusCode code="{status}"/>{held}', classCode="ACT")


def substance(code: str) -> str:
    """Return who takes part in an allergy: the substance."""
    return (
        '<participant typeCode="CSM"><participantRole classCode="MANU">'
        f'<playingEntity classCode="MMAT">{code}</playingEntity></participantRole></participant>'
    )


def allergy(
    code: str, kind: str = "416098002", more: str = "", status: str = "active", **attributes: str
) -> str:
    """Return an allergy concern with one allergy observation."""
    inside = f'<value xsi:type="CD" code="{kind}" {SNOMED}/>{substance(code)}{more}'
    return concern("30", statement("observation", "7", inside, **attributes), status)


def problem(inside: str, status: str = "active", **attributes: str) -> str:
    """Return a problem concern with one problem observation."""
    return concern("3", statement("observation", "4", inside, **attributes), status)


def medicine(inside: str, code: str = "", **attributes: str) -> str:
    """Return a medication activity."""
    what = code or f'<code code="866924" displayName="Metoprolol 25 MG Oral Tablet" {RXNORM}/>'
    held = (
        f"{inside}<consumable><manufacturedProduct><manufacturedMaterial>{what}"
        "</manufacturedMaterial></manufacturedProduct></consumable>"
    )
    said = {"classCode": "SBADM", **attributes}
    return statement("substanceAdministration", "16", held, **said)


def result(inside: str, **attributes: str) -> str:
    """Return a result observation."""
    return statement("observation", "2", inside, **attributes)
