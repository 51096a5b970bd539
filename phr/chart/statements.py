"""Statements about a whole list: none known, or nobody asked. They are not entries of the list."""

import re
from collections.abc import Mapping
from typing import Any, Final

from phr.chart.plain import codes, concept_words

# Statements that nothing is known: SNOMED CT, and IPS absent-or-unknown.
NONE_KNOWN_CODES: Final = frozenset(
    {
        "716186003",  # no known allergy
        "409137002",  # no known drug allergy
        "429625007",  # no known food allergy
        "428607008",  # no known environmental allergy
        "428197003",  # no known insect allergy
        "716184000",  # no known latex allergy
        "no-known-allergies",
        "no-known-medication-allergies",
        "no-known-environmental-allergies",
        "no-known-food-allergies",
    }
)
NO_INFORMATION_CODES: Final = frozenset({"no-allergy-info", "1631000175102"})
_NONE_KNOWN_TEXTS: Final = ("no known allerg", "no known drug allerg", "no known medication allerg")
_NONE_KNOWN_WORDS: Final = frozenset(  # the whole of what is said
    ("nka", "nkda", "none", "none known", "none reported", "no allergies", "no drug allergies")
)


# The same of other lists: problems, medicines, vaccines, procedures (IPS; SNOMED CT; in words).
_NOTHING_LISTED: Final = frozenset(
    {
        "no-known-problems",
        "no-known-medications",
        "no-known-immunizations",
        "no-known-procedures",
        "160245001",  # no current problems or disability
    }
)
_NOT_KNOWN: Final = frozenset(
    {"no-problem-info", "no-medication-info", "no-immunization-info", "no-procedure-info"}
)
_NOTHING_WORDS: Final = re.compile(
    r"none|none (known|reported|recorded)|no( (known|current|active|medical|health|or|and))*"
    r" (problems?|conditions?|diagnos[ie]s|medications?|medicines?|immunizations?|vaccinations?"
    r"|procedures?)( or disability)?"
)


def is_of_the_list(concept: Any) -> bool:
    """Say whether a code says something of a whole list: it has nothing, or is not known."""
    return is_not_known(concept) or _has_nothing(concept)


def is_not_known(concept: Any) -> bool:
    """Say whether a code says that nobody knows what belongs on a list."""
    return any(code in _NOT_KNOWN for _, code in codes(concept))


def _has_nothing(concept: Any) -> bool:
    if any(code in _NOTHING_LISTED for _, code in codes(concept)):
        return True
    return _NOTHING_WORDS.fullmatch(concept_words(concept).casefold().strip(" .")) is not None


def says(document: Mapping[str, Any], wanted: frozenset[str]) -> bool:
    """Say whether one of these codes is among those of `code`."""
    return any(code in wanted for _, code in codes(document.get("code")))


def says_none_known(document: Mapping[str, Any], name: str | None = None) -> bool:
    """Say whether an AllergyIntolerance states, by code or by its words, that none is known."""
    lower = (concept_words(document.get("code")) if name is None else name).casefold()
    whole = lower.strip(" .") in _NONE_KNOWN_WORDS
    return says(document, NONE_KNOWN_CODES) or whole or lower.startswith(_NONE_KNOWN_TEXTS)
