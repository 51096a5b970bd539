"""Published people and examples on every page of the chart, at home and behind a doctor's link.

Each page opens, and each number on it stands in what the sources sent (corpus).
"""

import base64
import re
import tarfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from phr import clock
from phr.errors import InvalidInput
from phr.fhir import document
from phr.store import records
from tests.cast import Cast
from tests.corpus import corpus
from tests.fixtures_records import keep_records
from tests.walking import doctors_pages, home_pages, text_of

pytestmark = pytest.mark.corpus

PACKAGES = ("us_core_311", "us_core_610", "us_core_800")
EXAMPLES = {"us_core_311": 84, "us_core_610": 183, "us_core_800": 228}
FOLDERS = ("uscore-reference", "ips", "phr-ndjson", "dstu2", "health-card")
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?")
OURS = re.compile(  # what this program counts or measures itself, and says so
    r"\b[\d,.]+ (?:bytes?|kB|MB|records?|kinds?|results?|tests?|measurements?|values?|hospitals?|"
    r"sources?|entries|more|older|points?|times?|days?|pages?|letters?|doses?|visits?|readings?|people|"
    r"(?:new )?things?|professionals?|problems?|medicines?|allergies|vaccinations?|reports?|"
    r"documents?|hits?)\b"
    r"|Worked out by Homeport\s+[\d.]+"
    r"|(?<=\d{4})\s+\(\d{1,3}\)"  # an age beside a date of birth
    r"|\b\d+ of \d+\b|\bVersion (?:here )?\s*\d+\b"
)
LARGE = 1_000_000  # bytes of one file that is walked whole: more repeats what smaller ones show


def published() -> list[Path | str]:
    """Return the packages by name, and each file with a person or document."""
    found: list[Path | str] = [*PACKAGES]
    for folder in FOLDERS:
        found += [
            path
            for path in sorted((corpus() / "fhir" / folder).rglob("*"))
            if path.suffix in {".json", ".ndjson", ".phr"} and path.stat().st_size < LARGE
        ]
    return found


def resources(which: Path | str) -> Iterator[dict[str, Any]]:
    """Yield the resources of a package or file, with the digits as written."""
    if isinstance(which, str):
        with tarfile.open(corpus() / "fhir" / "uscore-packages" / f"{which}.tgz") as packed:
            for one in packed:
                if "/example/" in one.name and one.name.endswith(".json"):
                    found = dict(document.loads(packed.extractfile(one).read()))
                    if "resourceType" in found:  # a package has an index beside its examples
                        yield found
        return
    raw = which.read_bytes()
    lines = [raw]
    try:
        document.loads(raw)
    except InvalidInput:
        lines = raw.splitlines()
    for line in lines:
        if line.strip():
            try:
                whole = document.loads(line)
            except InvalidInput:  # one file is malformed after its eleventh line
                return
            inner = (
                whole["entry"] if whole.get("resourceType") == "Bundle" else [{"resource": whole}]
            )
            yield from (dict(one["resource"]) for one in inner if "resource" in one)


def told(found: list[dict[str, Any]]) -> set[str]:
    """Return every number that the sources sent, the ones inside of attached texts included."""
    text = "\n".join(document.dumps(one).decode() for one in found)
    for data in re.findall(r'"data":"([A-Za-z0-9+/=]{8,})"', text):
        text += base64.b64decode(data + "===").decode("utf-8", "replace")
    numbers = set(re.findall(r"\d+(?:\.\d+)?", text))
    return numbers | {one.lstrip("0") for one in numbers if "." not in one}


def invented(page: str, numbers: set[str]) -> Iterator[str]:
    """Yield what stands around each number that nobody sent; one cut short says so by "…"."""
    text = OURS.sub(" ", text_of(page))
    for one in NUMBER.finditer(text):
        digits = one[0].rstrip(",")
        told_so = {digits, digits.replace(",", "")} & numbers or numbers.issuperset(
            digits.split(",")
        )
        cut = text[one.end() : one.end() + 1] == "…"
        if not told_so and not (cut and any(sent.startswith(digits) for sent in numbers)):
            yield " ".join(text[max(0, one.start() - 40) : one.end() + 30].split())


def test_the_packages_are_whole():
    assert {name: sum(1 for _ in resources(name)) for name in PACKAGES} == EXAMPLES


@pytest.mark.parametrize("which", published(), ids=lambda one: getattr(one, "stem", one)[:40])
def test_everything_published_is_shown_on_every_page_with_the_digits_of_its_source(
    cast: Cast, which: Path | str
) -> None:
    found = [
        one for one in resources(which) if one.get("resourceType") != "Binary" or "data" in one
    ]
    for place, one in enumerate(found):
        one.setdefault("id", f"example-{place}")
    begun = clock.now()
    keep_records(cast.vault("Ada"), found, name="Published", now=begun)
    wrong = set()
    pages = list(home_pages(cast, "Ada", cast.browser("Ada")))
    pages += doctors_pages(cast, "Ada")
    with cast.vault("Ada").read() as session:
        counts = records.counts(session).values()  # how many there are of each kind
    numbers = told(found) | {str(count) for count in counts}
    for moment in (begun, clock.now(), clock.now() + timedelta(days=1)):  # now, and the link's end
        numbers |= set(f"{moment:%Y %-d %H %M %-H %-M}".split())
    for path, page in pages:
        wrong |= {(re.sub(r"[0-9a-f]{16,}", "…", path), one) for one in invented(page, numbers)}
    shown = sum("/record/" in path for path, _ in pages)
    assert shown
    assert not wrong
