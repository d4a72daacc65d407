"""Choices of the Polish and multilingual suites: rows in the datasets' own columns.

The prompts are written by hand.
"""

from typing import Any

from choice_case import Case


def polemo2(domain: str) -> Case:
    end = "\nWydźwięk opinii (neutralny, negatywny, pozytywny, niejednoznaczny):"
    return Case(
        "open-pl",
        f"polemo2_{domain}",
        f"allegro/klej-polemo2-{domain}",
        {
            "train": [{"sentence": "Źle.", "target": "__label__meta_minus_m"}] * 6,
            "test": [
                {"sentence": "Dobry lekarz.", "target": "__label__meta_plus_m"},
                {"sentence": "Byłem.", "target": "__label__meta_zero"},
                {"sentence": "Raz tak, raz nie.", "target": "__label__meta_amb"},
            ],
        },
        f"Opinia: „Źle.”{end} negatywny",
        [f"Opinia: „{text}”{end}" for text in ("Dobry lekarz.", "Byłem.", "Raz tak, raz nie.")],
        ["neutralny", "negatywny", "pozytywny", "niejednoznaczny"],
        [2, 0, 3],
    )


EIGHT_TAGS = "film, historia, jedzenie, medycyna, motoryzacja, praca, sport, technologie"
NAMES = "brak, czas, miejscowość, obiekt, osoba, organizacja"
NER = f"\nRodzaj nazwy, która w nim występuje ({NAMES}):"


def reading(number: int, right: str) -> dict[str, Any]:
    return {
        "link": f"https://example.org/{number}",
        "question_number": number,
        "flores_passage": "Kot śpi.",
        "question": " Kto śpi? ",
        "mc_answer1": "kot",
        "mc_answer2": "pies",
        "mc_answer3": "Ala",
        "mc_answer4": "nikt",
        "correct_answer_num": right,
        "dialect": "pol_Latn",
        "ds": "2023-05-01",
    }


READING_PL = "Tekst: Kot śpi.\nPytanie: Kto śpi?\nA. kot\nB. pies\nC. Ala\nD. nikt\nOdpowiedź:"
READING_EN = "P: Kot śpi.\nQ: Kto śpi?\nA: kot\nB: pies\nC: Ala\nD: nikt\nAnswer:"


DOMAINS = ("Professional certification", "Social Science", "STEM")


def include(domain: str, number: int) -> dict[str, Any]:
    return {
        "language": "Polish",
        "country": "Poland",
        "domain": domain,
        "subject": f"{domain} {number}",
        "regional_feature": "region explicit",
        "level": "Academic",
        "question": " Ile? ",
        "option_a": "1",
        "option_b": "2",
        "option_c": "3",
        "option_d": "4",
        "answer": 1,
    }


def relevance(question: str, passage: str, relevant: bool) -> dict[str, Any]:
    return {"question": question, "passage_text": passage, "relevant": relevant, "answers": "[]"}


RELEVANCE = "Czy we fragmencie jest odpowiedź na pytanie (tak, nie)?"
POLISH = (
    Case(
        "open-pl",
        "polqa_relevance",
        "ipipan/polqa",
        {
            "train": [relevance("Kto?", f"On {number}.", True) for number in range(6)],
            "test": [relevance("Co?", "Dom.", False), relevance("Gdzie?", "Tu.", True)],
        },
        "",
        [
            f"Pytanie: {asked}\nFragment: {said}\n{RELEVANCE}"
            for asked, said in (("Co?", "Dom."), ("Gdzie?", "Tu."))
        ],
        ["nie", "tak"],
        [0, 1],
        pool=[f"Pytanie: Kto?\nFragment: On {number}.\n{RELEVANCE} tak" for number in range(6)],
    ),
    polemo2("in"),
    polemo2("out"),
    Case(
        "open-pl",
        "8tags",
        "sdadas/8tags",
        {
            "train": [{"sentence": "Gol!", "label": 6}] * 6,
            "test": [{"sentence": "Zupa.", "label": 2}, {"sentence": "Auto.", "label": 4}],
        },
        f"Tekst: „Gol!”\nDziedzina ({EIGHT_TAGS}): sport",
        [f"Tekst: „{text}”\nDziedzina ({EIGHT_TAGS}):" for text in ("Zupa.", "Auto.")],
        EIGHT_TAGS.split(", "),
        [2, 4],
    ),
    Case(
        "open-pl",
        "belebele_pl",
        "facebook/belebele",
        {"test": [reading(number, "2") for number in range(7)]},
        f"{READING_PL} B",
        [READING_PL] * 3,
        ["A", "B", "C", "D"],
        [1] * 3,
        config="pol_Latn",
    ),
    Case(
        "open-pl",
        "dyk",
        "allegro/klej-dyk",
        {
            "train": [{"q_id": "c1", "question": "Kto?", "answer": "On.", "target": 1}] * 6,
            "test": [
                {"q_id": "c2", "question": "Co?", "answer": "Dom.", "target": 0},
                {"q_id": "c3", "question": "Gdzie?", "answer": "Tu.", "target": 1},
            ],
        },
        "Pytanie: Kto?\nFragment: On.\nCzy fragment odpowiada na pytanie (tak, nie)? tak",
        [
            f"Pytanie: {asked}\nFragment: {said}\nCzy fragment odpowiada na pytanie (tak, nie)?"
            for asked, said in (("Co?", "Dom."), ("Gdzie?", "Tu."))
        ],
        ["nie", "tak"],
        [0, 1],
    ),
    Case(
        "open-pl",
        "ppc",
        "sdadas/ppc",
        {
            "train": [{"sentence_A": "A.", "sentence_B": "B.", "label": 3}] * 6,
            "test": [
                {"sentence_A": "Ala.", "sentence_B": "Ala.", "label": 1},
                {"sentence_A": "Kot.", "sentence_B": "Kotek.", "label": 2},
            ],
        },
        "Zdanie 1: A.\nZdanie 2: B.\nZnaczenie obu zdań jest (takie samo, podobne, różne): różne",
        [
            f"Zdanie 1: {first}\nZdanie 2: {second}\n"
            "Znaczenie obu zdań jest (takie samo, podobne, różne):"
            for first, second in (("Ala.", "Ala."), ("Kot.", "Kotek."))
        ],
        ["takie samo", "podobne", "różne"],
        [0, 1],
    ),
    Case(
        "open-pl",
        "psc",
        "allegro/klej-psc",
        {
            "train": [{"extract_text": "a", "summary_text": "b", "label": 0}] * 6,
            "test": [
                {"extract_text": "kot", "summary_text": "kotek", "label": 1},
                {"extract_text": "kot", "summary_text": "dom", "label": 0},
            ],
        },
        "Wyciąg: a\nStreszczenie: b\nCzy oba teksty powstały z tego samego artykułu (tak, nie)? "
        "nie",
        [
            f"Wyciąg: kot\nStreszczenie: {text}\n"
            "Czy oba teksty powstały z tego samego artykułu (tak, nie)?"
            for text in ("kotek", "dom")
        ],
        ["nie", "tak"],
        [1, 0],
    ),
    Case(
        "open-pl",
        "cbd",
        "allegro/klej-cbd",
        {
            "train": [{"sentence": "Cześć", "target": "0"}] * 6,
            "test": [{"sentence": "Spadaj", "target": "1"}, {"sentence": "Hej", "target": "0"}],
        },
        "Wpis: „Cześć”\nCzy wpis kogoś krzywdzi lub nęka (tak, nie)? nie",
        [
            f"Wpis: „{text}”\nCzy wpis kogoś krzywdzi lub nęka (tak, nie)?"
            for text in ("Spadaj", "Hej")
        ],
        ["nie", "tak"],
        [1, 0],
    ),
    Case(
        "open-pl",
        "klej_ner",
        "allegro/klej-nkjp-ner",
        {
            "train": [{"sentence": "Idę.", "target": "noEntity"}] * 6,
            "test": [
                {"sentence": "Ala śpi.", "target": "persName"},
                {"sentence": "W Łodzi.", "target": "placeName"},
                {"sentence": "Nad Wisłą.", "target": "geogName"},
            ],
        },
        f"Zdanie: Idę.{NER} brak",
        [f"Zdanie: {text}{NER}" for text in ("Ala śpi.", "W Łodzi.", "Nad Wisłą.")],
        NAMES.split(", "),
        [4, 2, 3],
    ),
    Case(
        "belebele",
        "belebele_pol_Latn",
        "facebook/belebele",
        {"test": [reading(number, "2") for number in range(7)]},
        f"{READING_EN} B",
        [READING_EN] * 3,
        ["A", "B", "C", "D"],
        [1] * 3,
        config="pol_Latn",
    ),
    Case(
        "include-base-44",
        "include_pl",
        "CohereForAI/include-base-44",
        {"test": [include(domain, number) for domain in DOMAINS for number in range(7)]},
        "Ile?\nA. 1\nB. 2\nC. 3\n D. 4\nAnswer: B",
        ["Ile?\nA. 1\nB. 2\nC. 3\n D. 4\nAnswer:"] * 9,
        ["A", "B", "C", "D"],
        [1] * 9,
        config="Polish",
        descriptions=[
            f"Poniżej znajdują się pytania wielokrotnego wyboru (z odpowiedziami) na temat {name}."
            for name in DOMAINS
            for _ in range(3)
        ],
    ),
    Case(
        "medical",
        "medical_exams",
        "amu-cai/PES-2018-2022",
        {
            "test": [
                {"question": "Ile?\nA. 1\nB. 2\nC. 3\nD. 4\nE. 5", "label": "E", "number": number}
                for number in range(7)
            ]
        },
        "Pytanie z egzaminu lekarskiego. Jedna odpowiedź jest prawidłowa.\n"
        "Ile?\nA. 1\nB. 2\nC. 3\nD. 4\nE. 5\nPrawidłowa odpowiedź: E",
        [
            "Pytanie z egzaminu lekarskiego. Jedna odpowiedź jest prawidłowa.\n"
            "Ile?\nA. 1\nB. 2\nC. 3\nD. 4\nE. 5\nPrawidłowa odpowiedź:"
        ]
        * 3,
        ["A", "B", "C", "D", "E"],
        [4] * 3,
    ),
    Case(
        "minimal-pairs",
        "minimal_pairs",
        "nemo-bielik/minimal-pairs",
        {
            "test": [
                {"phenomenon": "zgoda", "good": "Mały dom.", "bad": "Mała dom."},
                {"phenomenon": "rekcja", "good": "Ala ma kota.", "bad": "Ala ma kot."},
            ]
        },
        "",
        ["", ""],
        [],
        [0, 0],
        shots=0,
        choices_of=[["Mały dom.", "Mała dom."], ["Ala ma kota.", "Ala ma kot."]],
        delimiter="",
    ),
)
