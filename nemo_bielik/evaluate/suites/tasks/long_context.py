"""A long text in which some people's passwords are hidden; one of them is asked for.

The texts are made from a few Polish words, the same for every model. Their length is counted in
characters, so that it depends on no tokenizer: Polish has about three characters a token with a
Polish tokenizer, about two with an English one.
"""

import random
from typing import Any

from datasets import Dataset

_OWNERS = ("Adam", "Beata", "Celina", "Dawid", "Edyta", "Filip", "Grażyna", "Henryk")
_WHO = ("Sąsiad", "Nauczycielka", "Listonosz", "Ogrodnik", "Lekarka", "Kierowca", "Piekarz")
_DOES = ("idzie przez", "ogląda", "opisuje", "omija", "rysuje", "wspomina", "zamiata")
_WHAT = ("stary most", "mały rynek", "park za rzeką", "dworzec", "pusty ogród", "wysoką wieżę")
_DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_ITEMS_A_DEPTH = 4


def make(characters: int = 8000, **_: Any) -> dict[str, Dataset]:
    """Return ``{"test": texts}``: 4 texts of `characters` for each of 5 depths of the password."""
    rows = [
        _row(characters, depth, number) for depth in _DEPTHS for number in range(_ITEMS_A_DEPTH)
    ]
    return {"test": Dataset.from_list(rows)}


def _row(characters: int, depth: float, number: int) -> dict[str, Any]:
    chance = random.Random(f"{characters} {depth} {number}")
    owners = chance.sample(_OWNERS, 4)
    passwords = {owner: str(chance.randrange(10_000, 100_000)) for owner in owners}
    hidden = {owner: f"{owner} ma hasło {password}." for owner, password in passwords.items()}
    sentences = []
    room = characters - sum(len(sentence) + 1 for sentence in hidden.values())
    while room > 0:
        words = (chance.choice(_WHO), chance.choice(_DOES), chance.choice(_WHAT))
        sentences.append(" ".join(words) + ".")
        room -= len(sentences[-1]) + 1
    owner, *others = owners
    for other in others:
        sentences.insert(chance.randrange(len(sentences) + 1), hidden[other])
    sentences.insert(round(depth * len(sentences)), hidden[owner])
    return {
        "text": " ".join(sentences),
        "owner": owner,
        "password": passwords[owner],
        "depth": depth,
    }
