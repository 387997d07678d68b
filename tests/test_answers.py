"""Two answers are the same by their number, else by their text; a false match would teach a wrong solution."""

from __future__ import annotations

from fractions import Fraction

import pytest

from kdaug.answers import ballot, final_answer, last_number, same_answer


@pytest.mark.parametrize(
    ("solution", "reference"),
    [
        ("5 + 5 makes ten. Answer: 10", "10"),
        ("**Answer:**\n72", "Half of 48 is 24. 48 + 24 = 72\n#### 72"),
        ("Answer: 1,234.", "1234"),
        ("Answer: $18 a day", "18"),
        ("Answer: 18.00", "$18"),
        ("The answer is 0.5", "1/2"),
        (r"So \boxed{\frac{3}{4}}.", "0.75"),
        ("Answer: −7", "-7"),
        ("First 3, then 4, so 12 in all.", "12"),  # no marker: the last number
        ("Answer: 3. No. Answer: 4", "4"),  # the last marker
        ("Answer: x = 5", "x=5"),
        ("#### 1e3", "1,000"),
        ("Answer: 1.5E-3 m", "0.0015"),
        ("Answer: 6 * 12 = 72", "72"),
        (r"The answer is 48 in April and \approx 72 in all", "72"),
        (r"\boxed{72^\circ}", "72"),
        ("The answer is 72!", "72"),
        (r"\boxed{2\pi}", r"$2\pi$"),
        ("Answer: (b).", "B"),
        ("Answer: paris.", "Paris"),
        ("Answer: x is not 3.", "x is not 3"),
        (r"\boxed{\text{Ann}}", r"Hence \boxed{\text{Ann}}"),
    ],
)
def test_same(solution: str, reference: str) -> None:
    assert same_answer(solution, reference)


@pytest.mark.parametrize(
    ("solution", "reference"),
    [
        ("Answer: 11", "10"),
        ("Answer: 3", "3.5"),
        ("Answer: 5", "-5"),
        ("The 10 apples are gone. Answer: 4", "10"),
        ("Answer: London, 1889", "Paris, 1889"),
        ("Answer: 12,5", "5"),
        ("Answer: 1/0", "0"),
        ("Answer: x - 1", "x + 1"),
        ("Answer: x - 1", "1 + x"),
        ("Answer: [0, 1]", "(0, 1)"),
        ("Answer: 1e3", "1"),
        ("Answer: 1e3", "3"),
        ("Answer: 1e9999", "1"),
        ("Answer: 2^10", "10"),
        (r"So \boxed{2^{10}}", "10"),
        (r"So \boxed{2\sqrt{2}}", "2"),
        (r"So \boxed{2 \sqrt 2}", "2"),
        (r"So \boxed{\frac{x}{2}}", "2"),
        (r"So \boxed{1\frac{1}{2}}", "5.5"),
        ("Answer: 2π", "2"),
        ("Answer: 2x", "2"),
        ("Answer: n - 2", "2"),
        ("Answer: x + 2", "2"),
        (f"Answer: {'1' * 5000}", "1"),
        ("Answer: *72*, not 7", "7"),
        ("The answer is not 5.", "5"),
        (r"So it is not \boxed{x}", "x"),
        ("Answer:", "4"),
        ("I do not know.", "4"),
        ("", ""),
    ],
)
def test_not_the_same(solution: str, reference: str) -> None:
    assert not same_answer(solution, reference)


def test_the_answer_is_the_rest_of_its_line() -> None:
    assert final_answer("So it goes.\nAnswer: a rose\nIs that right?") == "a rose"
    assert final_answer(r"\boxed{a \mid \{1\}} as wanted") == r"a \mid \{1\}"


def test_numbers_are_exact() -> None:
    assert last_number("0.1") == Fraction(1, 10)
    assert last_number("3-4") == 4  # a range, not minus four
    assert last_number("none") is None


@pytest.mark.parametrize(
    ("text", "vote"),
    [
        ("So 6 * 7.\nAnswer: 42", "42"),
        ("Answer: 1,234.", "1234"),
        ("**Answer:** 0.50", "1/2"),
        ("Answer: 3. No: answer: 4 apples", "4"),
        ("The answer is (B).", "b"),
        ("#### Paris ", "paris"),
        ("#### 1e3", "1000"),
        ("Answer: 2π", "2π"),
        ("It is 42.", None),  # no marker: not a vote
        ("Answer:", None),
        ("", None),
    ],
)
def test_what_a_solution_votes_for(text: str, vote: str | None) -> None:
    assert ballot(text) == vote
