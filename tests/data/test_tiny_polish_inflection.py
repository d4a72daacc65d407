"""Paradigms written out by hand, against those that the rules and tables make."""

import pytest

from nemo_bielik.data.tiny_polish.grammar import before
from nemo_bielik.data.tiny_polish.inflection import Case, Gender, Number
from nemo_bielik.data.tiny_polish.lexicon import Adjective, Noun, load_lexicon

# Nominative, genitive, dative, accusative, instrumental, locative, vocative.
NOUNS = {
    "kot": (
        "kot kota kotu kota kotem kocie kocie",
        "koty kotów kotom koty kotami kotach koty",
    ),
    "koń": (
        "koń konia koniowi konia koniem koniu koniu",
        "konie koni koniom konie końmi koniach konie",
    ),
    "sąsiad": (
        "sąsiad sąsiada sąsiadowi sąsiada sąsiadem sąsiedzie sąsiedzie",
        "sąsiedzi sąsiadów sąsiadom sąsiadów sąsiadami sąsiadach sąsiedzi",
    ),
    "chłopiec": (
        "chłopiec chłopca chłopcu chłopca chłopcem chłopcu chłopcze",
        "chłopcy chłopców chłopcom chłopców chłopcami chłopcach chłopcy",
    ),
    "stół": (
        "stół stołu stołowi stół stołem stole stole",
        "stoły stołów stołom stoły stołami stołach stoły",
    ),
    "wózek": (
        "wózek wózka wózkowi wózek wózkiem wózku wózku",
        "wózki wózków wózkom wózki wózkami wózkach wózki",
    ),
    "książka": (
        "książka książki książce książkę książką książce książko",
        "książki książek książkom książki książkami książkach książki",
    ),
    "skrzynia": (
        "skrzynia skrzyni skrzyni skrzynię skrzynią skrzyni skrzynio",
        "skrzynie skrzyń skrzyniom skrzynie skrzyniami skrzyniach skrzynie",
    ),
    "siostra": (
        "siostra siostry siostrze siostrę siostrą siostrze siostro",
        "siostry sióstr siostrom siostry siostrami siostrach siostry",
    ),
    "powieść": (
        "powieść powieści powieści powieść powieścią powieści powieści",
        "powieści powieści powieściom powieści powieściami powieściach powieści",
    ),
    "gniazdo": (
        "gniazdo gniazda gniazdu gniazdo gniazdem gnieździe gniazdo",
        "gniazda gniazd gniazdom gniazda gniazdami gniazdach gniazda",
    ),
    "biurko": (
        "biurko biurka biurku biurko biurkiem biurku biurko",
        "biurka biurek biurkom biurka biurkami biurkach biurka",
    ),
    "zwierzę": (
        "zwierzę zwierzęcia zwierzęciu zwierzę zwierzęciem zwierzęciu zwierzę",
        "zwierzęta zwierząt zwierzętom zwierzęta zwierzętami zwierzętach zwierzęta",
    ),
}

# Nominative, genitive, dative, accusative, instrumental, locative; singular masculine (the
# accusative of an animate), feminine, neuter; plural masculine-personal and other.
ADJECTIVES = {
    "dobry": (
        "dobry dobrego dobremu dobrego dobrym dobrym",
        "dobra dobrej dobrej dobrą dobrą dobrej",
        "dobre dobrego dobremu dobre dobrym dobrym",
        "dobrzy dobrych dobrym dobrych dobrymi dobrych",
        "dobre dobrych dobrym dobre dobrymi dobrych",
    ),
    "wysoki": (
        "wysoki wysokiego wysokiemu wysokiego wysokim wysokim",
        "wysoka wysokiej wysokiej wysoką wysoką wysokiej",
        "wysokie wysokiego wysokiemu wysokie wysokim wysokim",
        "wysocy wysokich wysokim wysokich wysokimi wysokich",
        "wysokie wysokich wysokim wysokie wysokimi wysokich",
    ),
    "tani": (
        "tani taniego taniemu taniego tanim tanim",
        "tania taniej taniej tanią tanią taniej",
        "tanie taniego taniemu tanie tanim tanim",
        "tani tanich tanim tanich tanimi tanich",
        "tanie tanich tanim tanie tanimi tanich",
    ),
}

# Present: ja, ty, on, my, wy, oni. Past singular: masculine, feminine, neuter of the third, then
# masculine and feminine of the first; plural: the third and the first.
VERBS = {
    "czytać": (
        "czytam czytasz czyta czytamy czytacie czytają",
        "czytał czytała czytało czytałem czytałam czytali czytały czytaliśmy czytałyśmy",
    ),
    "widzieć": (
        "widzę widzisz widzi widzimy widzicie widzą",
        "widział widziała widziało widziałem widziałam widzieli widziały widzieliśmy widziałyśmy",
    ),
    "pisać": (
        "piszę piszesz pisze piszemy piszecie piszą",
        "pisał pisała pisało pisałem pisałam pisali pisały pisaliśmy pisałyśmy",
    ),
    "stać": (
        "stoję stoisz stoi stoimy stoicie stoją",
        "stał stała stało stałem stałam stali stały staliśmy stałyśmy",
    ),
    "chwalić": (
        "chwalę chwalisz chwali chwalimy chwalicie chwalą",
        "chwalił chwaliła chwaliło chwaliłem chwaliłam chwalili chwaliły chwaliliśmy chwaliłyśmy",
    ),
}


@pytest.mark.parametrize("lemma", NOUNS)
def test_noun_paradigm(lemma: str) -> None:
    noun = next(n for n in load_lexicon().nouns if n.lemma == lemma)
    for number, expected in zip(Number, NOUNS[lemma], strict=True):
        assert [noun.forms[case, number] for case in Case] == expected.split()


@pytest.mark.parametrize("lemma", ADJECTIVES)
def test_adjective_paradigm(lemma: str) -> None:
    adjective = next(a for a in load_lexicon().adjectives if a.lemma == lemma)
    slots = [
        (Number.SG, Gender.ANIMATE),
        (Number.SG, Gender.FEMININE),
        (Number.SG, Gender.NEUTER),
        (Number.PL, Gender.PERSONAL),
        (Number.PL, Gender.FEMININE),
    ]
    for (number, gender), expected in zip(slots, ADJECTIVES[lemma], strict=True):
        cases = [case for case in Case if case is not Case.VOC]
        assert [adjective.forms[case, number, gender] for case in cases] == expected.split()
    inanimate = adjective.forms[Case.ACC, Number.SG, Gender.INANIMATE]
    assert inanimate == lemma


@pytest.mark.parametrize("lemma", VERBS)
def test_verb_paradigm(lemma: str) -> None:
    verb = next(v for v in load_lexicon().all_verbs if v.lemma == lemma)
    present, past = VERBS[lemma]
    persons = [(person, number) for number in Number for person in (1, 2, 3)]
    assert [verb.present[slot] for slot in persons] == present.split()
    he, she, it = Gender.PERSONAL, Gender.FEMININE, Gender.NEUTER
    singular = [(3, he), (3, she), (3, it), (1, he), (1, she)]
    plural = [(3, he), (3, she), (1, he), (1, she)]
    made = [verb.past[person, Number.SG, gender] for person, gender in singular]
    made += [verb.past[person, Number.PL, gender] for person, gender in plural]
    assert made == past.split()


def test_inanimate_and_other_plurals_take_the_short_past() -> None:
    verb = next(v for v in load_lexicon().plain_verbs if v.lemma == "leżeć")
    assert verb.past[3, Number.PL, Gender.ANIMATE] == "leżały"
    assert verb.past[3, Number.PL, Gender.PERSONAL] == "leżeli"
    assert verb.past[3, Number.SG, Gender.INANIMATE] == "leżał"


def test_lexicon_is_large_and_its_lemmas_are_distinct() -> None:
    lexicon = load_lexicon()
    assert len(lexicon.nouns) >= 120
    for group in (lexicon.nouns, lexicon.adjectives, lexicon.all_verbs):
        lemmas = [word.lemma for word in group]
        assert len(lemmas) == len(set(lemmas))


def test_no_form_belongs_to_two_lemmas() -> None:
    """Pairs of lemmas can then be found in a text from its words alone."""
    lexicon = load_lexicon()
    owner: dict[str, str] = {}
    words: list[Noun | Adjective] = [*lexicon.nouns, *lexicon.adjectives]
    for word in words:
        for form in word.forms.values():
            assert owner.setdefault(form, word.lemma) == word.lemma
    for verb in lexicon.all_verbs:
        for form in (verb.lemma, *verb.present.values(), *verb.past.values()):
            assert owner.setdefault(form, verb.lemma) == verb.lemma


@pytest.mark.parametrize(
    ("preposition", "phrase", "joined"),
    [
        ("z", "studentem", "ze studentem"),
        ("z", "siostrą", "z siostrą"),
        ("z", "szkołą", "ze szkołą"),
        ("z", "szafą", "z szafą"),
        ("z", "źrebięciem", "ze źrebięciem"),
        ("z", "rzeką", "z rzeką"),
        ("z", "wspólnym planem", "ze wspólnym planem"),
        ("z", "psem", "z psem"),
        ("w", "wniosku", "we wniosku"),
        ("w", "wieży", "w wieży"),
        ("w", "szkole", "w szkole"),
        ("nad", "rzeką", "nad rzeką"),
    ],
)
def test_prepositions_take_a_vowel_before_clusters(
    preposition: str, phrase: str, joined: str
) -> None:
    assert before(preposition, phrase) == joined
