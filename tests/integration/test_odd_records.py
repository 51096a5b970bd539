"""Records with any element missing or of the wrong shape are kept, and every page still opens.

At home and behind a doctor's link; a page with something odd on it is a page, never an error.
"""

import copy
import json
import os
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from phr import clock
from tests.cast import Cast
from tests.fakes.dstu2 import RECORDS
from tests.fixtures_records import juniper, keep_records
from tests.walking import doctors_pages, home_pages

WHOLE = [*juniper()]
WHOLE += [{"resourceType": kind, **one} for kind, some in RECORDS.items() for one in some]
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 10**18, 1e300, 0.1, "", " ", "x", "9999-99-99",
    "2024-02-30T25:61:61Z", "0001-01-01", "a" * 5000, "<script>1</script>", "#x", "Patient/",
    "urn:", [], {}, [None], [[]], [{}], {"": None}, {"value": {}}, {"value": []}, {"value": "many"},
    {"text": 7}, {"text": {}}, {"coding": "c"}, {"coding": [None, 7, "x", {"code": {}}]},
    {"reference": 7}, {"reference": "#"}, {"start": 7, "end": []}, {"repeat": []}, {"url": 7},
    {"numerator": 7, "denominator": {}}, {"low": "x", "high": []}, {"div": 7}, ["x", 7, {}, None],
    {"system": [], "code": 7, "display": {}}, [{"valueQuantity": 7}], {"contentType": []},
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each element below `value`."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, one in inner:
        yield (*at, key)
        yield from places(one, (*at, key))


@st.composite
def odd(draw: st.DrawFn) -> dict[str, Any]:
    """Return a record with one to three elements missing, or with something else in their place."""
    made = copy.deepcopy(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(1, 3))):
        listed = [path for path in places(made) if path not in {("resourceType",), ("id",)}]
        if not listed:
            break
        *where, last = draw(st.sampled_from(listed))
        holder = made
        for key in where:
            holder = holder[key]
        how = draw(st.sampled_from(("drop", "wrap", "twice", "odd", "odd", "odd")))
        if how == "drop":
            del holder[last]
        elif how == "wrap":
            holder[last] = [holder[last]]
        elif how == "twice":
            holder[last] = [holder[last], holder[last]]
        else:
            holder[last] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return made


@settings(
    max_examples=int(os.environ.get("HOMEPORT_ODD", "3")),
    deadline=None,
    phases=[Phase.generate],  # all examples go into one record, so none can be made smaller
    suppress_health_check=[*HealthCheck],
)
@given(made=st.lists(odd(), min_size=20, max_size=60))
def test_every_page_opens_whatever_the_records_look_like(cast: Cast, made: list[dict[str, Any]]):
    for place, one in enumerate(made):
        one["id"] = f"odd-{sha256(json.dumps(one).encode()).hexdigest()[:20]}-{place}"
    keep_records(cast.vault("Ada"), made, name="Odd", now=clock.now())
    pages = [path for path, _ in home_pages(cast, "Ada", cast.browser("Ada"))]
    pages += [path for path, _ in doctors_pages(cast, "Ada")]
    assert sum("/record/" in path for path in pages) >= 20
