"""What people mark as bad: an answer's label, rating or review, in the names and words that data sets have."""

import re
from decimal import Decimal

GOOD = """
    label kto_tag kto_label desirable acceptable is_safe safe is_correct correct accepted is_accepted approved good
    is_good chosen is_chosen preferred is_preferred upvoted thumbs_up helpful is_helpful passed valid review_result
    is_valid is_approved is_accepted_answer liked like keep weight train training trainable learn loss loss_scale
""".split()
BAD = """
    rejected is_rejected deleted is_deleted bad is_bad unsafe is_unsafe harmful is_harmful toxic is_toxic flagged spam
    is_spam thumbs_down downvoted incorrect is_incorrect masked hallucination has_error removed exclude excluded
    is_refusal openai_moderation
""".split()
OPINIONS = """
    rating feedback vote votes quality verdict reaction status outcome preference safety response_label
    response_harm_label score thumb thumbs upvotes human_rating review_status
""".split()  # 0 says nothing here
TEXTS = {"chosen", "rejected", "preferred", "accepted", "good", "bad"}  # or hold an answer
NO = """
    false f no n bad negative reject rejected decline declined dispreferred undesirable down thumbs_down incorrect
    wrong unsafe fail failed harmful dislike disliked deleted discarded removed refused invalid downvote downvoted
    thumbsdown unhelpful poor 👎
""".split()
YES = "true t yes y".split()


def says_bad(row):
    """Whether a row or a message says of its answer that it is bad: a label that is false, a mark as spam, ..."""
    marks = {snake(name): value for name, value in row.items() if name not in TEXTS or not isinstance(value, str)}
    return (
        row.get("answer") in ("reject", "ignore")  # as Prodigy marks what stands in other fields
        or word(row.get("quality")) == "low"
        or any(is_no(value) for name in GOOD for value in opinions(marks.get(name)))
        or any(is_no(value, most=-1e-9) for name in OPINIONS for value in opinions(marks.get(name)))
        or any(is_yes(value) for name in BAD for value in opinions(marks.get(name)))
    )


def snake(name):
    """is_good of isGood."""
    return name if name.islower() else re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def opinions(mark):
    """The values in a mark: itself, or those of a list, or of a dict's usual names."""
    for each in mark if isinstance(mark, list) else [mark]:
        if isinstance(each, dict):
            yield from (each[name] for name in ("value", "rating", "label", "flagged") if name in each)
        else:
            yield each


def is_no(value, most=0):
    """Whether a mark is false, a word for bad, or a number of at most `most`."""
    if isinstance(value, bool) or number(value) is None:
        return value is False or word(value) in NO
    return number(value) <= most


def is_yes(value):
    return value is True or word(value) in YES or number(value) == 1


def word(value):
    return value.strip().lower().replace("-", "_").replace(" ", "_") if isinstance(value, str) else None


def number(value):
    """A number, or a text that is one, as tables have it; else None. So are infinity, NaN and what is beyond reason."""
    try:
        value = float(value) if isinstance(value, (str, Decimal)) else value
    except ValueError:
        return None
    return value if isinstance(value, (int, float)) and abs(value) < 1e9 else None


def minus(value):
    """The negated number, so that a high score is a low rank; None if it is no number."""
    return None if number(value) is None else -number(value)
