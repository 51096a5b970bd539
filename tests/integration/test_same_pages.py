"""The patient's word on records that are, or are not, the same: on the pages, and undone there."""

import re

import pytest

from phr import gather
from phr.fhir.record import Selection
from phr.sharing import activity
from phr.store import audit, entries, records
from tests.fixtures_records import concept, keep_records, lab

RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"


def allergy(name, text, code=""):
    found = concept(text, code, RXNORM)
    return {"resourceType": "AllergyIntolerance", "id": name, "code": found}


@pytest.fixture
def vault(cast):
    """Ada's vault: two hospitals name one allergy, and each names one of its own."""
    made = cast.vault("Ada")
    keep_records(made, [allergy("a1", "Aspirin", "1191"), allergy("a2", "Walnut")])
    second = [allergy("b1", "Aspirin 81 mg", "1191"), allergy("b2", "Tree nuts")]
    keep_records(made, second, name="Harbour Practice")
    gather.settle(made)
    return made


@pytest.fixture
def ada(cast):
    return cast.browser("Ada")


@pytest.fixture
def base(cast):
    return f"/p/{cast.patients['Ada']}"


def found(vault, remote_id, type_="AllergyIntolerance"):
    with vault.read() as session:
        some = records.select(session, vault, Selection(types=(type_,)))
    return next(one for one in some if one.remote_id == remote_id)


def page_of(base, vault, remote_id, type_="AllergyIntolerance"):
    return f"{base}/record/{type_}/{found(vault, remote_id, type_).local_id}"


def together(vault, one, other):
    pks = [found(vault, each).pk for each in (one, other)]
    with vault.read() as session:
        homes = entries.siblings(session, pks)
    return homes[pks[0]] == homes[pks[1]]


def step_in(html):
    return re.findall(r'name="step" value="(\d+)"', html)


def events(vault):
    with vault.read() as session:
        lines = audit.entries(session)
    return [one for one in lines if one.event.startswith("entry.")]


def test_a_page_names_the_other_evidence_with_its_origin_and_a_link(vault, ada, base):
    page = ada.get(page_of(base, vault, "a1")).text
    assert "Told as one thing with" in page
    assert "Aspirin 81 mg" in page
    assert "Harbour Practice" in page
    assert page_of(base, vault, "b1") in page
    assert "These are not the same" in page


def test_a_record_that_stands_alone_offers_only_to_join_it(vault, ada, base):
    page = ada.get(page_of(base, vault, "a2")).text
    assert "Told as one thing with" not in page
    assert "Same as another record" in page


def test_what_is_never_joined_offers_nothing(vault, ada, base):
    keep_records(vault, [{"resourceType": "CarePlan", "id": "plan"}], name="Third")
    path = page_of(base, vault, "plan", "CarePlan")
    assert "Same as another record" not in ada.get(path).text
    assert ada.get(f"{path}/same").status_code == 404


def test_not_the_same_is_done_at_once_and_undone_from_the_page_that_follows(vault, ada, base):
    path = page_of(base, vault, "a1")
    answer = ada.submit(f"{path}/apart", page=path)
    assert answer.status_code == 303
    assert not together(vault, "a1", "b1")
    page = ada.get(answer.headers["location"]).text
    assert "This stands apart now." in page
    step = step_in(page)[0]
    answer = ada.submit(f"{path}/undo", {"step": step}, page=path)
    assert answer.status_code == 303
    assert together(vault, "a1", "b1")
    after = ada.get(answer.headers["location"]).text
    assert "Taken back." in after
    assert not step_in(after)


def test_the_list_shows_the_split_and_the_join(vault, ada, base):
    assert ada.get(f"{base}/allergies").text.count("from 2 hospitals") == 1
    path = page_of(base, vault, "a1")
    ada.submit(f"{path}/apart", page=path)
    assert "from 2 hospitals" not in ada.get(f"{base}/allergies").text
    nut = page_of(base, vault, "a2")
    ada.submit(f"{nut}/same", {"other": found(vault, "b2").local_id}, page=nut)
    assert ada.get(f"{base}/allergies").text.count("from 2 hospitals") == 1


def test_two_records_are_joined_from_a_list_and_undone_much_later(vault, ada, base):
    path = page_of(base, vault, "a2")
    other = found(vault, "b2").local_id
    listed = ada.get(f"{path}/same").text
    assert f'name="other" value="{other}"' in listed
    assert f'value="{found(vault, "a2").local_id}"' not in listed
    answer = ada.submit(f"{path}/same", {"other": other}, page=f"{path}/same")
    assert "These are told as one thing now." in ada.get(answer.headers["location"]).text
    assert together(vault, "a2", "b2")
    for name in ("a2", "b2"):
        page = ada.get(page_of(base, vault, name)).text
        assert "the same thing as" in page
        assert "told as one thing now" not in page
        assert step_in(page) == ["1"]
    seen = page_of(base, vault, "b2")
    ada.submit(f"{seen}/undo", {"step": "1"}, page=seen)
    assert not together(vault, "a2", "b2")


def test_the_list_has_one_row_for_each_other_entry_and_is_searched(vault, ada, base):
    path = page_of(base, vault, "a2")
    listed = ada.get(f"{path}/same").text
    assert listed.count('name="other"') == 2
    assert ada.get(f"{path}/same?q=aspirin").text.count('name="other"') == 1
    assert ada.get(f"{path}/same?q=tree").text.count('name="other"') == 1
    none = ada.get(f"{path}/same?q=zebra").text
    assert none.count('name="other"') == 0
    assert "No other record of this kind has these words." in none


def test_the_list_ends_after_sixty_and_says_so(vault, ada, base):
    many = [lab("Sodium", "2951-2", str(n), on=f"20{n:02}-01-01") for n in range(70)]
    keep_records(vault, many, name="Third")
    path = page_of(base, vault, many[0]["id"], "Observation")
    for query in ("", "?q=sodium"):
        listed = ada.get(f"{path}/same{query}").text
        assert listed.count('name="other"') == 60
        assert "There are more." in listed


def test_a_refused_join_says_why_and_changes_nothing(vault, ada, base):
    keep_records(vault, [lab("Sodium", "2951-2", "140")], name="Third")
    path = page_of(base, vault, "a1")
    result = found(vault, "2951-2-2026-11-19", "Observation").local_id
    for other, sentence in (
        (result, "Only two things of one kind can be the same."),
        (found(vault, "b1").local_id, "These two are told as one thing already."),
    ):
        answer = ada.submit(f"{path}/same", {"other": other}, page=path)
        assert answer.status_code == 422
        assert sentence in answer.text
    assert not events(vault)
    with vault.read() as session:
        assert not entries.history(session)


def test_what_may_be_another_persons_is_not_joined(vault, ada, base):
    ours = {"resourceType": "Patient", "id": "p", "name": [{"family": "Sample"}]}
    theirs = {"resourceType": "Patient", "id": "q", "name": [{"family": "Quill"}]}
    about = {"patient": {"reference": "Patient/p"}}
    mine = [allergy(f"m{n}", f"Mine {n}") | about for n in range(3)]
    keep_records(vault, [ours, *mine], name="Third")
    stranger = allergy("x", "Latex") | {"patient": {"reference": "Patient/q"}}
    keep_records(vault, [theirs, stranger], name="Fourth")
    gather.settle(vault)
    path = page_of(base, vault, "m0")
    answer = ada.submit(f"{path}/same", {"other": found(vault, "x").local_id}, page=path)
    assert answer.status_code == 422
    assert "one of them may be about somebody else" in answer.text
    with vault.read() as session:
        assert not entries.decisions(session)


def test_the_second_tap_on_not_the_same_or_on_undo_does_no_harm(vault, ada, base):
    path = page_of(base, vault, "a1")
    ada.submit(f"{path}/apart", page=path)
    again = ada.submit(f"{path}/apart", page=path)
    assert again.status_code == 303
    assert "This stands alone already." in ada.get(again.headers["location"]).text
    for _ in range(2):
        assert ada.submit(f"{path}/undo", {"step": "1"}, page=path).status_code == 303
    assert [one.event for one in events(vault)].count("entry.undone") == 1


def test_what_was_said_about_other_records_is_not_undone_here(vault, ada, base):
    path = page_of(base, vault, "a1")
    ada.submit(f"{path}/apart", page=path)
    other = page_of(base, vault, "a2")
    for step in ("1", "2", "", "x"):
        assert ada.submit(f"{other}/undo", {"step": step}, page=path).status_code == 404
    assert not together(vault, "a1", "b1")


def test_each_step_is_a_line_of_the_log_with_a_sentence_and_no_values(vault, ada, base):
    path = page_of(base, vault, "a1")
    ada.submit(f"{path}/apart", page=path)
    ada.submit(f"{path}/undo", {"step": "1"}, page=path)
    nut = page_of(base, vault, "a2")
    ada.submit(f"{nut}/same", {"other": found(vault, "b2").local_id}, page=nut)
    lines = sorted(events(vault), key=lambda one: one.seq)
    assert [one.event for one in lines] == ["entry.split", "entry.undone", "entry.joined"]
    assert all(one.event in activity.EVENTS for one in lines)
    assert not any("Aspirin" in str(one.detail) for one in lines)
    shown = ada.get(f"{base}/activity").text
    assert "said that two records are the same." in shown


def test_a_viewer_sees_what_is_one_thing_and_may_not_change_it(cast, vault, ada, base):
    path = page_of(base, vault, "a1")
    viewer = cast.browser("Cleo")
    page = viewer.get(path).text
    assert "Told as one thing with" in page
    assert "These are not the same" not in page
    assert "Same as another record" not in page
    assert viewer.get(f"{path}/same").status_code == 403
    for last in ("same", "apart", "undo"):
        assert viewer.submit(f"{path}/{last}", {"step": "1"}).status_code == 403
    ada.submit(f"{path}/apart", page=path)
    said = viewer.get(path).text
    assert "Ada said on" in said
    assert not step_in(said)


def test_records_of_others_are_not_found(cast, vault, base):
    mine = f"/p/{cast.patients['Eve']}"
    eve = cast.browser("Eve")
    keep_records(cast.vault("Eve"), [allergy("e1", "Pollen")])
    own, foreign = found(cast.vault("Eve"), "e1").local_id, found(vault, "a1").local_id
    for start, local_id in ((base, foreign), (mine, foreign)):
        path = f"{start}/record/AllergyIntolerance/{local_id}"
        assert eve.get(f"{path}/same").status_code == 404
        for last in ("same", "apart", "undo"):
            data = {"other": own, "step": "1"}
            assert eve.submit(f"{path}/{last}", data).status_code == 404
    path = f"{mine}/record/AllergyIntolerance/{own}"
    for other in (foreign, "", "nonsense", "0" * 16):
        assert eve.submit(f"{path}/same", {"other": other}).status_code == 404
