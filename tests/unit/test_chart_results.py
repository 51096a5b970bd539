"""Results: values, words, ranges, groups, series and what is drawn of them."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from phr.chart import drawing
from phr.chart.book import Book
from phr.chart.results import INTERPRETATIONS, by_test, flagged, groups, result, results, value_of
from phr.chart.vitals import vitals
from tests.fixtures_records import Digits, as_record, as_records, concept, juniper, lab


def only(resource):
    (found,) = results([as_record(resource)])
    return found


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ({"valueQuantity": {"value": 9, "comparator": "<", "unit": "IU"}}, "< 9 IU"),
        ({"valueCodeableConcept": concept("Positive")}, "Positive"),
        ({"valueString": "mixed growth"}, "mixed growth"),
        ({"valueInteger": 4}, "4"),
        ({"valueBoolean": False}, "No"),
        ({"valueRange": {"low": {"value": 1}, "high": {"value": 2}}}, "1 to 2"),
        ({"valueRatio": {"numerator": {"value": 1}, "denominator": {"value": 128}}}, "1 : 128"),
        ({"valueDateTime": "2026-01-02"}, "2 Jan 2026"),
        ({"valueTime": "08:20:00"}, "08:20:00"),
        ({"valuePeriod": {"start": "2020", "end": "2021"}}, "2020 to 2021"),
        ({"valueSampledData": {"data": "1 2"}}, "A recording, kept as received"),
        ({"dataAbsentReason": concept("not performed")}, "No value: not performed"),
        ({"valueQuantity": "odd", "valueString": {"odd": 1}}, ""),
        ({}, ""),
    ],
)
def test_every_form_of_value_is_read(content, shown):
    value = value_of(content)
    assert f"{value.words} {value.unit}".strip() == shown


@pytest.mark.parametrize("code", sorted(INTERPRETATIONS))
def test_an_interpretation_code_becomes_a_word_by_the_source(code):
    one = only(lab("X", "1", "5", flag=code))
    mark, words, marked = INTERPRETATIONS[code]
    assert (one.word.mark, one.word.words, one.word.flagged) == (mark, words, marked)
    assert one.word.said == ("flagged by the source" if marked else "stated by the source")
    assert "abnormal" not in one.word.words.lower()


def test_an_unknown_interpretation_is_shown_and_not_guessed():
    one = only(lab("X", "1", "5", flag="ZZZ"))
    assert not one.flagged
    assert "ZZZ" in one.word.words


def test_a_flag_among_several_interpretations_comes_first():
    both = [concept(code="N"), concept(code="L")]
    assert only(lab("X", "1", "5", interpretation=both)).word.words == "Low"
    assert only(lab("X", "1", "5", interpretation=[{"text": "HIGH"}])).word.words == "High"


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        ("5.40", "3.50", "5.10", "Above the range given"),
        ("3.4", "3.50", "5.10", "Below the range given"),
        ("5.10", "3.50", "5.10", "In range"),
        ("1.52", "1.20", "", "In range"),
        ("5.0", "", "", "No range given"),
    ],
)
def test_without_a_flag_only_arithmetic_against_the_sent_range_is_said(value, low, high, words):
    one = only(lab("X", "1", value, low=low, high=high))
    assert one.word.words == words
    assert not one.flagged
    assert one.value.words == value


def test_a_value_with_a_comparator_is_not_compared_and_not_drawn():
    resource = lab("X", "1", "20", low="0", high="10")
    resource["valueQuantity"]["comparator"] = "<"
    one = only(resource)
    assert one.word.words == "Not flagged"
    assert drawing.number_line(one) is None


def test_a_range_in_another_unit_or_for_somebody_else_is_only_words():
    resource = lab("X", "1", "20", unit="mg/dL")
    resource["referenceRange"] = [{"high": {"value": Digits("3.0"), "unit": "mmol/L"}}]
    one = only(resource)
    assert one.span.words == "up to 3.0 mmol/L"
    assert one.span.high is None
    resource["referenceRange"] = [
        {"high": {"value": 3}, "appliesTo": [concept("Women")]},
        {"high": {"value": 4}, "appliesTo": [concept("Men")]},
    ]
    one = only(resource)
    assert one.span.words == "up to 3, Women; up to 4, Men"
    assert drawing.number_line(one) is None


def test_a_number_line_is_drawn_only_from_a_range_that_was_sent():
    assert drawing.number_line(only(lab("X", "1", "5"))) is None
    line = drawing.number_line(only(lab("X", "1", "5", low="1.20", high="9")))
    assert [tick.text for tick in line.ticks] == ["1.20", "9"]
    assert drawing.number_line(only(lab("X", "1", "5", low="9", high="1"))) is None
    upturned = drawing.number_line(only(lab("X", "1", "5", high="3", flag="H")))
    assert (upturned.shape, upturned.out) == ("up", True)


def test_a_report_gathers_its_results_and_says_what_is_missing():
    records = as_records(*juniper())
    group = groups(records)[0]
    assert group.title == "Lipids, blood and thyroid"
    assert len(group.results) == 6
    assert [one.name for one in flagged(group.results)] == ["LDL cholesterol", "Ferritin"]
    report = next(one for one in records if one.type == "DiagnosticReport")
    assert groups([report])[0].missing == 6


def test_a_panel_that_contains_itself_ends():
    one = lab("A", "1", None, hasMember=[{"reference": "Observation/b"}]) | {"id": "a"}
    two = lab("B", "2", "3", hasMember=[{"reference": "Observation/a"}]) | {"id": "b"}
    report = {
        "resourceType": "DiagnosticReport",
        "code": concept("Panel"),
        "result": [{"reference": "Observation/a"}, {"reference": "Observation/a"}],
    }
    (group,) = groups(as_records(one, two, report))
    assert {result.name for result in group.results} == {"A", "B"}


def test_results_without_a_report_stand_together_by_day_and_lab():
    made = groups(as_records(lab("A", "1", "1"), lab("B", "2", "2"), lab("C", "3", "3", on="2020")))
    assert [(group.title, len(group.results)) for group in made] == [
        ("Results of 19 Nov 2026", 2),
        ("Results of 2020", 1),
    ]


def test_one_series_for_each_unit_and_nothing_is_converted():
    made = by_test(
        as_records(lab("X", "1", "5.40"), lab("X", "1", "97", unit="mg/dL", on="2025-01-01"))
    )
    assert [(test.unit, [one.value.words for one in test.results]) for test in made] == [
        ("mg/dL", ["97"]),
        ("mmol/L", ["5.40"]),
    ]


def test_a_trend_draws_each_value_with_its_own_range_and_leaves_a_gap_between():
    values = [
        lab("X", "1", "3.1", high="3.4", on="2024-02-12"),
        lab("X", "1", "3.3", high="3.4", on="2024-11-20"),
        lab("X", "1", "3.5", high="3.0", on="2025-06-03", flag="H"),
        lab("X", "1", "4.1", high="3.0", on="2026-11-19", flag="H"),
    ]
    (test,) = by_test(as_records(*values))
    drawn = drawing.trend(test.results)
    assert [point.label for point in drawn.points] == ["3.1", "3.3", "3.5", "4.1"]
    assert [point.shape for point in drawn.points] == ["circle", "circle", "up", "up"]
    assert len(drawn.bands) == 2
    first, second = drawn.bands
    assert float(first.x_end[:-1]) < float(second.x[:-1])


@pytest.mark.parametrize("values", [["5"], ["5", "5"], ["-1.5", "0", "1e3"], ["0.0001", "0.0002"]])
def test_trend_and_spark_survive_flat_tiny_and_negative_values(values):
    days = ("2024-01-01", "2025-01-01", "2026-01-01")
    made = by_test(
        as_records(*(lab("X", "1", v, on=d) for v, d in zip(values, days, strict=False)))
    )
    drawn = drawing.trend(made[0].results)
    assert (drawn is None) == (len(values) < 2)
    assert (drawing.spark(made[0].results) is None) == (len(values) < 3)


def test_many_points_are_labelled_only_at_the_ends():
    some = [lab("X", "1", str(n), on=f"20{n:02}-01-01") for n in range(10, 26)]
    (test,) = by_test(as_records(*some))
    drawn = drawing.trend(test.results)
    assert [point.label for point in drawn.points if point.label] == ["10", "25"]
    assert [tick.text for tick in drawn.columns] == ["2011", "2014", "2017", "2020", "2023"]


def test_a_trend_inside_one_year_names_its_months():
    days = ("2026-02-01", "2026-03-01")
    (test,) = by_test(as_records(*(lab("X", "1", "1", on=day) for day in days)))
    assert [tick.text for tick in drawing.trend(test.results).columns] == ["Feb 2026", "Mar 2026"]


def test_blood_pressure_is_one_pair_from_a_panel_or_from_two_halves():
    panel = next(one for one in juniper() if one["id"] == "pressure-1")
    halves = [
        lab("Systolic", "8480-6", "131", "mm[Hg]"),
        lab("Diastolic", "8462-4", "84", "mm[Hg]"),
    ]
    (vital,) = vitals(as_records(panel, *halves))
    assert (vital.name, [one.words for one in vital.readings]) == (
        "Blood pressure",
        ["131/84", "128/79"],
    )


def test_a_lone_half_of_a_blood_pressure_is_not_made_a_pair():
    (vital,) = vitals(as_records(lab("Systolic", "8480-6", "131", "mm[Hg]")))
    assert vital.readings[0].words == "131"


def test_a_vital_sign_without_a_value_stands_beside_those_that_have_one():
    absent = lab("Pulse", "8867-4", None, on="2026-12-01", dataAbsentReason=concept("asleep"))
    (vital,) = vitals(as_records(lab("Heart rate", "8867-4", "60", "/min"), absent))
    assert vital.name == "Pulse"
    assert [one.words for one in vital.readings] == ["No value: asleep", "60"]


def test_an_undated_result_is_kept_and_comes_last():
    one, two = as_records(lab("X", "1", "1"), lab("X", "1", "2"))
    undated = replace(two, when=None)
    assert one.when == datetime(2026, 11, 19, tzinfo=UTC)
    (test,) = by_test([undated, one])
    assert [result.value.words for result in test.results] == ["1", "2"]
    assert groups([undated, one])[0].results


# ------------------------------------------------------------------------- several units


def test_one_trend_over_two_units_with_a_known_factor_marks_what_was_converted():
    (test,) = by_test(
        as_records(
            lab("Ferritin", "2276-4", "28", "ng/mL", low="15", high="150", on="2026-01-02"),
            lab("Ferritin", "2276-4", "2.50", "ug/dL", low="1.5", high="15.0", on="2025-01-02"),
            lab("Ferritin", "2276-4", "31", "µg/L", on="2024-01-02"),
        )
    )
    assert test.unit == "ng/mL"
    assert [(one.value.words, one.value.unit) for one in test.results] == [
        ("28", "ng/mL"),
        ("2.50", "ug/dL"),
        ("31", "µg/L"),
    ]
    assert [one.converted and one.converted.words for one in test.results] == [None, "25.0", None]
    span = test.results[1].range
    assert (span.low_words, span.high_words, span.words) == ("15", "150", "1.5 to 15.0")
    assert [point.label for point in drawing.trend(test.results).points] == ["31", "≈ 25.0", "28"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("mg/dL", ""), ("mmol/L", "")),  # needs the substance
        (("10*3/uL", ""), ("[IU]/L", "")),
        (("%", ""), ("{ratio}", "")),
        (("furlongs", ""), ("m", "")),
        (("", ""), ("mg/L", "")),  # a number without a unit is not given one
        (("g/L", "mg/dL"), ("g/L", "")),  # its own code contradicts it
    ],
)
def test_where_no_factor_is_known_two_trends_stand_apart(one, other):
    def value(unit, on):
        made = lab("X", "1", "5", unit[0], on=on)
        made["valueQuantity"] |= {"code": unit[1]} if unit[1] else {}
        return made

    made = by_test(as_records(value(one, "2026-01-02"), value(other, "2025-01-02")))
    assert len(made) == 2
    assert all(each.converted is None for test in made for each in test.results)


def test_spellings_of_one_unit_are_one_series_and_nothing_is_converted():
    units = ("K/uL", "10*3/uL", "x10E3/uL", "10^9/L", "thou/mm3")
    days = (f"202{n}-01-01" for n in range(5))
    (test,) = by_test(
        as_records(
            *(lab("WBC", "6690-2", "5.4", u, on=d) for u, d in zip(units, days, strict=True))
        )
    )
    assert len(test.results) == 5
    assert not any(one.converted for one in test.results)


def test_degrees_are_converted_by_their_two_scales():
    (test,) = by_test(
        as_records(
            lab("Body temperature", "8310-5", "37.0", "Cel", on="2026-01-02"),
            lab("Body temperature", "8310-5", "98.6", "[degF]", on="2025-01-02"),
        )
    )
    assert test.results[1].converted.words == "37.0"


def test_what_has_no_number_stands_in_the_series_and_is_not_drawn():
    undetected = lab("Virus", "9", None, on="2026-02-01", valueCodeableConcept=concept("ND"))
    below = lab("Virus", "9", "20", "{copies}/mL", on="2025-06-01")
    below["valueQuantity"]["comparator"] = "<"
    (test,) = by_test(
        as_records(
            undetected,
            below,
            lab("Virus", "9", "340", "copies/mL", on="2025-01-01"),
            lab("Virus", "9", "5100", "copies/mL", on="2024-01-01"),
        )
    )
    assert [one.value.words for one in test.results] == ["ND", "< 20", "340", "5100"]
    assert [point.label for point in drawing.trend(test.results).points] == ["5100", "340"]


def test_the_axis_has_one_number_of_digits():
    some = [lab("X", "1", v, on=f"202{n}-01-01") for n, v in enumerate(("4.8", "5.0", "5.2"))]
    (test,) = by_test(as_records(*some))
    assert [tick.text for tick in drawing.trend(test.results).rows] == [
        "4.8", "4.9", "5.0", "5.1", "5.2"
    ]  # fmt: skip


# ------------------------------------------------------------------------- several ranges

WOMAN = {
    "resourceType": "Patient",
    "name": [{"family": "Sample", "given": ["Juniper"]}],
    "gender": "female",
    "birthDate": "1984-02-14",
}
SEXES = [
    {
        "low": {"value": Digits(low)},
        "high": {"value": Digits(high)},
        "appliesTo": [concept(who)],
    }
    for low, high, who in (("12.0", "15.5", "Women"), ("13.5", "17.5", "Men"))
]
PHASES = [
    {"high": {"value": 9}, "appliesTo": [concept("Follicular phase")]},
    {"high": {"value": 20}, "appliesTo": [concept("Luteal phase")]},
]
CRITICAL = [
    {"low": {"value": 3}, "high": {"value": 5}},
    {"low": {"value": 2}, "high": {"value": 7}, "type": concept(code="critical")},
]


def aged(low, high, unit="a"):
    quantity = {
        side: {"value": n, "code": unit}
        for side, n in (("low", low), ("high", high))
        if n is not None
    }
    return {"age": quantity, "high": {"value": high or 1000}}


@pytest.mark.parametrize(
    ("spans", "person", "words", "high"),
    [
        (SEXES, WOMAN, "12.0 to 15.5, Women; others: 13.5 to 17.5, Men", 15.5),
        (SEXES, None, "12.0 to 15.5, Women; 13.5 to 17.5, Men", None),
        (SEXES, WOMAN | {"gender": "other"}, "12.0 to 15.5, Women; 13.5 to 17.5, Men", None),
        (PHASES, WOMAN, "up to 9, Follicular phase; up to 20, Luteal phase", None),
        (CRITICAL, None, "3 to 5; others: 2 to 7, Code critical (LOINC)", 5),
        ([aged(0, 17), aged(18, None)], WOMAN,
         "up to 1000, from 18 a; others: up to 17, 0 to 17 a", 1000),
        ([aged(0, 17), aged(18, None)], WOMAN | {"birthDate": "2010"}, None, None),
        ([aged(1, None, "moon")], WOMAN, None, None),
        ([{"high": {"value": 1}}, {"high": {"value": 2}}], WOMAN, "up to 1; up to 2", None),
    ],
)  # fmt: skip
def test_of_several_ranges_the_one_surely_meant_is_drawn_and_all_are_told(
    spans, person, words, high
):
    people = [person] if person else []
    (one,) = results(as_records(lab("X", "1", "4", referenceRange=spans), *people))
    assert one.span.high == high
    assert words is None or one.span.words == words


def test_a_birth_date_that_sources_tell_differently_chooses_no_range_by_age():
    other = WOMAN | {"id": "b", "birthDate": "1984"}
    (one,) = results(as_records(lab("X", "1", "4", referenceRange=SEXES), WOMAN, other))
    assert one.span.high == 15.5
    spans = [aged(0, 17), aged(18, None)]
    (one,) = results(as_records(lab("X", "1", "4", referenceRange=spans), WOMAN, other))
    assert one.span.high is None


def dated_report(on, *values, **more):
    report = {
        "resourceType": "DiagnosticReport",
        "id": f"report-{on}",
        "status": "final",
        "code": concept("Complete blood count"),
        "effectiveDateTime": on,
        "result": [{"reference": f"Observation/{one['id']}"} for one in values],
    }
    return report | more


def test_a_report_is_of_the_day_on_which_all_its_values_were_taken():
    taken = [lab(name, name, "5", on="2013-11-04") for name in ("wbc", "rbc")]
    newer = lab("tsh", "3016-3", "2", on="2013-12-01")
    found = groups(as_records(*taken, dated_report("2014-03-07", *taken), newer))
    assert [group.taken for group in found] == ["2013-12-01", "2013-11-04"]
    assert found[1].issued == "2014-03-07"


def test_a_report_whose_values_are_of_several_days_keeps_its_own():
    taken = [lab("wbc", "a", "5", on="2013-11-04"), lab("rbc", "b", "5", on="2013-11-05")]
    (group,) = groups(as_records(*taken, dated_report("2014-03-07", *taken)))
    assert (group.taken, group.issued) == ("2014-03-07", "")


def test_a_report_of_the_same_day_keeps_its_own_minute():
    taken = [lab("wbc", "a", "5", on="2013-11-04")]
    (group,) = groups(as_records(*taken, dated_report("2013-11-04T08:20:00Z", *taken)))
    assert (group.taken, group.issued) == ("2013-11-04T08:20:00Z", "")


@pytest.mark.parametrize(
    ("value", "comparator", "low", "high", "words"),
    [
        ("5", ">=", "0", "4", "Above the range given"),
        ("4", ">", "0", "4", "Above the range given"),
        ("4", ">=", "0", "4", "Not flagged"),
        ("3", ">", "0", "4", "Not flagged"),
        ("9", "<", "0", "4", "Not flagged"),
        ("5", "<", "5", "9", "Below the range given"),
        ("5", "<=", "5", "9", "Not flagged"),
        ("4", "", "0", "< 4", "Above the range given"),
        ("4", "", "0", "<= 4", "In range"),
        ("4", "", "> 4", "9", "Below the range given"),
        ("3.9", "", "0", "< 4", "In range"),
    ],
)
def test_what_is_surely_outside_says_so_and_what_may_be_inside_does_not(
    value, comparator, low, high, words
):
    def bound(said):
        sign, _, figure = said.rpartition(" ")
        return {"value": Decimal(figure), "unit": "x"} | ({"comparator": sign} if sign else {})

    observation = {
        "valueQuantity": bound(f"{comparator} {value}" if comparator else value),
        "referenceRange": [{"low": bound(low), "high": bound(high)}],
    }
    (found,) = as_records(lab("Test", "1-8", "1") | observation)
    assert result(found, Book([])).word.words == words


@pytest.mark.parametrize("words", ["Critically high", "PANIC LOW", "critical", "Abnormal high"])
def test_a_flag_that_is_only_written_in_words_is_a_flag(words):
    (found,) = as_records(lab("Test", "1-8", "1") | {"interpretation": [{"text": words}]})
    assert result(found, Book([])).word.flagged
