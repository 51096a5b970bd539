"""A recipient's first screen, as values and as HTML: who this is, and what matters first.

Computed from released records only, for the link, its printed page, the owner's preview and a
parcel alike. Views of single sections are `phr.views`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from phr.chart import allergies, medications, people, problems, results
from phr.chart.allergies import Knowledge
from phr.chart.medications import Standing
from phr.chart.plain import day_words, joined, moment_words, sentence_case, visible
from phr.fhir import kinds, reading
from phr.fhir.record import Origin, Record, Selection
from phr.sharing.gate import Released, Terms
from phr.sharing.provision import Provision
from phr.views import KIND, VIEWS, Context, View, show

CHOSEN = "The patient chose what to share. This may be incomplete. Not listed does not mean absent."
NEWEST_TESTS = 12
LINES_AT_MOST = 12  # of one list on the first screen; the section has them all
NO_TOOLS = Markup()
REPEATING = frozenset({"timeline", "other"})
IDENTITY = Selection(types=("Patient",))
FIRST = (
    Selection(types=("AllergyIntolerance",), limit=500),
    Selection(types=("MedicationRequest", "MedicationStatement"), limit=1000),
    Selection(types=("Condition",), limit=1000),
    Selection(types=("Observation",), categories=("laboratory",), limit=300),
    Selection(types=("Observation",), limit=100),
    Selection(types=("Medication", "Practitioner", "PractitionerRole", "Organization"), limit=2000),
)
_NOT_A_TEST = kinds.category_mask(("vital-signs", "social-history", "survey", "sdoh"))

_ENVIRONMENT = Environment(
    loader=PackageLoader("phr.sharing"),
    autoescape=True,
    finalize=visible,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
    auto_reload=False,
)


@dataclass(frozen=True, slots=True)
class Line:
    """One fact: what, in which state, and who says so."""

    title: str
    text: str
    said: str
    severe: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """One of the three lists. `note` says what an empty or a partly shown list means."""

    title: str
    lines: tuple[Line, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Test:
    """The newest value of one test."""

    name: str
    value: str
    unit: str
    mark: str
    words: str
    said: str
    span: str
    taken: str
    before: str


@dataclass(frozen=True, slots=True)
class Who:
    """Who this is, as the released Patient records say; where they differ, all they say."""

    name: str
    born: tuple[str, ...]
    age: str
    sex: str


@dataclass(frozen=True, slots=True)
class Cover:
    """The first screen."""

    who: Who
    demo: bool
    shared_by: str
    recipient: str
    reason: str
    as_of: tuple[str, ...]
    ends: str
    columns: tuple[Column, ...]
    tests: tuple[Test, ...]
    tests_note: str


# ------------------------------------------------------------------ as values


def cover(released: Released, *, now: datetime) -> Cover:
    """Return the first screen of what was released."""
    records = released.select(IDENTITY, *FIRST)
    return build(records, released.terms, released.provision, released.origins(), now=now)


def build(
    records: Sequence[Record],
    terms: Terms,
    provision: Provision,
    origins: Mapping[int, Origin],
    *,
    now: datetime,
) -> Cover:
    """Compute the first screen from records that may be shown."""
    context = Context(origins=origins, now=now)
    tests = _tests(records)
    return Cover(
        who=_who(records, terms.patient, now),
        demo=any(origin.demo for origin in origins.values()),
        shared_by=terms.shared_by,
        recipient=terms.recipient,
        reason=terms.reason or "not given",
        as_of=tuple(_as_of(origin) for origin in origins.values()) or ("nothing is shared now",),
        ends=minute(terms.ends_at),
        columns=(
            _allergies(records, provision, context),
            _medicines(records, provision, context),
            _problems(records, provision, context),
        ),
        tests=tests,
        tests_note=_empty("test results", "Observation", provision) if not tests else "",
    )


def _who(records: Sequence[Record], fallback: str, now: datetime) -> Who:
    found = sorted(people.patients(records), key=lambda one: one.record.received_at, reverse=True)
    named = next((one.name for one in found if one.record.document.get("name")), fallback)
    births = dict.fromkeys(
        text for one in found if isinstance(text := one.record.document.get("birthDate"), str)
    )
    born = tuple(moment_words(text) for text in births)
    return Who(
        name=named,
        born=born,
        age=_age(next(iter(births)), now) if len(births) == 1 else "",
        sex=joined(*dict.fromkeys(one.sex for one in found if one.sex), by=" / "),
    )


def _age(birth_date: str, now: datetime) -> str:
    """Return whole years from a full FHIR date, else ""."""
    try:
        born = datetime.strptime(birth_date, "%Y-%m-%d").date()  # noqa: DTZ007 - a date, no time
    except ValueError:
        return ""
    today = now.date()
    return str(today.year - born.year - ((today.month, today.day) < (born.month, born.day)))


def _as_of(origin: Origin) -> str:
    at = "date unknown" if origin.as_of is None else minute(origin.as_of)
    return f"{origin.name}{' (demo)' if origin.demo else ''}: {at}"


def minute(at: datetime) -> str:
    """Return an instant as people read it, in the zone of this box: "9 Nov 2026, 03:12"."""
    here = at.astimezone()
    return f"{here.day} {here:%b %Y}, {here:%H:%M}"


def _shares(provision: Provision, type_: str) -> bool:
    return any(type_ in rule.types for rule in provision.rules)


def _empty(what: str, type_: str, provision: Provision) -> str:
    if not _shares(provision, type_):
        return f"The patient does not share {what} here."
    return f"No {what} in what is shared. That does not mean there are none."


def _allergies(records: Sequence[Record], provision: Provision, context: Context) -> Column:
    found = allergies.allergies(records)
    lines = [
        Line(
            one.name,
            sentence_case(joined(one.severity, *one.reactions, one.status)),
            context.listed(one.record, "listed"),
            one.severe,
        )
        for one in found.listed
    ]
    said = [
        Line(sentence_case(one.name), "", context.listed(one.record, "said"))
        for one in found.none_known
    ]
    note = _empty("allergies", "AllergyIntolerance", provision)
    known = found.knowledge is not Knowledge.UNKNOWN
    return _column("Allergies", (*lines, *said), "" if known else note)


def _column(title: str, lines: Sequence[Line], note: str) -> Column:
    more = len(lines) - LINES_AT_MOST
    told = f"{more} more in the section below." if more > 0 else ""
    return Column(title, tuple(lines[:LINES_AT_MOST]), joined(told, note, by=" "))


def _medicines(records: Sequence[Record], provision: Provision, context: Context) -> Column:
    found = medications.medications(records, context.now)
    current = [one for one in found if one.standing is Standing.CURRENT]
    unclear = sum(one.standing is Standing.UNCLEAR for one in found)
    lines = tuple(
        Line(one.name, joined(*one.doses, by="; "), context.listed(one.record, "listed as current"))
        for one in current
    )
    note = f"{unclear} more where it is unclear whether they are current." if unclear else ""
    if not found:
        note = _empty("medicines", "MedicationRequest", provision)
    elif not current and not unclear:
        note = "None is listed as current."
    return _column("Medicines listed as current", lines, note)


def _problems(records: Sequence[Record], provision: Provision, context: Context) -> Column:
    found = problems.problems(records)
    lines = tuple(
        Line(
            one.name,
            sentence_case(joined(f"since {one.began}" if one.began else "", one.severity)),
            context.listed(one.record, one.status or "no status given"),
        )
        for one in found.active
    )
    rest = len(found.over) + len(found.diagnoses)
    note = f"{rest} more: listed as over, or diagnoses of visits." if rest else ""
    if not (found.active or rest or found.doubtful):
        note = _empty("problems", "Condition", provision)
    elif not found.active:
        note = joined("None is listed as active.", note, by=" ")
    return _column("Problems", lines, note)


def _tests(records: Sequence[Record]) -> tuple[Test, ...]:
    """Return the newest value of the tests that were done last, flagged ones first."""
    wanted = [
        record
        for record in records
        if record.type != "Observation" or not reading.categories(record.document) & _NOT_A_TEST
    ]
    newest = [series.results[0] for series in results.by_test(wanted) if series.results]
    sound = [one for one in newest if not one.marks.mistaken and (one.value.words or one.parts)]
    sound.sort(
        key=lambda one: one.record.when.timestamp() if one.record.when else 0.0, reverse=True
    )
    chosen = sound[:NEWEST_TESTS]
    chosen.sort(key=lambda one: not one.flagged)
    return tuple(_test(one) for one in chosen)


def _test(one: results.Result) -> Test:
    before = one.earlier[0] if one.earlier else None
    return Test(
        name=one.name,
        value=one.value.words or joined(*(f"{p.name} {p.value.words}" for p in one.parts)),
        unit=one.value.unit,
        mark=one.word.mark,
        words=one.word.words,
        said=one.word.said,
        span=one.span.words if one.span else "no range given",
        taken=day_words(one.taken) or "no date given",
        before="" if before is None else f"{before.value.words} on {day_words(before.taken)}",
    )


# ------------------------------------------------------------------ as HTML


def body(shown: Cover, tools: Markup = NO_TOOLS) -> Markup:
    """Return the first screen as HTML with our style sheets' classes; `tools` in its head."""
    template = _ENVIRONMENT.get_template("cover.html")
    return Markup(template.render(cover=shown, chosen=CHOSEN, tools=tools))  # noqa: S704 (autoescaped)


def sections(released: Released) -> list[tuple[View, int]]:
    """Return the sections that hold released records, each with their number."""
    by_type = released.count_by_type()
    counted = ((view, _number(released, view.selection, by_type)) for view in VIEWS.values())
    return [(view, number) for view, number in counted if number]


def _number(released: Released, selection: Selection, by_type: Mapping[str, int]) -> int:
    """Return how many records a section holds; only what depends on more than types is asked."""
    plain = Selection(types=selection.types, limit=selection.limit)
    if replace(selection, order=plain.order, withdrawn=plain.withdrawn) != plain:
        return released.count(selection)
    return sum(by_type.get(type_, 0) for type_ in selection.types or by_type)


def section_records(released: Released, view: View) -> list[Record]:
    """Return what one section needs of the released records."""
    return released.select(view.selection, *view.also)


def whole(released: Released, *, now: datetime) -> Markup:
    """Return every section below each other, each record once: the printed page."""
    context = Context(origins=released.origins(), now=now)
    return Markup("\n").join(
        Markup("<section><h2>{}</h2>\n<p>{}</p>\n{}</section>").format(
            view.title, drawn.heading, drawn.body
        )
        for view in _each_once(released)
        if (drawn := show(view, section_records(released, view), context))
    )


def _each_once(released: Released) -> list[View]:
    """Return the sections that hold something, without those that repeat what others show."""
    own = [view for view, _ in sections(released) if view.slug not in REPEATING]
    shown = {type_ for view in own for type_ in view.selection.types}
    rest = [type_ for type_ in released.count_by_type() if type_ not in shown]
    return [*own, *(of_kind(type_) for type_ in sorted(rest))]


def of_kind(type_: str) -> View:
    """Return the plain list of one FHIR type as a section."""
    return replace(
        KIND, title=kinds.KINDS[type_].label, selection=replace(KIND.selection, types=(type_,))
    )


def page(released: Released, *, now: datetime) -> bytes:
    """Return everything as one HTML file that needs nothing else: for a parcel, or to keep."""
    shown = cover(released, now=now)
    template = _ENVIRONMENT.get_template("page.html")
    text = template.render(
        cover=shown,
        chosen=CHOSEN,
        body=body(shown),
        sections=whole(released, now=now),
    )
    return text.encode()
