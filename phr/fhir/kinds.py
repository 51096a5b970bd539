"""One row per resource type: its number in the store, its words for people, where it is shown.

Also the categories that decide about sections and grants, as bits. Nothing here reads a document.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

SECTIONS: Final = (  # the number of a section is its place here; append only
    "other",
    "results",
    "medications",
    "allergies",
    "problems",
    "immunizations",
    "vitals",
    "visits",
    "procedures",
    "documents",
    "people",
    "insurance",
)

CATEGORIES: Final[dict[str, int]] = {  # a category's bit is its place here; append only
    name: 1 << place
    for place, name in enumerate(
        (
            "other",  # a category was given, none of those below
            "laboratory",
            "vital-signs",
            "social-history",
            "survey",
            "exam",
            "imaging",
            "procedure",
            "therapy",
            "activity",
            "sdoh",
            "functional-status",
            "disability-status",
            "cognitive-status",
            "clinical-test",
            "problem-list-item",
            "health-concern",
            "encounter-diagnosis",
            "clinical-note",
            "assess-plan",
            "food",
            "medication",
            "environment",
            "biologic",
            "inpatient",
            "outpatient",
            "community",
            "discharge",
            "pathology",
            "cardiology",
            "treatment-intervention-preference",
            "care-experience-preference",
            "advance-directive",
        )
    )
}
_SAME: Final = {  # other codes for the same categories (v2-0074, LOINC parts, DSTU2)
    "lab": "laboratory",
    "rad": "imaging",
    "lp29684-5": "imaging",
    "pat": "pathology",
    "sp": "pathology",
    "lp7839-6": "pathology",
    "cus": "cardiology",
    "lp29708-2": "cardiology",
    "problem": "problem-list-item",
    "diagnosis": "encounter-diagnosis",
    "vital_signs": "vital-signs",
    "vitals": "vital-signs",
    "42348-3": "advance-directive",
}
_VITALS = CATEGORIES["vital-signs"]


def category_bit(code: str) -> int:
    """Return the bit of one category code ("laboratory", "LAB"); unknown ones share "other"."""
    code = code.lower()
    return CATEGORIES.get(_SAME.get(code, code), CATEGORIES["other"])


def category_mask(codes: Iterable[str]) -> int:
    """Return the bits of several category codes; `record.category & mask` tells whether one fits.

    A token may be "system|code"; the system is not looked at.
    """
    mask = 0
    for code in codes:
        mask |= category_bit(code.rpartition("|")[2])
    return mask


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource type.

    `dates` are paths, the first that holds a date or period counts; `codes` name the elements that
    say what it is. `patient_param` is the search parameter to pull it by (None: it is not pulled
    by patient) and `searches` the narrower queries for servers that refuse the plain one.
    """

    number: int
    type: str
    singular: str  # "allergy": within a sentence
    label: str  # "Allergies": heads a list
    section: str = "other"
    timeline: bool = False
    dates: tuple[str, ...] = ()
    codes: tuple[str, ...] = ("code", "type")
    patient_param: str | None = None
    searches: tuple[str, ...] = ()

    def section_for(self, categories: int) -> str:
        """Return the section's slug for a record with these category bits."""
        return "vitals" if self.type == "Observation" and categories & _VITALS else self.section


def section_number(slug: str) -> int:
    """Return the number under which a section is stored."""
    return SECTIONS.index(slug)


# Numbers are places in this list, and they are stored: append only. First R4 (4.0.1) as a whole,
# then what only older releases have (kept, shown as text, and exported), then R5.
_NAMES = """
Account ActivityDefinition AdverseEvent AllergyIntolerance Appointment AppointmentResponse
AuditEvent Basic Binary BiologicallyDerivedProduct BodyStructure Bundle CapabilityStatement CarePlan
CareTeam CatalogEntry ChargeItem ChargeItemDefinition Claim ClaimResponse ClinicalImpression
CodeSystem Communication CommunicationRequest CompartmentDefinition Composition ConceptMap Condition
Consent Contract Coverage CoverageEligibilityRequest CoverageEligibilityResponse DetectedIssue
Device DeviceDefinition DeviceMetric DeviceRequest DeviceUseStatement DiagnosticReport
DocumentManifest DocumentReference EffectEvidenceSynthesis Encounter Endpoint EnrollmentRequest
EnrollmentResponse EpisodeOfCare EventDefinition Evidence EvidenceVariable ExampleScenario
ExplanationOfBenefit FamilyMemberHistory Flag Goal GraphDefinition Group GuidanceResponse
HealthcareService ImagingStudy Immunization ImmunizationEvaluation ImmunizationRecommendation
ImplementationGuide InsurancePlan Invoice Library Linkage List Location Measure MeasureReport Media
Medication MedicationAdministration MedicationDispense MedicationKnowledge MedicationRequest
MedicationStatement MedicinalProduct MedicinalProductAuthorization
MedicinalProductContraindication MedicinalProductIndication MedicinalProductIngredient
MedicinalProductInteraction MedicinalProductManufactured MedicinalProductPackaged
MedicinalProductPharmaceutical MedicinalProductUndesirableEffect MessageDefinition MessageHeader
MolecularSequence NamingSystem NutritionOrder Observation ObservationDefinition OperationDefinition
OperationOutcome Organization OrganizationAffiliation Parameters Patient PaymentNotice
PaymentReconciliation Person PlanDefinition Practitioner PractitionerRole Procedure Provenance
Questionnaire QuestionnaireResponse RelatedPerson RequestGroup ResearchDefinition
ResearchElementDefinition ResearchStudy ResearchSubject RiskAssessment RiskEvidenceSynthesis
Schedule SearchParameter ServiceRequest Slot Specimen SpecimenDefinition StructureDefinition
StructureMap Subscription Substance SubstanceNucleicAcid SubstancePolymer SubstanceProtein
SubstanceReferenceInformation SubstanceSourceMaterial SubstanceSpecification SupplyDelivery
SupplyRequest Task TerminologyCapabilities TestReport TestScript ValueSet VerificationResult
VisionPrescription

BodySite Conformance DataElement DeviceComponent DeviceUseRequest DiagnosticOrder
EligibilityRequest EligibilityResponse ExpansionProfile ImagingManifest ImagingObjectSelection
MedicationOrder Order OrderResponse ProcedureRequest ProcessRequest ProcessResponse ReferralRequest
Sequence ServiceDefinition

ActorDefinition ArtifactAssessment BiologicallyDerivedProductDispense ConditionDefinition
DeviceAssociation DeviceDispense DeviceUsage EncounterHistory FormularyItem GenomicStudy
ImagingSelection InventoryItem InventoryReport NutritionIntake NutritionProduct Permission
RequestOrchestration Requirements SubscriptionStatus SubscriptionTopic Transport
"""
_TYPES = tuple(_NAMES.split())

_EFFECTIVE = ("effectiveDateTime", "effectivePeriod", "effectiveInstant", "effectiveTiming")
_ANY_DATE = (
    *_EFFECTIVE,
    "occurrenceDateTime",
    "occurrencePeriod",
    "performedDateTime",
    "performedPeriod",
    "period",
    "date",
    "dateTime",
    "authoredOn",
    "authored",
    "created",
    "recorded",
    "issued",
    "sent",
)
_MEDICINE = ("medicationCodeableConcept", "medication", "medicationReference")


def _kind(
    type_: str,
    singular: str,
    label: str,
    section: str = "other",
    *,
    timeline: bool = True,
    dates: str = "",
    codes: tuple[str, ...] = ("code", "type"),
    by: str | None = "patient",
    searches: tuple[str, ...] = (),
) -> Kind:
    return Kind(
        _TYPES.index(type_) + 1,
        type_,
        singular,
        label,
        section,
        timeline,
        tuple(dates.split()) or _ANY_DATE,
        codes,
        by,
        searches,
    )


def _chains(parameter: str, values: str) -> tuple[str, ...]:
    return tuple(f"{parameter}={value}" for value in values.split())


_ROWS = (
    # --- USCDI / US Core classes
    _kind(
        "AllergyIntolerance",
        "allergy",
        "Allergies",
        "allergies",
        dates="onsetDateTime onsetPeriod onset recordedDate assertedDate lastOccurrence",
        codes=("code", "substance"),  # so in DSTU2
        searches=_chains("clinical-status", "active inactive resolved"),
    ),
    _kind(
        "CarePlan",
        "care plan",
        "Care plans",
        dates="period created",
        codes=("category", "title"),
        searches=_chains("category", "assess-plan"),
    ),
    _kind(
        "CareTeam",
        "care team",
        "Care teams",
        "people",
        timeline=False,
        dates="period",
        codes=("category",),
        searches=_chains("status", "active proposed suspended inactive"),
    ),
    _kind(
        "Condition",
        "problem",
        "Problems",
        "problems",
        dates="onsetDateTime onsetPeriod recordedDate assertedDate dateRecorded abatementDateTime",
        searches=_chains("category", "problem-list-item health-concern encounter-diagnosis"),
    ),
    _kind("Coverage", "insurance cover", "Insurance", "insurance", timeline=False, dates="period"),
    _kind("Device", "device", "Devices", timeline=False, dates="manufactureDate expirationDate"),
    _kind(
        "DiagnosticReport",
        "report",
        "Reports",
        "results",
        dates="effectiveDateTime effectivePeriod issued",
        searches=(
            "category=LAB",
            "category=http://loinc.org|LP29684-5",
            "category=http://loinc.org|LP29708-2",
            "category=http://loinc.org|LP7839-6",
        ),
    ),
    _kind(
        "DocumentReference",
        "document",
        "Documents",
        "documents",
        dates="date context.period created indexed content.attachment.creation",
        codes=("type", "category"),
        searches=_chains("category", "clinical-note"),
    ),
    _kind(
        "Encounter",
        "visit",
        "Visits",
        "visits",
        dates="period actualPeriod",
        codes=("type", "class", "serviceType"),
    ),
    _kind(
        "Goal",
        "goal",
        "Goals",
        dates="startDate statusDate",
        codes=("description",),
        searches=_chains("lifecycle-status", "active accepted planned proposed completed on-hold"),
    ),
    _kind(
        "Immunization",
        "vaccination",
        "Vaccinations",
        "immunizations",
        dates="occurrenceDateTime date recorded",
        codes=("vaccineCode",),
        searches=_chains("status", "completed not-done entered-in-error"),
    ),
    _kind("Location", "place", "Places", "people", timeline=False, by=None),
    _kind("Medication", "medicine", "Medicines", "medications", timeline=False, by=None),
    _kind(
        "MedicationRequest",
        "prescription",
        "Prescriptions",
        "medications",
        dates="authoredOn",
        codes=_MEDICINE,
        searches=_chains("intent", "order plan proposal original-order reflex-order filler-order"),
    ),
    _kind(
        "MedicationDispense",
        "dispensed medicine",
        "Dispensed medicines",
        "medications",
        dates="whenHandedOver whenPrepared",
        codes=_MEDICINE,
        searches=_chains("status", "completed in-progress"),
    ),
    _kind(
        "Observation",
        "result",
        "Results and measurements",
        "results",
        timeline=False,  # the timeline shows events; measurements have Results and Vitals
        dates=" ".join((*_EFFECTIVE, "issued")),
        searches=_chains(
            "category",
            "laboratory vital-signs social-history survey exam sdoh imaging procedure therapy"
            " activity functional-status disability-status cognitive-status clinical-test",
        ),
    ),
    _kind(
        "Organization", "organization", "Organizations", "people", timeline=False, by=None
    ),
    _kind("Patient", "person", "Personal details", "people", timeline=False, by="_id"),
    _kind(
        "Practitioner", "professional", "Professionals", "people", timeline=False, by=None
    ),
    _kind(
        "PractitionerRole",
        "professional's role",
        "Professionals' roles",
        "people",
        timeline=False,
        dates="period",
        by=None,
    ),
    _kind(
        "Procedure",
        "procedure",
        "Procedures",
        "procedures",
        dates="performedDateTime performedPeriod occurrenceDateTime occurrencePeriod recorded",
        searches=_chains("status", "completed in-progress not-done"),
    ),
    _kind("Provenance", "note of origin", "Notes of origin", timeline=False, dates="recorded"),
    _kind(
        "QuestionnaireResponse",
        "questionnaire",
        "Questionnaires",
        "documents",
        dates="authored",
        codes=("questionnaire",),
        searches=_chains("status", "completed amended in-progress"),
    ),
    _kind("RelatedPerson", "related person", "Related people", "people", timeline=False),
    _kind(
        "ServiceRequest",
        "order",
        "Orders and referrals",
        "procedures",
        dates="occurrenceDateTime occurrencePeriod authoredOn",
        searches=_chains("status", "active completed on-hold"),
    ),
    _kind(
        "Specimen",
        "specimen",
        "Specimens",
        timeline=False,
        dates="collection.collectedDateTime collection.collectedPeriod receivedTime",
    ),
    # --- other clinical
    _kind(
        "MedicationStatement",
        "listed medicine",  # a statement does not prove that it was taken
        "Listed medicines",
        "medications",
        dates="effectiveDateTime effectivePeriod dateAsserted",
        codes=_MEDICINE,
    ),
    _kind(
        "MedicationAdministration",
        "medicine given",
        "Medicines given",
        "medications",
        dates="effectiveDateTime effectivePeriod effectiveTimeDateTime",
        codes=_MEDICINE,
    ),
    _kind("FamilyMemberHistory", "family history", "Family history", "problems", dates="date"),
    _kind("ImagingStudy", "imaging study", "Imaging studies", "results", dates="started"),
    _kind("Media", "picture or recording", "Pictures and recordings", "documents"),
    _kind("Appointment", "appointment", "Appointments", "visits", dates="start created"),
    _kind("EpisodeOfCare", "episode of care", "Episodes of care", "visits", dates="period"),
    _kind("NutritionOrder", "diet order", "Diet orders", dates="dateTime", by=None),
    _kind("ImmunizationRecommendation", "vaccination advice", "Vaccination advice",
          "immunizations", timeline=False, dates="date", by=None),
    _kind("ImmunizationEvaluation", "vaccination check", "Vaccination checks",
          "immunizations", timeline=False, dates="date", by=None),
    _kind("ClinicalImpression", "assessment", "Assessments", "problems", by=None),
    _kind("RiskAssessment", "risk assessment", "Risk assessments", "problems", by=None),
    _kind("DetectedIssue", "detected issue", "Detected issues", "problems",
          dates="identifiedDateTime identifiedPeriod date", by=None),
    _kind("AdverseEvent", "adverse event", "Adverse events", "problems",
          dates="date detected recordedDate", codes=("event",), by=None),
    _kind("Flag", "flag", "Flags", "problems", timeline=False, dates="period", by=None),
    _kind("DeviceUseStatement", "device use", "Device use", dates="timingDateTime timingPeriod"
          " recordedOn", codes=("device",), by=None),
    _kind("DeviceRequest", "device order", "Device orders", codes=("codeCodeableConcept",),
          by=None),
    _kind("VisionPrescription", "vision prescription", "Vision prescriptions",
          dates="dateWritten created", by=None),
    _kind("BodyStructure", "body site", "Body sites", timeline=False, by=None),
    _kind("Composition", "document", "Composed documents", "documents", dates="date", by=None),
    _kind("DocumentManifest", "document set", "Document sets", "documents", dates="created",
          by=None),
    _kind("Binary", "attached file", "Attached files", "documents", timeline=False, by=None),
    _kind("Consent", "consent", "Consents", dates="dateTime", codes=("scope", "category"),
          by=None),
    _kind("Communication", "message", "Messages", dates="sent received", codes=("topic",
          "category"), by=None),
    _kind("List", "list", "Lists", timeline=False, dates="date", by=None),
    _kind("Group", "group", "Groups", "people", timeline=False, by=None),
    _kind("Person", "person", "People", "people", timeline=False, by=None),
    _kind("HealthcareService", "health service", "Health services", "people", timeline=False,
          by=None),
    _kind("Task", "task", "Tasks", timeline=False, by=None),
    # --- money
    _kind("Claim", "claim", "Claims", "insurance", timeline=False, dates="billablePeriod created",
          by=None),
    _kind("ClaimResponse", "claim answer", "Claim answers", "insurance", timeline=False,
          dates="created", by=None),
    _kind("ExplanationOfBenefit", "insurance statement", "Insurance statements", "insurance",
          timeline=False, dates="billablePeriod created"),
    _kind("Account", "account", "Accounts", timeline=False, dates="servicePeriod", by=None),
    # --- older releases
    _kind("MedicationOrder", "prescription", "Prescriptions", "medications",
          dates="dateWritten authoredOn",
          codes=_MEDICINE, by=None),
    _kind("DiagnosticOrder", "order", "Orders", "procedures", dates="event.dateTime", by=None),
    _kind("ProcedureRequest", "order", "Orders and referrals", "procedures",
          dates="occurrenceDateTime scheduledDateTime scheduledPeriod authoredOn orderedOn",
          by=None),
    _kind("ReferralRequest", "referral", "Referrals", "procedures",
          dates="occurrenceDateTime occurrencePeriod authoredOn dateSent date", by=None),
    _kind("DeviceUsage", "device use", "Device use", dates="timingDateTime timingPeriod", by=None),
)  # fmt: skip


def _words(type_: str) -> str:
    """Return "ChargeItemDefinition" as "charge item definition"."""
    spaced = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type_)
    return spaced.strip()


def _all() -> dict[str, Kind]:
    rows = {row.type: row for row in _ROWS}
    for number, type_ in enumerate(_TYPES, start=1):
        words = _words(type_)
        plain = Kind(number, type_, words, f"{words.capitalize()} records", dates=_ANY_DATE)
        rows.setdefault(type_, plain)
    return rows


KINDS: Final[dict[str, Kind]] = _all()
BY_NUMBER: Final[dict[int, Kind]] = {kind.number: kind for kind in KINDS.values()}

# What older releases offer by patient, with the narrower searches of their time (DSTU2: Argonaut
# Data Query 1.0.0). Types that a release does not have are not asked for there.
_DSTU2: Final = {
    "AllergyIntolerance": _chains("status", "active unconfirmed confirmed inactive resolved"),
    "Appointment": (),
    "CarePlan": _chains("category", "assess-plan careteam"),
    "ClinicalImpression": (),
    "Condition": _chains("category", "problem diagnosis complaint symptom finding health-concern"),
    "Device": (),
    "DeviceUseStatement": (),
    "DiagnosticOrder": _chains("status", "requested in-progress completed"),
    "DiagnosticReport": _chains("category", "LAB RAD PAT CUS"),
    "DocumentReference": _chains("status", "current"),
    "Encounter": _chains("status", "finished in-progress planned arrived"),
    "EpisodeOfCare": (),
    "FamilyMemberHistory": (),
    "Flag": (),
    "Goal": _chains("status", "accepted in-progress planned proposed achieved on-hold"),
    "ImagingStudy": (),
    "Immunization": _chains("status", "completed"),
    "MedicationAdministration": (),
    "MedicationDispense": _chains("status", "completed in-progress"),
    "MedicationOrder": _chains("status", "active completed stopped on-hold draft"),
    "MedicationStatement": _chains("status", "active completed intended"),
    "NutritionOrder": (),
    "Observation": _chains("category", "laboratory vital-signs social-history imaging exam survey"),
    "Procedure": _chains("status", "completed in-progress"),
    "ProcedureRequest": (),
    "Provenance": (),
    "QuestionnaireResponse": (),
    "ReferralRequest": (),
    "RelatedPerson": (),
    "Specimen": (),
}
_STU3_ONLY: Final = ("ProcedureRequest", "ReferralRequest")  # one ServiceRequest since R4


def asked(release: str = "") -> tuple[Kind, ...]:
    """Return the kinds to ask a server for by patient; `release` is what it says to speak.

    "1.0.2" is DSTU2, "3.0.1" STU3; everything else, "" too, counts as R4.
    """
    if release.startswith(("0.", "1.")):
        return tuple(
            replace(KINDS[type_], patient_param="patient", searches=searches)
            for type_, searches in _DSTU2.items()
        )
    r4 = [kind for kind in KINDS.values() if kind.patient_param and kind.type != "Patient"]
    if release.startswith("3."):
        older = [replace(KINDS[type_], patient_param="patient") for type_ in _STU3_ONLY]
        return (*(kind for kind in r4 if kind.type != "ServiceRequest"), *older)
    return tuple(r4)


PATIENT_ELEMENTS: Final = frozenset({"subject", "patient", "beneficiary"})  # whose record it is
