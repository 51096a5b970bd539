"""What is changed while something leaves: what was ready, or half sent, does not outlive it.

Each test takes a stream to its middle, changes one thing as the appliance changes it, and goes on.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from phr import clock, keep
from phr.errors import Ended
from phr.fhir.labels import Label
from phr.fhir.references import key_of
from phr.sharing import answers, gate, handles, package, ready
from phr.sharing.gate import Interaction, Released
from phr.sharing.handles import Token
from phr.sharing.provision import Provision, Rule
from phr.store import records
from phr.store.vault import Vault
from tests.cast import Cast
from tests.fixtures_fhir import ALL, everything, token_for
from tests.fixtures_sharing import condition, keep_all, keep_more, lab, recent

BASE = "https://doors.example/fhir"
ADA = {"kind": "account", "id": "ada", "name": "Ada"}
MANY = 60
LAST = f"o{MANY - 1}"  # of what is ready of its type it leaves last
Way = Callable[[Released], Iterator[bytes]]
Change = Callable[[Vault, int], object]


def noted(number: int, word: str = "note") -> dict[str, object]:
    return lab(f"o{number}", recent(number + 1), note=[{"text": f"{word} {number}."}])


@pytest.fixture
def vault(cast: Cast) -> Vault:
    return cast.vault("Ada")


@pytest.fixture
def north(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return a connection whose records are ready, and leave in many small parts of one window."""
    records_ = [*(noted(number) for number in range(MANY)), condition("c1", "Sprain")]
    connection = keep_all(vault, "North Quay", records_)
    monkeypatch.setattr(ready, "PART", 2000)
    monkeypatch.setattr(package, "CHUNK", 1000)
    ready.make(vault)
    return connection


def token(vault: Vault, provision: Provision | None = None) -> Token:
    return token_for(vault, provision or everything(), ALL)


def let_out(vault: Vault, shown: Token) -> Released:
    bearer = handles.bearer_of(shown.text)
    assert bearer is not None
    wanted = Interaction("rs", None)
    return gate.release_to(vault, shown.grant_id, bearer, wanted, "api.everything", now=clock.now())


def as_everything(released: Released) -> Iterator[bytes]:
    return answers.everything(released, None, types=(), since=None, base=BASE)


def as_lines(released: Released) -> Iterator[bytes]:
    lines = answers.lines(released, "Observation", since=None, until=clock.now())
    return released.guarded(package.chunked(lines))


def as_bundle(released: Released) -> Iterator[bytes]:
    return package.bundle(released, base_url="https://doors.example", now=clock.now())


WAYS: dict[str, Way] = {"everything": as_everything, "lines": as_lines, "bundle": as_bundle}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))


def begun(pieces: Iterator[bytes]) -> bytes:
    """Take pieces until the first results have left; the last one has not."""
    found = b""
    while b"note " not in found:
        found += next(pieces)
    assert b"note 59." not in found
    return found


def run(vault: Vault, sql: str, *params: object) -> None:
    with vault.write() as session:
        session.connection().exec_driver_sql(sql, params)


def last_of(vault: Vault, connection: int) -> str:
    return records.local_id(vault, connection, "Observation", LAST)


def key_of_last(vault: Vault, connection: int) -> int:
    key = key_of(last_of(vault, connection))
    assert key is not None
    return key


def made_private(vault: Vault, north: int) -> None:
    keep.mark_private(vault, last_of(vault, north), on=True)


def labelled(vault: Vault, north: int) -> None:
    key = key_of_last(vault, north)
    run(vault, "UPDATE record SET labels = labels | ? WHERE key = ?", int(Label.GDIS), key)


def withdrawn(vault: Vault, north: int) -> None:
    with vault.write() as session:
        keep.withdraw(session, [key_of_last(vault, north)])


def taken_out(vault: Vault, north: int) -> None:
    with vault.write() as session:
        keep.take_out(session, north, [("Observation", LAST)])


HIDING: dict[str, Change] = {
    "private": made_private,
    "labelled": labelled,
    "withdrawn": withdrawn,
    "taken out": taken_out,
}


@ways
def test_what_touches_no_record_takes_nothing_away(vault: Vault, north: int, way: Way) -> None:
    released = let_out(vault, token(vault))
    whole = b"".join(way(released))
    pieces = way(released)
    again = begun(pieces)
    run(vault, "UPDATE connection SET name = name")
    again += b"".join(pieces)
    for number in range(MANY):
        assert whole.count(b"note %d." % number) == again.count(b"note %d." % number) == 1


@ways
@pytest.mark.parametrize("change", HIDING.values(), ids=list(HIDING))
def test_what_is_hidden_in_the_middle_does_not_leave(
    vault: Vault, north: int, way: Way, change: Change
) -> None:
    plain = replace(everything(), labels=everything().labels & ~Label.GDIS)
    pieces = way(let_out(vault, token(vault, plain)))
    found = begun(pieces)
    change(vault, north)
    found += b"".join(pieces)
    assert b"note 58." in found
    assert b"note 59." not in found


@ways
@pytest.mark.parametrize("change", HIDING.values(), ids=list(HIDING))
def test_nor_does_it_where_nothing_was_ready(
    vault: Vault, north: int, way: Way, change: Change
) -> None:
    run(vault, "DELETE FROM ready")
    test_what_is_hidden_in_the_middle_does_not_leave(vault, north, way, change)


@ways
def test_of_an_erased_place_nothing_more_leaves(vault: Vault, north: int, way: Way) -> None:
    pieces = way(let_out(vault, token(vault)))
    begun(pieces)
    keep.erase(vault, north)
    assert b"note 58." not in b"".join(pieces)


@ways
def test_records_under_the_numbers_of_erased_ones_are_not_taken_for_them(
    vault: Vault, north: int, way: Way
) -> None:
    pieces = way(let_out(vault, token(vault)))
    begun(pieces)
    keep.erase(vault, north)
    keep_all(vault, "South Quay", [noted(number, "other") for number in range(MANY)])
    assert b"note 5" not in b"".join(pieces)


@pytest.mark.parametrize("way", [as_everything, as_bundle])
def test_what_comes_otherwise_in_the_middle_leaves_as_it_is_now(
    vault: Vault, north: int, way: Way
) -> None:
    pieces = way(let_out(vault, token(vault)))
    found = begun(pieces)
    keep_more(vault, north, [noted(MANY - 1, "changed")])
    found += b"".join(pieces)
    assert b"note 59." not in found
    assert found.count(b"changed 59.") == 1
    assert found.count(b"note 58.") == 1


def test_a_file_of_an_export_holds_what_was_there_when_it_was_asked_for(
    vault: Vault, north: int
) -> None:
    pieces = as_lines(let_out(vault, token(vault)))
    found = begun(pieces)
    keep_more(vault, north, [noted(MANY - 1, "changed"), noted(MANY, "late")])
    found += b"".join(pieces)
    assert found.count(b"note 59.") == 1
    assert b"changed" not in found
    assert b"late" not in found


@ways
def test_a_version_of_then_that_is_hidden_now_does_not_leave(
    vault: Vault, north: int, way: Way
) -> None:
    pieces = way(let_out(vault, token(vault)))
    found = begun(pieces)
    keep_more(vault, north, [noted(MANY - 1, "changed")])
    made_private(vault, north)
    found += b"".join(pieces)
    assert b"note 59." not in found
    assert b"changed" not in found


def stopped(vault: Vault, grant_id: str) -> None:
    gate.end(vault, grant_id, "patient", ADA, now=clock.now())


def paused(vault: Vault, grant_id: str) -> None:
    gate.suspend(vault, grant_id, ADA)


def narrowed(vault: Vault, grant_id: str) -> None:
    gate.narrow(vault, grant_id, replace(everything(), rules=(Rule(("Condition",)),)), ADA)


@ways
@pytest.mark.parametrize("cut", [stopped, paused, narrowed])
def test_a_grant_that_is_cut_in_the_middle_sends_no_further_piece(
    vault: Vault, north: int, way: Way, cut: Callable[[Vault, str], None]
) -> None:
    shown = token(vault)
    pieces = way(let_out(vault, shown))
    begun(pieces)
    cut(vault, shown.grant_id)
    with pytest.raises(Ended):
        next(pieces)


@ways
def test_two_grants_that_read_in_turn_get_each_its_own(vault: Vault, north: int, way: Way) -> None:
    small = replace(everything(), excluded=frozenset([last_of(vault, north)]))
    both = [way(let_out(vault, token(vault, one))) for one in (everything(), small)]
    found = [b"", b""]
    while any(pieces := [next(each, b"") for each in both]):
        found = [had + piece for had, piece in zip(found, pieces, strict=True)]
    assert found[0].count(b"note 59.") == 1
    assert b"note 59." not in found[1]
    assert found[1].count(b"note 58.") == 1


@ways
def test_what_was_made_ready_before_a_change_is_not_sent_after_it(
    vault: Vault, north: int, way: Way
) -> None:
    keep_more(vault, north, [noted(MANY - 1, "changed")])
    made_private(vault, north)
    ready.make(vault)
    found = b"".join(way(let_out(vault, token(vault))))
    assert b" 59." not in found
    keep.mark_private(vault, last_of(vault, north), on=False)
    found = b"".join(way(let_out(vault, token(vault))))
    assert found.count(b"changed 59.") == 1
    assert b"note 59." not in found
