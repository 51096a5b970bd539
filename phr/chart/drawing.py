"""Geometry of the number line, the small trend and the large one: positions in per cent, no SVG.

A zone is made only from a range the source sent; nothing is smoothed, fitted or interpolated.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from itertools import pairwise

from phr.chart.plain import MONTHS
from phr.chart.results import Range, Result

_LEFT, _WIDTH = 2.0, 96.0  # of the number line, per cent
_Across = Callable[[datetime], float]
_Down = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at a place: `anchor` is start, mid or end, so that it stays inside."""

    at: str
    text: str
    anchor: str = "mid"


@dataclass(frozen=True, slots=True)
class NumberLine:
    """A value against the range sent with it. `shape` is circle, up or down."""

    zone_at: str
    zone_width: str
    ticks: tuple[Tick, ...]
    at: str
    shape: str
    out: bool


@dataclass(frozen=True, slots=True)
class Spark:
    """The last values as a line in a box of 96 by 28 units, with the last point marked."""

    path: str
    x: str
    y: str


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a trend, with its label and the place of the label."""

    x: str
    y: str
    label: str
    label_y: str
    shape: str
    out: bool
    anchor: str = "mid"


@dataclass(frozen=True, slots=True)
class Band:
    """The stretch of time over which one range was given; edges exist where a bound was given."""

    x: str
    y: str
    width: str
    height: str
    x_end: str
    upper: str | None
    lower: str | None


@dataclass(frozen=True, slots=True)
class Trend:
    """The points of one series in one unit. `bars` join the two figures of a pair.

    `of` is how many values it stands for, where that is more than its points (see `_thinned`);
    `unshaded` says that their ranges change too often to be drawn.
    """

    points: tuple[Point, ...]
    lines: tuple[tuple[str, str, str, str], ...]
    bands: tuple[Band, ...]
    rows: tuple[Tick, ...]
    columns: tuple[Tick, ...]
    bars: tuple[tuple[str, str, str, str], ...] = ()
    of: int = 0
    unshaded: bool = False


def _cent(value: float) -> str:
    return f"{value:.2f}%"


def shape_of(one: Result) -> str:
    """Return the mark's shape: up for high, down for low, else a circle."""
    return {"high": "up", "low": "down"}.get(one.word.mark, "circle")


def number_line(one: Result) -> NumberLine | None:
    """Draw a plain number against its own numeric range; None where either is missing."""
    span, figure = one.span, one.value.figure
    if span is None or figure is None or not one.value.exact:
        return None
    if span.low is None and span.high is None:
        return None
    low, high = span.low, span.high
    if low is not None and high is not None and low > high:
        return None
    start, end = _extent(low, high, [figure, *_near(one)])
    left = _place(low, start, end) if low is not None else _LEFT
    right = _place(high, start, end) if high is not None else _LEFT + _WIDTH
    ticks = [
        Tick(_cent(at), words, _anchor(at))
        for bound, at, words in ((low, left, span.low_words), (high, right, span.high_words))
        if bound is not None
    ]
    if len(ticks) == 2 and right - left < 12:
        ticks = [Tick(ticks[0].at, ticks[0].text, "end"), Tick(ticks[1].at, ticks[1].text, "start")]
    return NumberLine(
        zone_at=_cent(left),
        zone_width=_cent(max(right - left, 0.5)),
        ticks=tuple(ticks),
        at=_cent(_place(figure, start, end)),
        shape=shape_of(one),
        out=_is_out(one),
    )


def _near(one: Result) -> list[float]:
    """Return earlier values of the test, so that its line keeps one scale."""
    return [old.value.figure for old in one.earlier if old.value.figure is not None]


def _extent(low: float | None, high: float | None, figures: list[float]) -> tuple[float, float]:
    """Return the ends of the axis: what is known, and room where the range is open."""
    known = [*figures, *(bound for bound in (low, high) if bound is not None)]
    least, most = min(known), max(known)
    room = (most - least) * 0.25 or abs(most) * 0.25 or 1.0
    start = least - room * (1 if low is not None else 2)
    end = most + room * (1 if high is not None else 2)
    if least >= 0 and (start < 0 or low is None):
        start = 0.0  # amounts begin at nothing
    return start, end


def _place(figure: float, start: float, end: float) -> float:
    share = (figure - start) / (end - start)
    return _LEFT + _WIDTH * min(1.0, max(0.0, share))


def _anchor(at: float) -> str:
    if at < 8:
        return "start"
    return "end" if at > 92 else "mid"


def spark(values: Sequence[Result]) -> Spark | None:
    """Draw the last values, newest first on entry, evenly spaced; None for fewer than three."""
    figures = [one.figure for one in reversed(values) if one.value.exact]
    drawn = [figure for figure in figures if figure is not None][-8:]
    if len(drawn) < 3:
        return None
    least, most = min(drawn), max(drawn)
    tall = (most - least) or 1.0
    step = 88 / (len(drawn) - 1)
    places = [
        (4 + step * index, 24 - 20 * (figure - least) / tall if most > least else 14.0)
        for index, figure in enumerate(drawn)
    ]
    path = "M" + " ".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return Spark(path, f"{places[-1][0]:.1f}", f"{places[-1][1]:.1f}")


# ------------------------------------------------------------------------------- trend

_TOP, _BOTTOM, _START, _END = 8.0, 88.0, 12.0, 96.0
MOST_WHOLE = 300  # values of a line that are each drawn; of more there is no place for all
_STRETCHES = 60  # of the time in which a line is thinned: two for each five pixels of a phone
_MOST_BANDS = 100  # of a thinned line; more are no ranges that anybody could read


_Dated = tuple[datetime, float, Result]


def trend(
    values: Sequence[Result], lower: Sequence[Result] = (), *, born: date | None = None
) -> Trend | None:
    """Draw a series of plain, dated numbers in one unit; None for fewer than two.

    A line of more than `MOST_WHOLE` values is thinned; its ranges and axes are those of all.
    `lower` are the second figures of pairs (diastolic), drawn on the same axes and joined to the
    first of the same record. With `born` the time axis is told in years of age.
    """
    first_line, second_line = _dated(values), _dated(lower)
    dated = first_line or second_line
    if len(dated) < 2 or dated[0][0] == dated[-1][0]:
        return None
    everything = [*first_line, *second_line]
    first = min(when for when, _, _ in everything)
    last = max(when for when, _, _ in everything)
    whole = (last - first).total_seconds()
    steps = _steps([figure for _, figure, _ in everything], [one.range for _, _, one in everything])

    def across(when: datetime) -> float:
        share = (when - first).total_seconds() / whole
        return _START + 3 + (_END - _START - 6) * share

    def down(figure: float) -> float:
        share = (figure - steps[0]) / (steps[-1] - steps[0])
        return _BOTTOM - (_BOTTOM - _TOP) * min(1.0, max(0.0, share))

    lines = [
        [(across(when), down(figure), one) for when, figure, one in line]
        for line in (first_line, second_line)
    ]
    bands = tuple(
        band
        for line in lines
        for band in _bands([(x, one.range) for x, _, one in line], steps, down)
    )
    thin = any(len(line) > MOST_WHOLE for line in lines)
    drawn = [_thinned(line) if thin else (line, line) for line in lines]
    unshaded = thin and len(bands) > _MOST_BANDS
    digits = max(0, -math.floor(math.log10(steps[1] - steps[0]) + 1e-9))
    return Trend(
        points=_readable([point for marks, _ in drawn for point in _points(marks)]),
        lines=tuple(
            (_cent(x1), _cent(y1), _cent(x2), _cent(y2))
            for _, path in drawn
            for (x1, y1, _), (x2, y2, _) in pairwise(path)
        ),
        bands=() if unshaded else bands,
        rows=tuple(Tick(_cent(down(step)), _tick(step, digits)) for step in steps),
        columns=_ages(first, last, born, across) if born else _columns(first, last, across),
        bars=_bars(*lines),
        of=len(everything) if thin else 0,
        unshaded=unshaded,
    )


def _dated(values: Sequence[Result]) -> list[_Dated]:
    """Return what can be drawn, oldest first."""
    found = (
        (one.record.when, one.figure, one)
        for one in values
        if one.record.when is not None and one.figure is not None and one.value.exact
    )
    return sorted(found, key=lambda item: item[0])


def _tick(step: float, digits: int) -> str:
    """Return a label of the axis; all of one axis have the same digits after the point."""
    if digits > 6 or abs(step) >= 1e7:
        return f"{step:g}"
    return f"{step:.{digits}f}"


_Places = list[tuple[float, float, Result]]


def _thinned(places: _Places) -> tuple[_Places, _Places]:
    """Return what is marked of a line, and what the line itself goes through.

    Of each stretch of time the first, the last, the lowest and the highest value, and every one
    that is flagged or out of range; of those that would cover one another, one.
    """
    stretches: dict[int, list[int]] = {}
    for index, (x, _, _) in enumerate(places):
        stretch = int((x - _START) / (_END - _START) * _STRETCHES)
        stretches.setdefault(stretch, []).append(index)
    path: set[int] = set()
    for some in stretches.values():
        heights = [places[index][1] for index in some]
        ends = (heights.index(min(heights)), heights.index(max(heights)))
        path.update((some[0], some[-1], *(some[end] for end in ends)))
    marked = set(path)
    covered = {_spot(places[index]) for index in path}
    for index, place in enumerate(places):
        if _is_out(place[2]) and (spot := _spot(place)) not in covered:
            covered.add(spot)
            marked.add(index)
    return [places[index] for index in sorted(marked)], [places[index] for index in sorted(path)]


def _spot(place: tuple[float, float, Result]) -> tuple[int, int, str, bool]:
    """Return where a mark stands to half its size (4 pixels on a phone), and how it looks."""
    x, y, one = place
    return round(x / 0.7), round(y / 0.8), shape_of(one), _is_out(one)


def _is_out(one: Result) -> bool:
    return one.word.mark in ("high", "low", "flag")


def _bars(upper: _Places, lower: _Places) -> tuple[tuple[str, str, str, str], ...]:
    """Join the two figures of one moment."""
    below = {(one.record.when, one.record.connection_id): y for _, y, one in lower}
    return tuple(
        (_cent(x), _cent(y), _cent(x), _cent(below[place]))
        for x, y, one in upper
        if (place := (one.record.when, one.record.connection_id)) in below
    )


def _points(places: _Places) -> list[tuple[int, Point]]:
    """Label every point of a few, else the last, the first and the extremes.

    With each point comes its rank: whose label goes first where two would overlap.
    """
    few = len(places) <= 8
    made = []
    heights = [y for _, y, _ in places]
    told = (len(places) - 1, 0, *(heights.index(end(heights)) for end in (min, max) if heights))
    for index, (x, y, one) in enumerate(places):
        shown = few or index in told
        above = y > _TOP + 12 and not (index and places[index - 1][1] < y - 8)
        point = Point(
            x=_cent(x),
            y=_cent(y),
            label=drawn_words(one) if shown else "",
            label_y=_cent(y - 5 if above else y + 8.5),
            shape=shape_of(one),
            out=_is_out(one),
            anchor=_label_anchor(x),
        )
        made.append((told.index(index) if index in told else len(told), point))
    return made


_LETTER, _LINE = 2.9, 8.0  # room for a letter and a line of labels at 360 pixels, per cent


def _readable(ranked: Sequence[tuple[int, Point]]) -> tuple[Point, ...]:
    """Take away the labels that would stand on others; the table has every value."""
    boxes: list[tuple[float, float, float, float]] = []
    kept: set[int] = set()
    labelled = [place for place, (_, point) in enumerate(ranked) if point.label]
    for place in sorted(labelled, key=lambda at: ranked[at][0]):
        box = _box(ranked[place][1])
        if not any(_meet(box, other) for other in boxes):
            boxes.append(box)
            kept.add(place)
    return tuple(
        point if place in kept or not point.label else replace(point, label="")
        for place, (_, point) in enumerate(ranked)
    )


def _box(point: Point) -> tuple[float, float, float, float]:
    x, y = float(point.x.rstrip("%")), float(point.label_y.rstrip("%"))
    wide = _LETTER * len(point.label)
    left = x - {"start": 0.0, "mid": wide / 2, "end": wide}[point.anchor]
    return left, left + wide, y - _LINE / 2, y + _LINE / 2


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    beside = one[1] < other[0] or other[1] < one[0]
    return not beside and not (one[3] < other[2] or other[3] < one[2])


def drawn_words(one: Result) -> str:
    """Return the digits of a value as its trend shows them; "≈" marks a converted one."""
    return f"≈ {one.converted.words}" if one.converted else one.value.words


def _label_anchor(x: float) -> str:
    """Keep a label off the numbers on the left and inside on the right."""
    if x < _START + 6:
        return "start"
    return "end" if x > _END - 6 else "mid"


def _steps(figures: list[float], spans: list[Range | None]) -> list[float]:
    """Return round grid values that hold all figures and the bounds near them."""
    least, most = min(figures), max(figures)
    reach = (most - least) or abs(most) or 1.0
    for span in spans:
        for bound in (span.low, span.high) if span else ():
            if bound is not None and least - 2 * reach <= bound <= most + 2 * reach:
                least, most = min(least, bound), max(most, bound)
        if span and span.low is None and span.high is not None and span.high <= least:
            least = span.high - reach / 4  # an open zone needs some height to be seen
        if span and span.high is None and span.low is not None and span.low >= most:
            most = span.low + reach / 4
    size = _round_step((most - least) or abs(most) or 1.0)
    start = size * math.floor(round(least / size, 9))  # 4.8 is 48 steps of 0.1, not 47.999
    steps = [start]
    while steps[-1] < most - size * 1e-9 and len(steps) < 12:
        steps.append(start + size * len(steps))
    if len(steps) == 1:
        steps.append(start + size)
    return steps


def _round_step(reach: float) -> float:
    """Return 1, 2 or 5 times a power of ten that cuts `reach` into about four."""
    raw = max(reach / 4, 1e-12)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * by for by in (1, 2, 5, 10) if power * by >= raw * 0.999 or by == 10)


def _bands(
    places: list[tuple[float, Range | None]], steps: list[float], down: _Down
) -> tuple[Band, ...]:
    """Join neighbours that were given the same range; between two different ranges is nothing."""
    made: list[Band] = []
    index = 0
    while index < len(places):
        span = places[index][1]
        last = index
        while last + 1 < len(places) and _same(places[last + 1][1], span):
            last += 1
        if span is not None and (span.low is not None or span.high is not None):
            made.append(_band(places[index][0] - 2, places[last][0] + 2, span, steps, down))
        index = last + 1
    return tuple(made)


def _same(one: Range | None, other: Range | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.low, one.high) == (other.low, other.high)


def _band(left: float, right: float, span: Range, steps: list[float], down: _Down) -> Band:
    top = down(span.high) if span.high is not None else down(steps[-1])
    bottom = down(span.low) if span.low is not None else down(steps[0])

    def edge(bound: float | None) -> str | None:
        inside = bound is not None and steps[0] <= bound <= steps[-1]
        return _cent(down(bound)) if inside and bound is not None else None

    return Band(
        x=_cent(left),
        y=_cent(top),
        width=_cent(max(right - left, 0.0)),
        height=_cent(max(bottom - top, 0.0)),
        x_end=_cent(right),
        upper=edge(span.high),
        lower=edge(span.low),
    )


def _ages(first: datetime, last: datetime, born: date, across: _Across) -> tuple[Tick, ...]:
    """Return whole years of age inside the period, or the ages at its ends."""
    birth = datetime(born.year, born.month, born.day, tzinfo=first.tzinfo)

    def years(when: datetime) -> float:
        return (when - birth).total_seconds() / _YEAR

    whole = range(math.ceil(years(first)), math.floor(years(last)) + 1)
    hop = max(1, -(-len(whole) // 5))
    ticks = [
        Tick(_cent(across(birth + timedelta(seconds=age * _YEAR))), f"age {age}")
        for age in whole[::hop]
    ]
    if len(ticks) >= 2:
        return tuple(ticks)
    ends = ((first, "start"), (last, "end"))
    return tuple(
        Tick(_cent(across(when)), f"{max(0, int(years(when) * 12))} months", anchor)
        for when, anchor in ends
    )


_YEAR = 365.25 * 86_400


def _columns(first: datetime, last: datetime, across: _Across) -> tuple[Tick, ...]:
    """Return years inside the period, or the first and last month where no year begins."""
    years = range(first.year + 1, last.year + 1)
    hop = max(1, -(-len(years) // 5))
    ticks = [
        Tick(_cent(across(datetime(year, 1, 1, tzinfo=first.tzinfo))), str(year))
        for year in years[::hop]
    ]
    if len(ticks) >= 2:
        return tuple(ticks)
    return (
        Tick(_cent(across(first)), f"{MONTHS[first.month]} {first.year}", "start"),
        Tick(_cent(across(last)), f"{MONTHS[last.month]} {last.year}", "end"),
    )
