"""Argument checks: one sentence for a bad argument, and none for a good one."""

import math
import re
from collections import UserList, deque
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from pl_onecycle.checks import expect, expect_bool, expect_integer, expect_number, expect_one_of, plain


def test_a_good_argument_passes() -> None:
    expect(True, "a", "anything", 1)
    for value in (2, 7, np.int64(2)):
        expect_integer("a", value, minimum=2)
    for number in (0, 0.5, np.float32(0.5), Fraction(1, 2)):
        expect_number("a", number, minimum=0, below=1)
    expect_number("a", -1e300)
    expect_one_of("a", "min", ("min", "max"))
    expect_bool("a", False)


@pytest.mark.parametrize(
    ("check", "sentence", "error"),
    [
        (lambda: expect(False, "a", "b", "c"), "`a` to be b but got 'c'", ValueError),
        (lambda: expect(False, "a", "b", "c", LookupError), "`a` to be b but got 'c'", LookupError),
        (lambda: expect_integer("n", 1, minimum=2), "`n` to be an integer >= 2 but got 1", ValueError),
        (lambda: expect_integer("n", 2.0, minimum=2), "`n` to be an integer >= 2 but got 2.0", TypeError),
        (lambda: expect_integer("n", True, minimum=0), "`n` to be an integer >= 0 but got True", TypeError),
        (lambda: expect_number("x", "1"), "`x` to be a finite number but got '1'", TypeError),
        (lambda: expect_number("x", True), "`x` to be a finite number but got True", TypeError),
        (lambda: expect_number("x", math.nan), "`x` to be a finite number but got nan", ValueError),
        (lambda: expect_number("x", math.inf, above=0), "`x` to be a finite number > 0 but got inf", ValueError),
        (lambda: expect_number("x", 0, above=0), "`x` to be a finite number > 0 but got 0", ValueError),
        (
            lambda: expect_number("x", 1, minimum=0, below=1),
            "`x` to be a finite number >= 0 and < 1 but got 1",
            ValueError,
        ),
        (lambda: expect_number("x", 2, maximum=1), "`x` to be a finite number <= 1 but got 2", ValueError),
        (
            lambda: expect_one_of("m", "avg", ("min", "max")),
            "`m` to be one of ['max', 'min'] but got 'avg'",
            ValueError,
        ),
        (lambda: expect_one_of("m", None, ("min",)), "`m` to be one of ['min'] but got None", ValueError),
        (lambda: expect_bool("b", 1), "`b` to be True or False but got 1", TypeError),
    ],
)
def test_a_bad_argument_raises_one_sentence(check: Callable[[], Any], sentence: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^Expected argument {re.escape(sentence)}$") as caught:
        check()
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(False), False),
        (np.str_("around"), "around"),
        (np.array([1, 2]), [1, 2]),
        (np.array(0.25), 0.25),
        (torch.tensor(2), 2),
        (torch.tensor([0.5, 1.0], requires_grad=True), [0.5, 1.0]),
        (Fraction(1, 4), 0.25),
        (range(1, 4), [1, 2, 3]),
        (UserList([1, UserList([2.0])]), [1, [2.0]]),  # as omegaconf's ListConfig
        (deque([1]), [1]),
        ((np.float64(0.5), 1), [0.5, 1]),
        ({"a": range(2)}, {"a": [0, 1]}),
    ],
    ids=repr,
)
def test_numbers_and_sequences_of_any_library_become_plain(value: Any, expected: Any) -> None:
    assert repr(plain(value)) == repr(expected)  # types, too


@pytest.mark.parametrize("value", [None, True, 3, 0.5, "a", b"a", (1, 2.0), [1, "a", None], {1, 2}, object()])
def test_what_is_plain_or_no_value_stays_the_same_object(value: Any) -> None:
    assert plain(value) is value
