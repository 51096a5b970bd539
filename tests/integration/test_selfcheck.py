"""The self-check in words: its page, its command, and sizes as people read them."""

import json
import re
from typing import Any

import pytest

from phr import clock, selfcheck
from phr.chart.plain import size_words
from phr.cli import commands
from phr.store import audit
from tests.cast import Cast
from tests.fixtures_sharing import ADA, a_record, keep_all


def test_every_finding_has_a_subject_in_words(cast: Cast) -> None:
    found = selfcheck.look(cast.appliance)
    assert {one.name for one in found} <= set(selfcheck.SUBJECTS)
    for one in found:
        assert one.subject[0].isupper(), one
        assert one.sentence.endswith("."), one
        assert not re.search(r"\b0\.0+ ?[kMG]B|\bNone\b|\b1 (?:backups|records)\b", one.sentence)


def test_the_page_names_subjects_and_not_keys(cast: Cast) -> None:
    page = cast.browser("Ada").get("/admin/check").text
    headings = set(re.findall(r"<h3>([^<]+)</h3>", page))
    assert {"Address of the household", "Room on the disk", "Backups"} <= headings
    assert not headings & {"public", "tls", "user id", "file system"}


def test_the_command_gives_the_key_and_the_subject(cast: Cast) -> None:
    found = list(commands.run(cast.appliance, "check", {}))
    assert {"level", "name", "subject", "sentence"} == set(found[0])
    disk = next(one for one in found if one["name"] == "disk")
    assert disk["subject"] == "Room on the disk"
    assert re.search(r"free\. The records take [\d.]+ (?:kB|MB)\.", disk["sentence"])


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (140_600, "141 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (2_700_000, "2.7 MB"),
        (12_345_678, "12 MB"),
        (80_000_000_000, "80 GB"),
        (4_000_000_000_000_000, "4,000 TB"),
    ],
)
def test_sizes_are_told_as_people_read_them(size: int, words: str) -> None:
    assert size_words(size) == words


def test_the_activity_command_names_the_connection(cast: Cast) -> None:
    vault = cast.vault("Ada")
    number = keep_all(vault, "North Quay", a_record())
    with vault.write() as session:
        audit.append(session, vault, "connection.paused", ADA, connection=number)
    given: dict[str, Any] = {"patient": "Ada", "limit": 1}
    (line,) = commands.run(cast.appliance, "activity", given)
    assert line["sentence"] == "Ada paused the connection to North Quay."
    assert json.dumps(line, default=str)
    assert line["at"] <= clock.now().isoformat()
