"""What is remembered of the records that others refer to: until something is written."""

from phr.sharing import closure


class File:
    """Something that answers can be remembered of."""


def test_an_answer_holds_until_a_commit_that_touches_records() -> None:
    kept, file, asked = closure.Kept(), File(), []

    def ask() -> frozenset[int]:
        asked.append(1)
        return frozenset({len(asked)})

    assert kept.get(file, 5, "who", ask) == {1}
    assert kept.get(file, 5, "who", ask) == {1}
    kept.outlive(file, 5)  # a line of the log
    assert kept.get(file, 6, "who", ask) == {1}
    assert kept.get(file, 7, "who", ask) == {2}  # an import
    kept.outlive(file, 5)  # told late: changes nothing
    assert kept.get(file, 7, "who", ask) == {2}
    assert kept.get(file, 8, "who", ask) == {3}
    assert kept.get(File(), 8, "who", ask) == {4}
    kept.outlive(File(), 8)


def test_what_is_remembered_is_bounded() -> None:
    kept, file = closure.Kept(), File()
    for question in range(3 * closure.MOST_KEPT):
        kept.get(file, 1, question, frozenset)
    assert len(kept._of[file]) <= closure.MOST_KEPT
