"""The healthy bands: where healthy runs had each sign, at each tenth of a run; and the tokens of their texts, by which
similar texts are known. trials: dicts as trials.signs_of returns them."""

from data import town
from minirlhf.support import diagnosis
from minirlhf.support.tokenizer import train_bpe

# A band is as wide as all healthy runs, and so many times wider on each side (of positives, in logarithms): the least,
# in steps of a half, with which at most one in a hundred healthy runs of train is called ill by the bands of the other
# bases. (1 of 528 is; without a margin, 30.)
MARGIN = 0.5
LEAST = 0.01  # at least so much wider, as a share of the value or, where all are about 0, in its unit


def bands_of(trials):
    """{kind: {sign: [[low, high] at each tenth]}} of those who are healthy."""
    values = {}
    for one in trials:
        if one["diseases"] or one["ended"] != "finished":
            continue
        for name in diagnosis.banded(one["stage"]):
            if name not in one["signs"]:
                continue
            tenths = values.setdefault(one["stage"], {}).setdefault(name, [[] for _ in range(10)])
            for rows, value in zip(one["rows"], one["signs"][name]):
                if place := diagnosis.place_of(one["stage"], rows, one["steps"]):
                    tenths[int(place + 0.5) - 1].append(value)
    return {kind: {name: [*map(widened, tenths)] for name, tenths in known.items()} for kind, known in values.items()}


def widened(values):
    """[low, high] of values (None: there was none), with a margin; [None, None] if there are none."""
    values = [value for value in values if value is not None]
    if not values:
        return [None, None]
    low, high = min(values), max(values)
    if low > 0:  # what is positive by nature varies by factors
        factor = max((high / low) ** MARGIN, 1 + LEAST)
        return [low / factor, high * factor]
    margin = max(MARGIN * (high - low), LEAST)
    return [low - margin, high + margin]


def vocabulary_of_town():
    """The tokens of several bytes that a tokenizer learns of some pages of the town; as large as in lab.stages."""
    pages = (page["text"] for page in town.documents(4000, seed=0))
    return sorted(token.decode() for token in train_bpe(pages, 1024) if len(token) > 1)
