"""The small invented knowledge base behind the questions of `recall` and `choice`.

Towns have four attributes; people live in towns. The facts are drawn from a fixed seed, so
every process has the same facts without a data file.
"""

from functools import cache

import numpy as np

TOWNS = (
    "Arlen Belmor Calder Dunmere Elvast Farrow Glenby Harwick Istra Jolham "
    "Kestrel Lorvik Marden Nethby Orlin Pelham Quarry Rostov Selwyn Tarrow "
    "Ulmer Verden Wexley Yarrow Zelva Ashton Brenna Corvin Dorset Evering"
).split()
PEOPLE = (
    "Adam Bela Cora Dina Emil Fred Gina Hans Iris Jack Kara Lars Mona Nils Olga "
    "Pia Ralf Sara Theo Uma Vera Will Xena Yuri Zara Arno Beth Carl Dora Erik"
).split()
VALUES = {
    "river": "Tavo Senna Brill Moss Kell Dart Wye Lune Orr Esk Tamar Nith".split(),
    "bird": "heron finch crow owl robin swan wren eagle lark dove stork raven".split(),
    "color": "red blue green gold white black grey pink brown teal amber violet".split(),
    "dish": "soup bread stew pie rice cake trout salad beans pasta roast curry".split(),
}


@cache
def attributes() -> dict[tuple[str, str], str]:
    """Return the value of each (town, attribute)."""
    rng = np.random.default_rng(2024)
    return {(town, kind): str(rng.choice(VALUES[kind])) for town in TOWNS for kind in VALUES}


@cache
def homes() -> dict[str, str]:
    """Return the home town of each person."""
    rng = np.random.default_rng(2025)
    return dict(zip(PEOPLE, (str(town) for town in rng.permutation(TOWNS)), strict=True))
