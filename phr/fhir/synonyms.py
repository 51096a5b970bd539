"""What people call things, and what hospitals write: for searching one's own record.

Our own short list of everyday words and abbreviations; a record is only ever found by it, never
changed or judged. Both sides are searched for, whichever was typed.
"""

from collections.abc import Mapping
from typing import Final

_SAME: Final = (
    ("blood pressure", "bp"),
    ("high blood pressure", "hypertension", "htn"),
    ("low blood pressure", "hypotension"),
    ("heart attack", "myocardial infarction"),
    ("irregular heartbeat", "atrial fibrillation", "afib"),
    ("heart failure", "congestive heart failure", "chf"),
    ("heart tracing", "electrocardiogram", "ecg", "ekg"),
    ("stroke", "cerebrovascular accident", "cva"),
    ("blood sugar", "glucose"),
    ("long-term sugar", "hemoglobin a1c", "haemoglobin a1c", "hba1c", "a1c"),
    ("diabetes", "diabetes mellitus", "t2dm", "t1dm"),
    ("high cholesterol", "hypercholesterolemia", "hyperlipidemia", "dyslipidemia"),
    ("underactive thyroid", "hypothyroidism"),
    ("overactive thyroid", "hyperthyroidism"),
    ("thyroid stimulating hormone", "thyrotropin", "tsh"),
    ("asthma", "reactive airway disease"),
    ("chronic obstructive pulmonary disease", "copd", "emphysema"),
    ("chest x-ray", "cxr", "chest radiograph"),
    ("flu", "influenza"),
    ("flu shot", "influenza vaccine"),
    ("chickenpox", "varicella"),
    ("shingles", "zoster"),
    ("whooping cough", "pertussis"),
    ("covid", "covid-19", "sars-cov-2"),
    ("measles mumps rubella", "mmr"),
    ("blood count", "complete blood count", "cbc"),
    ("white blood cells", "leukocytes", "wbc"),
    ("red blood cells", "erythrocytes", "rbc"),
    ("platelets", "thrombocytes", "plt"),
    ("hemoglobin", "haemoglobin", "hgb"),
    ("low blood", "anemia", "anaemia"),
    ("kidney function", "creatinine", "gfr", "egfr"),
    ("kidney disease", "chronic kidney disease", "ckd"),
    ("kidney stone", "nephrolithiasis", "calculus of kidney"),
    ("urine infection", "urinary tract infection", "uti"),
    ("liver test", "alanine aminotransferase", "alt"),
    ("acid reflux", "gastroesophageal reflux", "gerd", "heartburn"),
    ("stool blood test", "occult blood"),
    ("gallstones", "cholelithiasis"),
    ("water pill", "diuretic"),
    ("blood thinner", "anticoagulant", "warfarin"),
    ("painkiller", "acetaminophen", "paracetamol"),
    ("aspirin", "acetylsalicylic acid", "asa"),
    ("adrenaline", "epinephrine"),
    ("salbutamol", "albuterol"),
    ("hives", "urticaria"),
    ("hay fever", "allergic rhinitis"),
    ("eczema", "atopic dermatitis"),
    ("nosebleed", "epistaxis"),
    ("dizziness", "vertigo"),
    ("broken bone", "fracture"),
    ("joint wear", "osteoarthritis"),
    ("bone thinning", "osteoporosis"),
    ("back pain", "lumbago"),
    ("fits", "seizure"),
    ("pregnancy test", "hcg"),
    ("miscarriage", "spontaneous abortion"),
    ("period pain", "dysmenorrhea"),
    ("prostate test", "psa", "prostate specific antigen"),
    ("cancer", "malignant neoplasm", "carcinoma"),
    ("pulse", "heart rate"),
    ("oxygen", "oxygen saturation", "spo2"),
    ("body mass index", "bmi"),
    ("discharge letter", "discharge summary"),
)


def _turned() -> Mapping[str, tuple[str, ...]]:
    made: dict[str, tuple[str, ...]] = {}
    for row in _SAME:
        for name in row:
            others = tuple(each for each in row if each != name)
            made[name] = tuple(dict.fromkeys((*made.get(name, ()), *others)))
    return made


SYNONYMS: Final = _turned()


def also(words: str) -> tuple[str, ...]:
    """Return other names for exactly these words, however they are written; () for none known."""
    return SYNONYMS.get(" ".join(words.casefold().split()), ())
