"""Answers on disk: asked once, whole after a kill, marks included."""

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from nemo_bielik.evaluate.suites.answers import ANSWERS_NAME, Remembering


class Counting(LM):
    """Remembers what it was asked; answers with the length of the question."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def loglikelihood(self, requests):
        self.asked += [request.args for request in requests]
        return [(-float(len(request.args[0])), False) for request in requests]

    def generate_until(self, requests):
        self.asked += [request.args for request in requests]
        return [request.args[0].upper() for request in requests]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


def questions(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=given, idx=0) for given in arguments]


def test_every_question_is_asked_once(tmp_path):
    model = Counting()
    answers = Remembering(model, tmp_path)
    asked = questions("loglikelihood", ("ala", " ma"), ("ab", " c"), ("ala", " ma"))
    assert answers.loglikelihood(asked) == [(-3.0, False), (-2.0, False), (-3.0, False)]
    assert model.asked == [("ala", " ma"), ("ab", " c")]
    assert "2 answers" in answers.kept
    answers.close()
    again = Counting()
    other = Remembering(again, tmp_path)
    more = questions("loglikelihood", ("ab", " c"), ("new", ""))
    assert other.loglikelihood(more) == [(-2.0, False), (-3.0, False)]
    assert again.asked == [("new", "")]


def test_settings_of_a_question_are_part_of_it(tmp_path):
    model = Counting()
    answers = Remembering(model, tmp_path)
    short, long = ("zażółć", {"max_gen_toks": 1}), ("zażółć", {"max_gen_toks": 2})
    assert answers.generate_until(questions("generate_until", short, long)) == ["ZAŻÓŁĆ"] * 2
    assert model.asked == [short, long]


def test_a_line_that_was_cut_off_is_asked_again(tmp_path):
    answers = Remembering(Counting(), tmp_path)
    answers.label = "dyk"
    answers.note_cut()
    answers.loglikelihood(questions("loglikelihood", ("a", "b"), ("c", "d")))
    answers.close()
    path = tmp_path / ANSWERS_NAME
    path.write_bytes(path.read_bytes()[:-5])
    model = Counting()
    other = Remembering(model, tmp_path)
    asked = questions("loglikelihood", ("a", "b"), ("c", "d"))
    assert other.loglikelihood(asked) == [(-1.0, False)] * 2
    assert model.asked == [("c", "d")]
    other.label = "dyk"
    assert other.was_cut
    other.label = "psc"
    assert not other.was_cut
    other.close()
    third = Remembering(Counting(), tmp_path)
    assert "2 answers" in third.kept
