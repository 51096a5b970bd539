"""Published people and documents of several countries and releases, in every view (corpus)."""

import gzip
import html
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from phr import views
from phr.chart.results import groups, key_of
from phr.chart.vitals import body_mass, vitals
from phr.chart.whose import whose
from phr.errors import InvalidInput
from phr.fhir import document
from phr.fhir.record import Record
from tests.corpus import corpus
from tests.fixtures_records import as_record

CONTEXT = views.Context(origins={}, now=datetime(2026, 11, 22, tzinfo=UTC))
FOLDERS = ("uscore-reference", "ips", "phr-ndjson", "dstu2", "synthea-r4", "health-card")
NEWEST = 40  # values of one test that are drawn here
VALUES = re.compile(r"value(?:Quantity|Integer|Decimal)")

pytestmark = pytest.mark.corpus


def resources(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the resources of a file: a Bundle, one resource, or one a line up to a broken one."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        whole = [document.loads(raw)]
    except InvalidInput:
        whole = []
        for line in raw.splitlines():
            try:
                whole += [document.loads(line)] if line.strip() else []
            except InvalidInput:
                break
    for one in whole:
        if one.get("resourceType") == "Bundle":
            yield from (entry["resource"] for entry in one.get("entry", ()) if "resource" in entry)
        else:
            yield one


def files(folder: str) -> list[Path]:
    wanted = (".json", ".ndjson", ".phr", ".gz")
    found = sorted((corpus() / "fhir" / folder).rglob("*"))
    return [path for path in found if path.suffix in wanted and path.is_file()]


def text_of(body: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", body))


def numbers(value: Any) -> Iterator[str]:
    """Yield the digits of every measured value of a resource, as its source wrote them."""
    if isinstance(value, dict):
        for name, inner in value.items():
            quantity = inner.get("value") if isinstance(inner, dict) else inner
            if VALUES.fullmatch(name) and quantity is not None:
                yield str(quantity)
            elif name not in ("contained", "extension"):
                yield from numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_person_is_shown_in_every_view_with_the_digits_of_the_source(folder):
    shown = measured = 0
    for path in files(folder):
        records = [as_record(one, pk=pk) for pk, one in enumerate(resources(path), start=1)]
        for view in views.VIEWS.values():
            assert views.show(view, _of(view, records), CONTEXT).heading, (path.name, view.slug)
        for record in records:
            if record.type == "Observation" and "component" not in record.document:
                body = text_of(views.render(views.RECORD, [record], CONTEXT))
                for digits in numbers(record.document):
                    assert digits in body, (path.name, record.remote_id, digits)
                    measured += 1
        shown += len(records)
    assert shown
    assert measured or folder == "health-card"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_number_of_a_trend_s_page_is_the_source_s_or_marked_as_converted(folder):
    """Each value stands in the table with the digits it was sent with, in whatever unit."""
    shown = 0
    for path in files(folder):
        records = [as_record(one, pk=pk) for pk, one in enumerate(resources(path), start=1)]
        measured = [one for one in records if one.type == "Observation"]
        around = [one for one in records if one.type in ("Patient", "Organization")]
        same: dict[object, list[Record]] = {}
        for one in measured:
            same.setdefault(key_of(one.document.get("code")), []).append(one)
        for some in same.values():
            body = text_of(views.render(views.TEST, [*some[:NEWEST], *around], CONTEXT))
            for one in some[:NEWEST]:
                for digits in numbers(one.document):
                    assert re.search(rf"(?<![\d.]){re.escape(digits)}(?![\d.]*\d)", body), (
                        path.name,
                        one.remote_id,
                        digits,
                    )
                    shown += 1
    assert shown or folder == "health-card"


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_worked_out_or_converted_says_so(folder):
    """No figure of ours stands anywhere without the words that mark it."""
    for path in files(folder):
        records = [as_record(one, pk=pk) for pk, one in enumerate(resources(path), start=1)]
        for kind in vitals([one for one in records if one.type in ("Observation", "Patient")]):
            for each in (one.first for one in kind.readings if one.first.value.exact):
                assert each.value.words in each.record.body.decode(), (path.name, each.name)
        body = text_of(
            views.render(views.VIEWS["vitals"], _of(views.VIEWS["vitals"], records), CONTEXT)
        )
        if body_mass(vitals(records), whose(records)) is not None:
            assert "Worked out by Homeport" in body


def _of(view: views.View, records: list[Record]) -> list[Record]:
    """Return what a page would fetch for a view, as far as types go."""
    types = {type_ for also in (view.selection, *view.also) for type_ in also.types}
    return [one for one in records if not types or one.type in types]


@pytest.mark.parametrize("name", ["Lou_Kertzmann", "Shelby_Sawayn", "Wenona_Cormier"])
def test_an_older_releases_person_appears_in_every_view_that_a_newer_one_appears_in(name):
    (path,) = [one for one in files("dstu2") if one.name.startswith(name)]
    records = [as_record(one, pk=pk) for pk, one in enumerate(resources(path), start=1)]
    seen = {
        slug: text_of(views.show(view, _of(view, records), CONTEXT).body)
        for slug, view in views.VIEWS.items()
    }
    surname = name.partition("_")[2]
    assert surname in seen["people"]
    for slug, type_ in {
        "medications": "MedicationOrder",
        "problems": "Condition",
        "immunizations": "Immunization",
        "visits": "Encounter",
        "procedures": "Procedure",
    }.items():
        named = [one for one in records if one.type == type_]
        assert not named or "Nobody has sent any" not in seen[slug], (slug, seen[slug][:200])


def test_every_report_of_a_published_person_gathers_all_the_results_it_names():
    reports = 0
    for path in files("synthea-r4"):
        records = [as_record(one, pk=pk) for pk, one in enumerate(resources(path), start=1)]
        for group in groups(records):
            named = group.report.document.get("result", ()) if group.report else ()
            if named and group.report:
                reports += 1
                assert group.missing == 0, (path.name, group.title)
                assert len(group.results) == len(named)
    assert reports > 10
