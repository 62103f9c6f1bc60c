"""Which sentences are well-formed town English: a small grammar, written as one regular expression.

The judge uses it to refuse a list of the right words ("fox kite fox happy") as a story. It accepts more sentences than
the web's templates produce, because a model may combine them.
"""

import re

from . import world


def either(*words):
    return "(?:" + "|".join(words) + ")"


NOUN = either(*world.ANIMALS, *world.THINGS, *world.PLACES, *world.TRADES, "town", "friend", "neighbour",
              "day", "song", "rain", "night", "wind", "well", "pond", "wood", "tower", "field", "barn")  # fmt: skip
NAME = either(*(name.lower() for name in world.NAMES))
FEELING = either(*world.FEELINGS)
ADJECTIVE = either(*world.COLOURS, "old", "big", "little", "fine", "lovely", "good", "best", "new", "warm", "kind")
NOUN_PHRASE = rf"(?:{NAME}|(?:the|an?|his|her|my|your|that|one) (?:{ADJECTIVE} ){{0,2}}{NOUN})"
ANYBODY = rf"(?:{NOUN_PHRASE}(?: and {NOUN_PHRASE})?|everybody|nobody|somebody|he|she|it|i|you|we|they)"
FOOD = either(*world.FOODS)
OBJECT = rf"(?:{NOUN_PHRASE}(?: and {NOUN_PHRASE})?|everybody|nobody|him|her|it|me|you|them|{FOOD})"
PLACE = rf"(?:(?:in|at|to|near|under|for|with|from|about|on|into) {OBJECT}|in town|home)"
DOES = either("found", "had", "took", "lost", "gave", "saw", "put", "showed", "ate", "liked", "wanted",
              "made", "bought", "hid", "carried", "dropped", "brought", "kept", "left", "painted", "loved", "met",
              "like", "love", "have", "has", "likes", "want", "wants", "blamed")  # fmt: skip
GOES = either("went", "ran", "sat", "slept", "danced", "sang", "laughed", "fell", "came", "lived", "looked")
IS = either("am", "is", "are", "was", "were", "felt", "looks", "feel")
ACTION = rf"(?:(?:never |always )?(?:{DOES} {OBJECT}|{GOES})(?: {PLACE}){{0,2}}(?: very much| again| all day)?)"
STATE = (
    rf"(?:{IS} (?:very |never |not )?"
    rf"(?:{FEELING}|{ADJECTIVE}|friends|seen again|{PLACE}|the best {NOUN})(?: {PLACE})?(?: all day)?)"
)
VERB_PHRASE = f"(?:{ACTION}|{STATE})"
LEAD = either("one day", "once", "then", "in the end", "after that", "that night", "at last", "soon", "today")
CLAUSE = rf"(?:{LEAD},? )?{ANYBODY} {VERB_PHRASE}(?:,? (?:and|but) (?:{ANYBODY} )?{VERB_PHRASE})?"
CALL = (
    rf"(?:(?:come to {NOUN_PHRASE} and )?buy {NOUN_PHRASE}(?: {PLACE})?(?: today)?"
    rf"|thank you for {NOUN_PHRASE}|(?:it|that) is {NOUN_PHRASE}(?: in town)?)"
)

_SENTENCE = re.compile(f"(?:{CLAUSE}|{CALL})")
_ACTION = re.compile(f"(?:{LEAD},? )?{ANYBODY} {ACTION}")
_WRONG_ARTICLE = re.compile(r"\ba [aeio]|\ba umb|\ban [^aeiou]")
_BOUNDARY = re.compile(r"(?<=[.!?]) ")


def plain(text):
    """The form in which texts are compared: lower case, single spaces, no final mark."""
    return " ".join(text.lower().split()).rstrip(".!?")


def sentences(text):
    """'A fox sat. It was sad.' -> ['a fox sat', 'it was sad']."""
    return [plain(part) for part in _BOUNDARY.split(text.strip()) if part]


def is_sentence(text):
    """Whether one sentence (in its plain form) is well-formed."""
    return bool(_SENTENCE.fullmatch(text)) and not _WRONG_ARTICLE.search(text)


def has_action(text):
    """Whether somebody does something in this sentence. Every story needs such a sentence."""
    return bool(_ACTION.match(text))
