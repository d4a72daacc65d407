"""Mathematical equality: what is equal earns 1, if it is worked out."""

import pytest

from nemo_bielik.align.rewards.mathematics import check, equal

pytest.importorskip("math_verify", reason="mathematical equality needs the extra 'align'")


def reward(answer: str, wanted: str, prompt: str = "") -> float:
    return equal(answer, {"answer": wanted, "prompt": prompt})


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("12", "12"),
        ("$12$", "12"),
        ("\\(12\\)", "12"),
        ("12.", "12"),
        ("12.0", "12"),
        ("−3", "-3"),
        ("0,5", "1/2"),
        ("\\frac{1}{2}", "0.5"),
        ("1 000", "1000"),
        ("12 345,5", "12345.5"),
        ("0.333333", "1/3"),
        ("\\sqrt{12}", "2\\sqrt{3}"),
        ("(x+1)^2", "x^2+2x+1"),
        ("\\{2,1\\}", "\\{1,2\\}"),
        ("\\left\\{2, 1\\right\\}", "\\{1,2\\}"),
        ("\\frac{\\sqrt 2}{2}", "\\frac{1}{\\sqrt{2}}"),
        ("x \\leq 3", "x \\le 3"),
        ("\\frac{\\ln 3}{\\ln 2}", "\\log_2 3"),
        ("1.60\\cdot 10^{-19}", "1.6\\cdot 10^{-19}"),
        ("0.0000004", "4\\cdot 10^{-7}"),
        ("5", "x=5"),
        ("x = 5", "x=5"),
        ("vm", "mv"),
        ("\\left(1, 2\\right)", "(1,2)"),
    ],
)
def test_equal(answer: str, wanted: str) -> None:
    assert reward(answer, wanted) == 1


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("13", "12"),
        ("5+7", "12"),  # equal, but not worked out
        ("12+0", "12"),
        ("2^3", "8"),
        ("24/2", "12"),
        ("24/2/1", "12"),
        ("12%", "12"),
        ("12 = 12", "12"),
        ("12; 13", "12"),
        ("{12}", "12"),
        ("[11, 12]", "12"),
        ("dwanaście", "12"),
        ("1/0", "12"),
        ("\\infty", "12"),
        ("nan", "12"),
        ("x^2+2x+1 lub 7", "x^2+2x+1"),
        ("x^2+2x+1=7", "x^2+2x+1"),
        ("x^2+2x+1+0+0+0+0+0+0+0+0+0+0+0+0+0", "x^2+2x+1"),
        ("\\{1,2,3\\}", "\\{1,2\\}"),
        ("3$ $\\sqrt{2}", "\\sqrt{2}"),  # math-verify would read the last and be content
        ("3$$\\sqrt{2}", "\\sqrt{2}"),
        ("3\\) \\(\\sqrt{2}", "\\sqrt{2}"),
        ("\\sqrt{2} \\approx 3", "\\sqrt{2}"),
        ("\\sqrt{2} ≈ 3", "\\sqrt{2}"),
        ("3 \\boxed{\\sqrt{2}}", "\\sqrt{2}"),
        ("7$ $x^2+1", "x^2+1"),
        ("x^2+1 \\approx x", "x^2+1"),
        ("x^2+1 \\pm 0", "x^2+1"),
        ("7$ $\\{1,2\\}", "\\{1,2\\}"),
        ("9\\cdot 10^{-31}", "1.6\\cdot 10^{-19}"),
        ("0.0", "1.6\\cdot 10^{-19}"),
        ("0.0", "0.0000001"),
        ("0.00000016", "0.0000004"),
        ("mV", "mv"),
        ("k", "K"),
        ("17", "x+y=17"),
        ("\\{1,2\\}", "(1,2)"),
        ("(2,1)", "\\{1,2\\}"),
        ("\\frac{d}{dx} x^3", "3x^2"),
        ("__import__('os').system('true')", "0"),
    ],
)
def test_not_equal_or_not_worked_out(answer: str, wanted: str) -> None:
    assert reward(answer, wanted) == 0


def test_a_part_of_the_question_is_no_answer() -> None:
    prompt = "Rozwiń wyrażenie: (x + 1)^2"
    assert reward("(x+1)^2", "x^2+2x+1", prompt) == 0
    assert reward("(x+1)^{2}", "x^2+2x+1", prompt) == 0
    assert reward("\\left(x+1\\right)^2", "x^2+2x+1", prompt) == 0
    assert reward("\\dfrac{12}{24}", "\\frac{1}{2}", "Skróć \\frac{12}{24}.") == 0
    assert reward("1+2x+x^2", "x^2+2x+1", prompt) == 1
    assert reward("12/24", "1/2", "Skróć ułamek 12/24.") == 0
    assert reward("3/6", "1/2", "Skróć ułamek 12/24.") == 1  # equal is all that is asked
    assert reward("7", "7", "Która liczba jest większa, 5 czy 7?") == 1


@pytest.mark.parametrize("word", ["ABCD", "tak"])
def test_words_are_not_for_mathematics(word: str) -> None:
    with pytest.raises(ValueError, match='judge words by "exact"'):
        check({"answer": word})
