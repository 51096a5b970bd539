"""Wrapped keys: what opens, what does not, and what is refused before it is tried."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phr import ids
from phr.errors import Damaged, NewerSchema, WrongSecret
from phr.store import slots
from phr.store.slots import FLOOR, KIT_ALPHABET, Cost, Pinned, Slots

PAIR = slots.new_key_pair()
KEY, HOUSE_KEY = ids.random_bytes(32), ids.random_bytes(32)
PASSWORD_WRAP = slots.wrap_by_password(PAIR, "ada", "a long password", FLOOR)


def held(*, pending: bytes | None = None, house: bytes | None = None) -> Slots:
    member = Pinned("ada", PAIR.public, (PASSWORD_WRAP,))
    current = slots.make_ring("v1", KEY, [member], house)
    later = slots.make_ring("v1", pending, [member], house) if pending else None
    box = slots.new_key_pair()
    return slots.signed(Slots("v1", box.public, current, later), [KEY, pending or KEY])


def test_password_opens_its_wrap_and_no_other_does() -> None:
    assert slots.unwrap(PASSWORD_WRAP, "a long password") == PAIR
    with pytest.raises(WrongSecret):
        slots.unwrap(PASSWORD_WRAP, "a long passwore")


def test_kit_opens_its_wrap_and_a_password_wrap_does_not_take_a_kit() -> None:
    kit = ids.random_bytes(20)
    wrap = slots.wrap_by_kit(PAIR, "ada", kit)
    assert slots.unwrap(wrap, kit) == PAIR
    with pytest.raises(WrongSecret):
        slots.unwrap(wrap, ids.random_bytes(20))
    with pytest.raises(WrongSecret):
        slots.unwrap(PASSWORD_WRAP, kit)


@pytest.mark.parametrize(
    ("memory", "passes", "lanes"),
    [(8, 2, 1), (64 * 1024 * 1024, 2, 1), (19456, 0, 1), (19456, 1, 1), (19456, 11, 1),
     (19456, 2, 0), (19456, 2, 5), (-1, -1, -1)],
)  # fmt: skip
def test_kdf_parameters_out_of_bounds_are_refused_before_running(
    memory: int, passes: int, lanes: int
) -> None:
    kdf = {**PASSWORD_WRAP["kdf"], "memory": memory, "passes": passes, "lanes": lanes}
    began = time.perf_counter()
    with pytest.raises(Damaged):
        slots.unwrap({**PASSWORD_WRAP, "kdf": kdf}, "a long password")
    assert time.perf_counter() - began < 1


def test_kdf_parameters_within_bounds_are_still_authenticated() -> None:
    dearer = {**PASSWORD_WRAP["kdf"], "passes": 3}
    with pytest.raises(WrongSecret):
        slots.unwrap({**PASSWORD_WRAP, "kdf": dearer}, "a long password")


@pytest.mark.parametrize("name", ["account", "kind", "public_key", "format", "nonce", "box"])
def test_no_part_of_a_wrap_can_be_exchanged(name: str) -> None:
    other = slots.wrap_by_password(slots.new_key_pair(), "ben", "a long password", FLOOR)
    other = {**other, "kind": "kit", "format": 2}
    with pytest.raises((WrongSecret, Damaged)):
        slots.unwrap({**PASSWORD_WRAP, name: other[name]}, "a long password")


@pytest.mark.parametrize("wrap", [{}, {"kdf": 1}, {**PASSWORD_WRAP, "nonce": "?"}])
def test_a_wrap_that_is_none_is_damaged_not_a_crash(wrap: dict[str, object]) -> None:
    with pytest.raises(Damaged):
        slots.unwrap(wrap, "a long password")


def test_calibration_stays_between_floor_and_64_mebibytes() -> None:
    cost = slots.calibrated(0.05)
    assert FLOOR.memory <= cost.memory <= 64 * 1024
    assert slots.calibrated(0.000001) == FLOOR


def test_cost_of_a_wrap_is_readable() -> None:
    assert slots.cost_of(PASSWORD_WRAP) == Cost(19456, 2, 1)


# ---------------------------------------------------------------------- the kit


@given(st.binary(min_size=20, max_size=20))
def test_kit_survives_being_written_down(kit: bytes) -> None:
    spelled = slots.spell_kit(kit)
    assert len(spelled.split("-")) == 8
    messy = spelled.lower().replace("-", " ").replace("0", "o").replace("1", "l")
    assert slots.read_kit(messy) == kit
    assert slots.read_kit(f"  {spelled}\n") == kit


@given(st.binary(min_size=20, max_size=20), st.integers(0, 39), st.integers(1, 31))
def test_one_wrong_character_is_told_by_its_group(kit: bytes, at: int, shift: int) -> None:
    letters = list(slots.spell_kit(kit).replace("-", ""))
    wrong = (KIT_ALPHABET.index(letters[at]) + shift) % 32
    letters[at] = KIT_ALPHABET[wrong]
    with pytest.raises(WrongSecret, match=f"group {at // 5 + 1} "):
        slots.read_kit("".join(letters))


@given(st.binary(min_size=20, max_size=20), st.integers(0, 38))
def test_two_swapped_neighbours_are_noticed(kit: bytes, at: int) -> None:
    letters = list(slots.spell_kit(kit).replace("-", ""))
    if letters[at] != letters[at + 1]:
        letters[at], letters[at + 1] = letters[at + 1], letters[at]
        with pytest.raises(WrongSecret, match="group"):
            slots.read_kit("".join(letters))


def test_swapped_groups_are_noticed() -> None:
    groups = slots.spell_kit(bytes(range(20))).split("-")
    groups[2], groups[5] = groups[5], groups[2]
    with pytest.raises(WrongSecret, match="group 3"):
        slots.read_kit("-".join(groups))


@pytest.mark.parametrize("text", ["", "ABC", "0" * 39, "0" * 41, "U" * 40, "é" * 40])
def test_what_is_no_kit_is_told(text: str) -> None:
    with pytest.raises(WrongSecret, match="group"):
        slots.read_kit(text)


def test_fingerprints_are_short_and_differ() -> None:
    words = slots.fingerprint_words(PAIR.public)
    assert len(words) == 19
    assert words != slots.fingerprint_words(slots.new_key_pair().public)


# ---------------------------------------------------------------------- slots of a vault


def test_member_and_house_get_the_key_and_strangers_do_not() -> None:
    ring = held(house=HOUSE_KEY)
    assert slots.keys_for_member(ring, "ada", PAIR) == [KEY]
    assert slots.keys_for_house(ring, HOUSE_KEY) == [KEY]
    assert slots.keys_for_member(ring, "ada", slots.new_key_pair()) == []
    assert slots.keys_for_member(ring, "ben", PAIR) == []
    assert slots.keys_for_house(ring, KEY) == []
    assert slots.keys_for_house(held(), HOUSE_KEY) == []


def test_both_keys_are_found_while_one_is_being_changed() -> None:
    new = ids.random_bytes(32)
    assert slots.keys_for_member(held(pending=new), "ada", PAIR) == [KEY, new]


def test_slot_of_one_vault_does_not_open_another() -> None:
    moved = replace(held(house=HOUSE_KEY), vault_id="v2")
    assert slots.keys_for_member(moved, "ada", PAIR) == []
    assert slots.keys_for_house(moved, HOUSE_KEY) == []


def test_slots_survive_the_file(tmp_path: Path) -> None:
    before = held(pending=ids.random_bytes(32), house=HOUSE_KEY)
    path = tmp_path / "v1.slots"
    slots.write_file(path, before)
    assert slots.read_file(path) == before
    assert path.stat().st_mode & 0o777 == 0o600
    assert slots.authentic(slots.read_file(path), KEY)
    assert [entry.name for entry in tmp_path.iterdir()] == ["v1.slots"]


def test_no_secret_is_in_the_file_or_in_a_representation(tmp_path: Path) -> None:
    ring = held(house=HOUSE_KEY)
    slots.write_file(tmp_path / "f", ring)
    text = (tmp_path / "f").read_text()
    for secret in (KEY, HOUSE_KEY, PAIR.private):
        assert slots._text(secret) not in text
        assert repr(secret)[2:-1] not in repr(ring) + repr(PAIR)


@pytest.mark.parametrize("change", ["generation", "box_key", "drop house", "drop slot", "wraps"])
def test_a_change_by_somebody_without_the_key_is_noticed(change: str) -> None:
    good = held(house=HOUSE_KEY)
    slot = good.current.slots[0]
    changed = {
        "generation": replace(good, generation=7),
        "box_key": replace(good, box_key=slots.new_key_pair().public),
        "drop house": replace(good, current=replace(good.current, house=None)),
        "drop slot": replace(good, current=replace(good.current, slots=())),
        "wraps": replace(good, current=replace(good.current, slots=(replace(slot, wraps=()),))),
    }[change]
    assert slots.authentic(good, KEY)
    assert not slots.authentic(changed, KEY)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b'{"format":1}', b"[" * 200_000]
)
def test_damaged_slots_file_is_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(Damaged, match="slots"):
        slots.read_file(tmp_path / "f")


def test_slots_file_cut_anywhere_is_damaged(tmp_path: Path) -> None:
    slots.write_file(tmp_path / "f", held())
    whole = (tmp_path / "f").read_bytes()
    for at in range(0, len(whole) - 1, 53):
        with pytest.raises(Damaged):
            slots.parse(whole[:at])


def test_newer_slots_file_is_refused(tmp_path: Path) -> None:
    slots.write_file(tmp_path / "f", held())
    plain = json.loads((tmp_path / "f").read_text())
    with pytest.raises(NewerSchema):
        slots.parse(json.dumps({**plain, "format": 2}).encode())


def test_missing_or_huge_slots_file_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="missing"):
        slots.read_file(tmp_path / "none")
    (tmp_path / "f").write_bytes(b" " * 1_000_001)
    with pytest.raises(Damaged):
        slots.read_file(tmp_path / "f")


def test_box_for_a_sealed_vault_opens_only_with_its_key_and_for_that_vault() -> None:
    box = slots.put_in_box(PAIR.public, "v1", {"event": "x"})
    assert slots.take_from_box(PAIR.private, "v1", box) == {"event": "x"}
    for private, vault_id in ((slots.new_key_pair().private, "v1"), (PAIR.private, "v2")):
        with pytest.raises(Damaged):
            slots.take_from_box(private, vault_id, box)
