"""THE table of search parameters of the FHIR API: one row each, what is not here is not claimed.

All searches of US Core 6.1.0 are made of these rows. How a value is read and compared: `search`.
"""

from dataclasses import dataclass
from typing import Final

# What every type has (R4 §3.1.1.5); the table adds to it.
EVERYWHERE: Final = ("_id", "_lastUpdated")
RESULT: Final = (  # they shape the answer and narrow nothing (R4 §3.1.1.6)
    "_count",
    "_sort",
    "_summary",
    "_elements",
    "_total",
    "_include",
    "_revinclude",
)

# type, parameter, kind, paths joined by commas, then what the store's index knows of it: `concept`
# (record.concept holds exactly these codings), `category`, `time` (record.time is this date where
# there is one); or `=system`, the code system that a plain code means.
_ROWS = """
AllergyIntolerance clinical-status token clinicalStatus
AllergyIntolerance patient reference patient
CarePlan category token category category
CarePlan date date period time
CarePlan patient reference subject
CarePlan status token status =http://hl7.org/fhir/request-status
CareTeam participant reference participant.member
CareTeam patient reference subject
CareTeam role token participant.role
CareTeam status token status =http://hl7.org/fhir/care-team-status
Condition abatement-date date abatementDateTime,abatementPeriod
Condition asserted-date date extension=http://hl7.org/fhir/StructureDefinition/condition-assertedDate
Condition category token category category
Condition clinical-status token clinicalStatus
Condition code token code concept
Condition encounter reference encounter
Condition onset-date date onsetDateTime,onsetPeriod time
Condition patient reference subject
Condition recorded-date date recordedDate
Coverage patient reference beneficiary
Device patient reference patient
Device status token status =http://hl7.org/fhir/device-status
Device type token type
DiagnosticReport category token category category
DiagnosticReport code token code concept
DiagnosticReport date date effectiveDateTime,effectivePeriod time
DiagnosticReport patient reference subject
DiagnosticReport status token status =http://hl7.org/fhir/diagnostic-report-status
DocumentReference category token category category
DocumentReference date date date time
DocumentReference patient reference subject
DocumentReference period date context.period
DocumentReference status token status =http://hl7.org/fhir/document-reference-status
DocumentReference type token type concept
Encounter class token class
Encounter date date period time
Encounter discharge-disposition token hospitalization.dischargeDisposition
Encounter identifier token identifier
Encounter location reference location.location
Encounter patient reference subject
Encounter status token status =http://hl7.org/fhir/encounter-status
Encounter type token type concept
Goal description token description concept
Goal lifecycle-status token lifecycleStatus =http://hl7.org/fhir/goal-status
Goal patient reference subject
Goal target-date date target.dueDate
Immunization date date occurrenceDateTime time
Immunization patient reference patient
Immunization status token status =http://hl7.org/fhir/event-status
Location address string address
Location address-city string address.city
Location address-postalcode string address.postalCode
Location address-state string address.state
Location name string name,alias
MedicationDispense medication reference medicationReference
MedicationDispense patient reference subject
MedicationDispense status token status =http://terminology.hl7.org/CodeSystem/medicationdispense-status
MedicationDispense type token type
MedicationRequest authoredon date authoredOn time
MedicationRequest encounter reference encounter
MedicationRequest intent token intent =http://hl7.org/fhir/CodeSystem/medicationrequest-intent
MedicationRequest medication reference medicationReference
MedicationRequest patient reference subject
MedicationRequest status token status =http://hl7.org/fhir/CodeSystem/medicationrequest-status
Observation category token category category
Observation code token code concept
Observation date date effectiveDateTime,effectivePeriod,effectiveInstant,effectiveTiming time
Observation patient reference subject
Observation status token status =http://hl7.org/fhir/observation-status
Organization address string address
Organization name string name,alias
Patient birthdate date birthDate
Patient death-date date deceasedDateTime
Patient family string name.family
Patient gender token gender =http://hl7.org/fhir/administrative-gender
Patient identifier token identifier
Patient name string name
Practitioner identifier token identifier
Practitioner name string name
PractitionerRole practitioner reference practitioner
PractitionerRole specialty token specialty
Procedure code token code concept
Procedure date date performedDateTime,performedPeriod time
Procedure patient reference subject
Procedure status token status =http://hl7.org/fhir/event-status
QuestionnaireResponse authored date authored time
QuestionnaireResponse patient reference subject
QuestionnaireResponse questionnaire uri questionnaire
QuestionnaireResponse status token status =http://hl7.org/fhir/questionnaire-answers-status
RelatedPerson name string name
RelatedPerson patient reference patient
ServiceRequest authored date authoredOn
ServiceRequest category token category category
ServiceRequest code token code concept
ServiceRequest patient reference subject
ServiceRequest status token status =http://hl7.org/fhir/request-status
Specimen patient reference subject
"""

# Other types that a grant can cover have `_id`, `_lastUpdated` and these.
_PLAIN = {
    "Appointment": "participant.actor",
    "Claim": "patient",
    "ClinicalImpression": "subject",
    "Composition": "subject",
    "DetectedIssue": "patient",
    "DeviceUseStatement": "subject",
    "EpisodeOfCare": "patient",
    "ExplanationOfBenefit": "patient",
    "FamilyMemberHistory": "patient",
    "Flag": "subject",
    "ImagingStudy": "subject",
    "ImmunizationRecommendation": "patient",
    "Media": "subject",
    "MedicationAdministration": "subject",
    "MedicationStatement": "subject",
    "NutritionOrder": "patient",
    "RiskAssessment": "subject",
}
MEDICATION: Final = "Medication"  # has no search of its own in US Core; read and included

# One step from a reference to a parameter of what it points to (R4 §3.1.1.5.6).
CHAINS: Final = {("PractitionerRole", "practitioner"): ("Practitioner", ("identifier", "name"))}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One search parameter of one type."""

    type: str
    name: str
    kind: str  # token, reference, date, string, uri
    paths: tuple[str, ...]
    index: str = ""  # what the store's index knows of it
    system: str = ""  # which code system a plain code means


def _read(row: str) -> Parameter:
    type_, name, kind, paths, *more = row.split()
    said = more[0] if more else ""
    system = said[1:] if said.startswith("=") else ""
    return Parameter(type_, name, kind, tuple(paths.split(",")), "" if system else said, system)


def _all() -> dict[str, dict[str, Parameter]]:
    found: dict[str, dict[str, Parameter]] = {MEDICATION: {}}
    for row in _ROWS.split("\n"):
        if row:
            parameter = _read(row)
            found.setdefault(parameter.type, {})[parameter.name] = parameter
    for type_, path in _PLAIN.items():
        found[type_] = {"patient": Parameter(type_, "patient", "reference", (path,))}
    return dict(sorted(found.items()))


PARAMETERS: Final = _all()
