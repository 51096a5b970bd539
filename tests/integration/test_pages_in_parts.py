"""A page of many bytes is written in parts, and what is compared is held without its bytes."""

from phr import clock, keep
from phr.bench import house
from phr.fhir.record import Item
from phr.store import entries, records
from tests.fixtures_keep import PATIENT, hospital, item, rows, vault  # noqa: F401  fixtures


def allergy(number: int, size: int, patient: str = PATIENT) -> Item:
    return item(
        b'{"resourceType":"AllergyIntolerance","id":"%d","patient":{"reference":"Patient/%s"},'
        b'"text":{"status":"generated","div":"%s"},"code":{"text":"Latex"}}'
        % (number, patient.encode(), b"x" * size)
    )


def test_a_large_page_is_written_in_parts_and_told_once(vault, hospital, monkeypatch):  # noqa: F811
    monkeypatch.setattr(keep, "GROUP_BYTES", 2000)
    told = []
    page = [*(allergy(number, 900) for number in range(7)), allergy(7, 9, "somebody-else")]
    for expected in ((7, 0), (0, 7)):
        keeper = keep.Keeper(
            vault,
            hospital,
            house.pull(vault, hospital),
            expected_patient=PATIENT,
            now=clock.now(),
        )
        kept = keeper.page("x", page, settle=lambda _, one: told.append(one))
        kept += keeper.finish()
        assert (kept.new, kept.unchanged, kept.quarantined) == (*expected, 1)
    assert [(one.new, one.unchanged, one.quarantined) for one in told] == [(7, 0, 1), (0, 7, 1)]
    assert len(rows(vault, "SELECT 1 FROM record")) == 7


def test_a_record_to_be_compared_holds_neither_its_bytes_nor_its_narrative(vault, hospital):  # noqa: F811
    keeper = keep.Keeper(vault, hospital, house.pull(vault, hospital), now=clock.now())
    keeper.page("x", [allergy(1, 90_000)])
    keeper.finish()
    [(pk, hash_)] = rows(vault, "SELECT pk, hash FROM record")
    with vault.read() as session:
        [found] = entries.loaded(session, vault, [pk], ahead=entries.JustWritten())
    assert found.body == hash_
    assert "text" not in found.document
    assert found.document["code"] == {"text": "Latex"}


def test_a_long_text_is_compared_by_what_stands_for_it():
    def read(said: bytes) -> object:
        row = (1, 1, 1, 1, "1", 1, 0, None, 0, 0)
        body = b'{"resourceType":"DiagnosticReport","a":[{"b":[1,"%s"]}],"c":"%s"}' % (said, said)
        return records.Elements().read(row, b"", body).document

    long = b"word " * 2000
    assert read(long) == read(long)
    assert read(long) != read(long + b"more")
    assert len(str(read(long))) < 400
    assert read(b"short")["c"] == "short"
