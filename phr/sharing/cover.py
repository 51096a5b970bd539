"""A recipient's first screen, as values and as HTML: who this is, and what matters first.

Computed from released records only, for the link, its printed page, the owner's preview and a
parcel alike. Views of single sections are `phr.views`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from phr import clock
from phr.chart import allergies, medications, people, problems, results
from phr.chart.allergies import Knowledge
from phr.chart.decision import Decision
from phr.chart.medications import Standing
from phr.chart.plain import counted, day_words, joined, moment_words, sentence_case, visible
from phr.chart.summary import contacts_of
from phr.fhir import kinds, reading
from phr.fhir.record import UNSAID, UPLOAD, Origin, Record, Selection
from phr.sharing.gate import Released, Terms
from phr.sharing.provision import Provision
from phr.views import KIND, VIEWS, Context, View, show
from phr.views.evidence import how
from phr.views.frame import day, with_demo

minute = clock.minute_here  # one way to write an instant, here and on the pages around it

CHOSEN = "The patient chose what to share. This may be incomplete. Not listed does not mean absent."
NEWEST_TESTS = 12
PLACES_AT_MOST = 3  # named on the first screen; the others are folded away
CONTACTS = 3
CARD = "card"  # the role of a printed card, as `phr.sharing.emergency` grants it
LINES_AT_MOST = 12  # of one list on the first screen; the section has them all
NO_TOOLS = Markup()
REPEATING = frozenset({"timeline", "other"})
IDENTITY = Selection(types=("Patient",))
FIRST = (
    Selection(types=("AllergyIntolerance",), limit=500),
    Selection(types=("MedicationRequest", "MedicationStatement"), limit=1000),
    Selection(types=("Condition",), limit=1000),
    Selection(types=("Observation",), categories=("laboratory", UNSAID), limit=300),
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
    by: str  # where it is from; says so where nobody vouches for it


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
    spread: str  # the same in one line, where there are many places
    ends: str
    columns: tuple[Column, ...]
    tests: tuple[Test, ...]
    calls: str  # whom to call, on the page that an emergency card opens; else ""
    tests_note: str  # why there are none, or how many more there are


# ------------------------------------------------------------------ as values


def cover(released: Released, *, now: datetime) -> Cover:
    """Return the first screen of what was released."""
    records = released.select(IDENTITY, *FIRST)
    return build(
        records,
        released.terms,
        released.provision,
        released.origins(),
        now=now,
        decisions=released.decisions(),
    )


def build(
    records: Sequence[Record],
    terms: Terms,
    provision: Provision,
    origins: Mapping[int, Origin],
    *,
    now: datetime,
    decisions: tuple[Decision, ...] = (),
) -> Cover:
    """Compute the first screen from records that may be shown.

    `decisions` are the patient's, on which of them are the same thing.
    """
    context = Context(origins=origins, now=now, decisions=decisions)
    tests, further = _tests(records, context)
    is_card = terms.role == CARD
    silent = is_card and not _shares(provision, "Observation")  # the card's set never has results
    return Cover(
        who=who_is(records, terms.patient, now),
        demo=any(origin.demo for origin in origins.values()),
        shared_by=terms.shared_by,
        recipient=terms.recipient,
        reason=terms.reason or "not given",
        as_of=tuple(map(as_of, hospitals_first(origins))) or ("nothing is shared now",),
        spread=_spread(origins.values()),
        ends=minute(terms.ends_at),
        columns=(
            _allergies(records, provision, context),
            _medicines(records, provision, context),
            _problems(records, provision, context),
        ),
        tests=tests,
        calls=_calls(records, context) if is_card else "",
        tests_note=further if tests or silent else _empty("test results", "Observation", provision),
    )


def _calls(records: Sequence[Record], context: Context) -> str:
    """Return whom to call; without anybody a sentence that says so, since the card promises it."""
    found = contacts_of(people.of_the_person(records, how(context)))
    return joined(*found[:CONTACTS], by="; ") or "no contact is listed in what is shared"


def who_is(records: Sequence[Record], fallback: str, now: datetime) -> Who:
    """Return who the Patient records are about; `fallback` is the name where none gives one.

    A Patient that may be somebody else's does not count, unless all of them may.
    """
    told = people.patients(records)
    sure = [one for one in told if one.evidence.doubt is None]
    found = sorted(sure or told, key=lambda one: one.record.received_at, reverse=True)
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


def as_of(origin: Origin) -> str:
    """Return when a place was last asked: "9 Nov 2026, 03:12, North Quay".

    The name comes last: one that runs from right to left would draw the date apart.
    """
    at = "date unknown" if origin.as_of is None else minute(origin.as_of)
    return f"{at}, {with_demo(origin.name, demo=origin.demo)}"


def hospitals_first(origins: Mapping[int, Origin]) -> list[Origin]:
    """Return places in their order, what somebody brought after the connected hospitals."""
    return sorted(origins.values(), key=lambda one: one.is_brought)


def _spread(origins: Collection[Origin]) -> str:
    """Return many places in one line, or "" where each of a few has a line of its own."""
    if len(origins) <= PLACES_AT_MOST:
        return ""
    known = sorted(origin.as_of for origin in origins if origin.as_of is not None)
    if not known:
        return f"{len(origins)} places, dates unknown"
    first, last = day(known[0]), day(known[-1])
    return f"{len(origins)} places, {first}" + ("" if first == last else f" to {last}")


def _shares(provision: Provision, type_: str) -> bool:
    return any(type_ in rule.types for rule in provision.rules)


def _empty(what: str, type_: str, provision: Provision) -> str:
    if not _shares(provision, type_):
        return f"The patient does not share {what} here."
    return f"No {what} in what is shared. That does not mean there are none."


def _allergies(records: Sequence[Record], provision: Provision, context: Context) -> Column:
    found = allergies.allergies(records, how(context))
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
    found = medications.medications(records, context.now, how(context))
    current = [one for one in found if one.standing is Standing.CURRENT]
    unclear = sum(one.standing is Standing.UNCLEAR for one in found)
    lines = tuple(
        Line(one.name, joined(*one.doses, by="; "), context.listed(one.record, "listed as current"))
        for one in current
    )
    lines += tuple(
        Line(sentence_case(one.name), "", context.listed(one.record, "said"))
        for one in found
        if one.standing is Standing.SAID
    )
    note = f"{unclear} more where it is unclear whether they are current." if unclear else ""
    if not found:
        note = _empty("medicines", "MedicationRequest", provision)
    elif not lines and not unclear:
        note = "None is listed as current."
    return _column("Medicines listed as current", lines, note)


def _problems(records: Sequence[Record], provision: Provision, context: Context) -> Column:
    found = problems.problems(records, how(context))
    lines = tuple(
        Line(
            one.name,
            sentence_case(joined(f"since {one.began}" if one.began else "", one.severity)),
            context.listed(one.record, one.status or "no status given"),
        )
        for one in found.active
    )
    lines += tuple(
        Line(sentence_case(one.name), "", context.listed(one.record, "said")) for one in found.said
    )
    unclear, rest = len(found.unclear), len(found.over) + len(found.diagnoses)
    note = joined(
        f"{unclear} more where it is unclear whether they are active." if unclear else "",
        f"{rest} more: listed as over, or diagnoses of visits." if rest else "",
        by=" ",
    )
    if not (lines or unclear or rest or found.doubtful):
        note = _empty("problems", "Condition", provision)
    elif not lines:
        note = joined("None is listed as active.", note, by=" ")
    return _column("Problems", lines, note)


def _tests(records: Sequence[Record], context: Context) -> tuple[tuple[Test, ...], str]:
    """Return the newest value of the tests, flagged ones first, and how many more there are.

    None that a source flagged is ever left out, however old it is or however many there are.
    """
    wanted = [
        record
        for record in records
        if record.type != "Observation" or not reading.categories(record.document) & _NOT_A_TEST
    ]
    series = results.by_test(wanted, how(context))
    newest = [next((each for each in one.results if not each.void), None) for one in series]
    sound = [one for one in newest if one is not None and (one.value.words or one.parts)]
    sound.sort(
        key=lambda one: one.record.when.timestamp() if one.record.when else 0.0, reverse=True
    )
    sound.sort(key=lambda one: not one.flagged)  # within each the newest stay first
    most = max(NEWEST_TESTS, sum(one.flagged for one in sound))
    more = counted(max(0, len(sound) - most), "more test")
    told = f"{more}, not flagged by the source, in the section below." if sound[most:] else ""
    return tuple(_test(one, context) for one in sound[:most]), told


def _test(one: results.Result, context: Context) -> Test:
    before = next((each for each in one.earlier if not each.void), None)
    parts = (joined(p.name, p.value.words, p.value.unit, by=" ") for p in one.parts)
    name = joined(one.name, f"({one.status.casefold()})" if one.status else "", by=" ")
    return Test(
        name=name,
        value=one.value.words or joined(*parts),
        unit=one.value.unit,
        mark=one.word.mark,
        words=one.word.words,
        said=one.word.said,
        span=one.span.words if one.span else "no range given",
        taken=day_words(one.taken) or "no date given",
        before="" if before is None else f"{before.value.words} on {day_words(before.taken)}",
        by=_by(one, context),
    )


def _by(one: results.Result, context: Context) -> str:
    """Return where a result is from; no file speaks as if a hospital had answered just now."""
    origin = context.origins.get(one.record.connection_id)
    said = context.origin(one.record)
    is_file = origin is not None and origin.kind == UPLOAD
    return f"{said} (a file the patient kept)" if is_file else said  # who contributes says it


# ------------------------------------------------------------------ as HTML


def template(name: str) -> Template:
    """Return one of this room's templates; whatever it prints is escaped."""
    return _ENVIRONMENT.get_template(name)


def body(shown: Cover, tools: Markup = NO_TOOLS) -> Markup:
    """Return the first screen as HTML with our style sheets' classes; `tools` in its head."""
    return Markup(template("cover.html").render(cover=shown, chosen=CHOSEN, tools=tools))  # noqa: S704 (autoescaped)


def who(released: Released, *, now: datetime) -> Who:
    """Return who a released record is about, for the head of every page."""
    return who_is(released.identity(), released.terms.patient, now)


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
    """Return every section below each other, each record once: the printed page.

    Where the first screen only counts the places that records came from, they stand at the end.
    """
    context = Context(origins=released.origins(), now=now, decisions=released.decisions())
    drawn = [
        Markup("<section><h2>{}</h2>\n<p>{}</p>\n{}</section>").format(
            view.title, shown.heading, shown.body
        )
        for view in _each_once(released)
        if (shown := show(view, section_records(released, view), context))
    ]
    return Markup("\n").join([*drawn, _places(context.origins)])


def _places(origins: Mapping[int, Origin]) -> Markup:
    if len(origins) <= PLACES_AT_MOST:
        return NO_TOOLS
    lines = Markup("").join(Markup("<li>{}</li>").format(as_of(each)) for each in origins.values())
    return Markup(
        '<section><h2>Data as of</h2><ul class="paper rows small">{}</ul></section>'
    ).format(lines)


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
    text = template("page.html").render(
        cover=shown,
        chosen=CHOSEN,
        body=body(shown),
        sections=whole(released, now=now),
    )
    return text.encode()
