"""What rarely comes to the keeper: a person who cannot be read, a dictionary of long bodies."""

import json
import random
from pathlib import Path

import pytest

from phr import clock, keep, pull
from phr.store import audit, bodies
from phr.store.models import PullState
from phr.store.vault import Vault
from tests.fixtures_keep import hospital, item, keep_all, lab, rows, vault

__all__ = ["hospital", "vault"]

WORDS = ("glucose", "haemoglobin", "sodium", "creatinine", "fasting", "specimen", "serum", "ward")


def note(number: int, letters: int) -> bytes:
    """A laboratory value with a long note that repeats little."""
    chance = random.Random(number)  # noqa: S311 - words of a test, the same each time
    said = " ".join(
        f"{chance.choice(WORDS)}{chance.randrange(10**6)}" for _ in range(letters // 14)
    )
    return lab(f"o-{number}", note=[{"text": said}])


@pytest.mark.parametrize(
    "inside",
    [b'"\\ud800"', b'{"x":' * 80 + b"1" + b"}" * 80, b"1e999", b'{"a":1,"a":2}'],
    ids=["half a letter", "too deep", "no number", "a name twice"],
)
def test_a_person_who_cannot_be_read_is_set_aside_and_the_file_is_kept(
    vault: Vault, tmp_path: Path, inside: bytes
) -> None:
    """Whom a file is about is asked before it is kept; an unreadable Patient says nothing."""
    torn = b'{"resourceType":"Patient","id":"torn","x":' + inside + b"}"
    other = {"resourceType": "Observation", "id": "o", "status": "final", "code": {"text": "o"}}
    path = tmp_path / "both.ndjson"
    path.write_bytes(torn + b"\n" + json.dumps(other).encode() + b"\n")
    taken = pull.take_file(vault, path.name, path, actor=audit.APPLIANCE, now=clock.now())
    assert taken.state is PullState.PARTIAL
    assert (taken.kept.new, taken.kept.quarantined) == (1, 1)


def test_who_is_asked_about_a_record_that_is_no_person_learns_nothing(
    vault: Vault, hospital: int
) -> None:
    """Only a Patient says whose a file is: another kind under its name changes no judgement."""
    keeper = keep.Keeper(vault, hospital, 0, now=clock.now())
    keeper.acquaint("file", item(lab()))
    assert not keep_all(vault, hospital, [item(lab())]).quarantined


def test_a_dictionary_is_made_of_the_beginnings_of_some_megabytes(
    vault: Vault, hospital: int
) -> None:
    """More than what is sampled, in bodies longer than the piece that is read of each."""
    keep_all(vault, hospital, [item(note(number, 34_000)) for number in range(260)])
    assert keep.train(vault, hospital, least=200)
    assert not keep.train(vault, hospital, least=200)
    later = note(999, 500)
    keep_all(vault, hospital, [item(later)])
    ((blob,),) = rows(vault, "SELECT body FROM record WHERE remote_id = 'o-999'")
    with vault.read() as session:
        assert bodies.unpack(session, blob) == later
