"""Statements about a whole list: none known, or nobody asked. They are not entries of the list."""

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
_NONE_KNOWN_TEXTS = ("no known allerg", "no known drug allerg", "no known medication allerg", "nka")


def says(document: Mapping[str, Any], wanted: frozenset[str]) -> bool:
    """Say whether one of these codes is among those of `code`."""
    return any(code in wanted for _, code in codes(document.get("code")))


def says_none_known(document: Mapping[str, Any], name: str | None = None) -> bool:
    """Say whether an AllergyIntolerance states, by code or by its words, that none is known."""
    lower = (concept_words(document.get("code")) if name is None else name).casefold()
    return says(document, NONE_KNOWN_CODES) or any(
        lower == text or (lower.startswith(text) and len(text) > 3) for text in _NONE_KNOWN_TEXTS
    )
