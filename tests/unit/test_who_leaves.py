"""Who a doctor reads the record is about: the person's own Patient records, not a stranger's."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from phr.fhir.record import Record
from phr.sharing.cover import who_is
from phr.sharing.package import composed_patient
from tests.fixtures_records import NOW, as_record


def patient(pk: int, given: str, family: str, born: str, days: int) -> Record:
    resource: dict[str, Any] = {
        "resourceType": "Patient",
        "id": f"p{pk}",
        "name": [{"given": [given], "family": family}],
        "birthDate": born,
        "gender": "female",
    }
    record = as_record(resource, pk=pk, connection_id=pk)
    return replace(record, received_at=NOW + timedelta(days=days))


ISABELLA = [patient(n, "Isabella", "Jones", "1947-05-01", n) for n in (1, 2, 3)]
MYRA = patient(4, "Myra", "Jones", "1961-02-03", 9)


def test_newest_patient_that_is_somebody_elses_names_nobody():
    made = composed_patient("1" * 16, [*ISABELLA, MYRA])

    assert (made["birthDate"], made["name"][0]["given"]) == ("1947-05-01", ["Isabella"])


def test_doctors_page_is_headed_by_the_person_and_by_one_birth_date():
    who = who_is([*ISABELLA, MYRA], "", NOW)

    assert who.name == "Isabella Jones"
    assert who.born == ("1 May 1947",)


def test_where_only_one_place_spoke_that_one_is_told():
    assert composed_patient("1" * 16, [MYRA])["birthDate"] == "1961-02-03"
    assert who_is([MYRA], "", NOW).name == "Myra Jones"


def test_where_nobody_can_tell_who_is_meant_all_birth_dates_are_shown():
    who = who_is([ISABELLA[0], MYRA], "", NOW)

    assert set(who.born) <= {"1 May 1947", "3 Feb 1961"}
    assert who.born
