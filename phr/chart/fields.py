"""Any resource, known or not, as labelled rows that a person can read.

What has no short form is listed part by part; what does not fit is counted. Narrative and binary
data are named, not shown: they belong in the sandboxed viewer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phr.chart.plain import (
    address_words,
    clip,
    coding_words,
    concept_words,
    exact_words,
    joined,
    mapping,
    mappings,
    moment_words,
    name_words,
    period_words,
    quantity_words,
    range_words,
    ratio_words,
    safe_depth,
    sentence_case,
    string,
    system_words,
)

_HIDDEN = frozenset({"resourceType", "id", "text", "meta", "implicitRules"})
_MOST_ROWS = 400
_LONGEST = 4_000  # characters of one value


@dataclass(frozen=True, slots=True)
class Field:
    """A labelled value. `depth` 0 is the resource itself; a group has a label and no value."""

    label: str
    value: str
    depth: int = 0
    target: str = ""  # the reference it points to, as the source wrote it


@dataclass(frozen=True, slots=True)
class Fields:
    """The rows of a resource; `left_out` says how many rows did not fit."""

    rows: tuple[Field, ...]
    left_out: int
    narrative: bool  # a narrative exists (FHIR R4 §2.6.4)


def fields(document: Mapping[str, Any]) -> Fields:
    """Describe a resource field by field, in the order in which the source wrote it."""
    rows: list[Field] = []
    for name, value in document.items():
        if name not in _HIDDEN:
            _describe(name, value, rows, 0)
    rows.extend(_meta(mapping(document.get("meta"))))
    shown = rows[:_MOST_ROWS]
    narrative = isinstance(mapping(document.get("text")).get("div"), str)
    return Fields(tuple(shown), len(rows) - len(shown), narrative)


def label(name: str) -> str:
    """Turn a field name into words: "valueQuantity" to "Value", "birthDate" to "Birth date"."""
    bare = name.lstrip("_")
    for prefix in ("value", "effective", "onset", "performed", "occurrence", "medication"):
        rest = bare[len(prefix) :]
        if bare.startswith(prefix) and rest[:1].isupper():
            bare = prefix
    spaced = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in bare)
    return sentence_case(clip(spaced.strip(), 60)) or "Unnamed"


def _describe(name: str, value: Any, rows: list[Field], depth: int) -> None:
    if len(rows) > _MOST_ROWS * 2:
        return
    if isinstance(value, list):
        for one in value:
            _describe(name, one, rows, depth)
        return
    if name in ("extension", "modifierExtension"):
        _extension(name, mapping(value), rows, depth)
        return
    words, told = _simple(value)
    if words:
        target = string(value.get("reference")) if isinstance(value, dict) else ""
        rows.append(Field(label(name), clip(words, _LONGEST), depth, target))
    if isinstance(value, dict):
        left = {key: one for key, one in value.items() if key not in told}
        if left:
            _group(name, left, rows, depth, named=bool(words))


def _group(
    name: str, left: Mapping[str, Any], rows: list[Field], depth: int, *, named: bool
) -> None:
    """List the members of an object below its label."""
    if not safe_depth(depth):
        rows.append(Field(label(name), "nested too deeply to show; see the raw bytes", depth))
        return
    if not named:
        kind = string(left.get("resourceType"))
        rows.append(Field(joined(label(name), kind, by=": "), "", depth))
    for key, one in left.items():
        _describe(key, one, rows, depth + 1)


def _extension(name: str, value: Mapping[str, Any], rows: list[Field], depth: int) -> None:
    """Show an extension by the last part of its address, with its value or its parts."""
    url = string(value.get("url"))
    title = sentence_case(clip(url.rstrip("/").rpartition("/")[2].replace("-", " "), 60)) or "Extra"
    if name == "modifierExtension":
        title = f"{title} (may change the meaning)"
    for key, one in value.items():
        if key.startswith("value"):
            words, _ = _simple(one)
            if words:
                rows.append(Field(title, clip(words, _LONGEST), depth))
            else:
                _describe(key, one, rows, depth)
    inner = mappings(value.get("extension"))
    if inner and safe_depth(depth):
        rows.append(Field(title, "", depth))
        for one in inner:
            _extension("extension", one, rows, depth + 1)


_UNTOLD: frozenset[str] = frozenset()


def _simple(value: Any) -> tuple[str, frozenset[str]]:
    """Return a primitive or short datatype in words, and which members the words tell."""
    if isinstance(value, bool):
        return ("yes" if value else "no"), _UNTOLD
    if isinstance(value, str):
        return exact_words(value) or value.strip(), _UNTOLD
    if not isinstance(value, dict):
        return string(value), _UNTOLD
    for told, read in _SHAPES:
        if not told.isdisjoint(value):
            words = read(value)
            if words:
                return words, told | {"id", "div"}
    return "", frozenset({"id", "div"})


def _reference(value: Mapping[str, Any]) -> str:
    if "reference" not in value:
        return ""
    shown = string(value.get("display"))
    return shown or string(value.get("reference"))


def _identifier(value: Mapping[str, Any]) -> str:
    number = string(value.get("value"))
    kind = concept_words(value.get("type")) or system_words(string(value.get("system")))
    return joined(number, f"({kind})" if kind else "", by=" ") if number else ""


def _concept(value: Mapping[str, Any]) -> str:
    if "coding" not in value:
        return ""
    words = concept_words(value)
    codes = [
        joined(system_words(string(one.get("system"))), string(one.get("code")), by=" ")
        for one in mappings(value.get("coding"))
        if string(one.get("code"))
    ]
    told = joined(*codes)
    return f"{words} [{told}]" if words and told and not words.startswith("Code ") else words


def _coding(value: Mapping[str, Any]) -> str:
    if not string(value.get("code")) or isinstance(value.get("value"), (dict, list)):
        return ""
    code = joined(system_words(string(value.get("system"))), string(value.get("code")), by=" ")
    words = coding_words(value)
    return f"{words} [{code}]" if string(value.get("display")) else words


def _attachment(value: Mapping[str, Any]) -> str:
    if "contentType" not in value:
        return ""
    kind = string(value.get("contentType"))
    held = "inside this record" if isinstance(value.get("data"), str) else string(value.get("url"))
    return joined(string(value.get("title")), kind, held)


def _only_text(value: Mapping[str, Any]) -> str:
    return string(value.get("text")) if isinstance(value.get("text"), str) else ""


def _number_or_contact(value: Mapping[str, Any]) -> str:
    if "value" not in value:
        return ""
    return _identifier(value) if isinstance(value["value"], str) else quantity_words(value)


def _name(value: Mapping[str, Any]) -> str:
    return name_words([value]) if "family" in value or "given" in value else ""


# Datatypes by their members (FHIR R4 §2.24): what the words tell, and how they are read.
_SHAPES = (
    (frozenset({"reference", "display", "type", "identifier"}), _reference),
    (frozenset({"coding", "text"}), _concept),
    (frozenset({"contentType", "title", "url", "data", "size", "hash", "language"}), _attachment),
    (frozenset({"numerator", "denominator"}), ratio_words),
    (frozenset({"low", "high"}), range_words),
    (frozenset({"family", "given", "prefix", "suffix", "text", "use"}), _name),
    (
        frozenset({"line", "city", "postalCode", "state", "country", "text", "use", "type"}),
        lambda value: address_words([value]) if "city" in value or "line" in value else "",
    ),
    (
        frozenset({"value", "unit", "code", "system", "comparator", "currency", "use", "rank"}),
        _number_or_contact,
    ),
    (frozenset({"code", "system", "display", "userSelected", "version"}), _coding),
    (frozenset({"start", "end"}), period_words),
    (frozenset({"text"}), _only_text),
    (frozenset({"display"}), lambda value: string(value.get("display"))),
)


def _meta(meta: Mapping[str, Any]) -> list[Field]:
    rows = [
        Field("Version at the source", string(meta.get("versionId"))),
        Field("Changed at the source", moment_words(meta.get("lastUpdated"))),
        *(Field("Profile", string(one)) for one in _strings(meta.get("profile"))),
        *(Field("Security label", coding_words(one)) for one in mappings(meta.get("security"))),
        *(Field("Tag", coding_words(one)) for one in mappings(meta.get("tag"))),
    ]
    return [row for row in rows if row.value]


def _strings(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
