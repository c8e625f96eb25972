"""`sentences`: numbers with their nouns, and exceptions in one line."""

import pytest

from pl_onecycle.sentences import counted, in_a_line


@pytest.mark.parametrize(("number", "expected"), [(0, "0 groups"), (1, "1 group"), (2, "2 groups"), (11, "11 groups")])
def test_a_noun_is_in_the_plural_unless_there_is_one(number: int, expected: str) -> None:
    assert counted(number, "group") == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("a: b"), "ValueError: a: b"),
        (RuntimeError("first\nsecond"), "RuntimeError: first"),
        (KeyError("name"), "KeyError: 'name'"),
        (TypeError(), "TypeError"),
    ],
)
def test_an_exception_takes_one_line(error: Exception, expected: str) -> None:
    assert in_a_line(error) == expected
