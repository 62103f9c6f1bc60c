"""Conversations of two turns, of which the second says nothing without the first: "And where does it live?"

A follow-up asks for the same kind of thing as the turn before, in words that leave out what was said there. Written out
in full it would be a prompt of that kind, and as such it is judged. People write both sides, as for ChatGPT.
"""

import random

from . import world
from .demonstrations import STYLES, respond
from .prompts import (
    USERS_OF,
    Draw,
    about_fact,
    about_passage,
    asked,
    draw_record,
    in_tovish,
    of_class,
    questions_of,
    renamed,
    split_of,
)
from .world import FACT, FACTS, NAMES, RELATIONS, an

# One function per kind: from the record of the first turn to what is asked next.


def fact(record, rng):
    """Something else of the same, "What does it eat?", or the same of something else, "And the owl?"."""
    first = FACT[record["fact"]]
    relation, subject = first.key.split("/")
    others = [fact for fact in FACTS if fact.key.split("/")[1] == subject and fact is not first]
    if others and rng.random() < 0.5:
        second = rng.choice(others)
        question = RELATIONS[second.relation][0].replace("the {s}", "it").replace("{s}", "it")
        phrasings = question, f"And {question[0].lower()}{question[1:]}"
    else:
        second = rng.choice([fact for fact in FACTS if fact.relation == relation and fact is not first])
        subject = second.key.split("/")[1]
        subject = subject if relation == "brings" else f"the {subject}"
        phrasings = f"And {subject}?", f"What about {subject}?"
    return about_fact(second, rng)._replace(phrasings=phrasings)


def letter(record, rng):
    slots = {"name": another(NAMES, record["name"], rng), "thing": record["thing"], "word": None, "one_sentence": False}
    return Draw(slots, (f"Now write one to {slots['name']}.", f"And one to {slots['name']}."))


def say(record, rng):
    slots = {"name": another(NAMES, record["name"], rng), "thing": record["thing"], "tone": record["tone"]}
    return Draw(slots, (f"Say it to {slots['name']}, too.", f"Now to {slots['name']}."))


def advert(record, rng):
    slots = {"colour": another(world.COLOURS, record["colour"], rng), "thing": record["thing"]}
    return Draw(slots, (f"And for {an(slots['colour'])} one.", f"Now one for {an(slots['colour'])} one."))


def brainstorm(record, rng):
    category, count = record["category"], another(tuple(world.NUMBERS), record["count"], rng)
    exclude = rng.choice(world.CATEGORIES[category]) if rng.random() < 0.5 else None
    what = world.NUMBERS[count] + (f", but not {exclude}" if exclude else "")
    slots = {"category": category, "count": count, "exclude": exclude}
    return Draw(slots, (f"Now {what}.", f"And now {what}."))


def which_class(record, rng):
    right, wrong = rng.sample(record["classes"], 2)
    category = next(name for name, own in world.CLASSES.items() if own == right)
    word = another(world.CATEGORIES[category], record["word"], rng)
    return of_class(word, right, wrong)._replace(phrasings=(f"And {word}?", f"What about {word}?"))


def tovish(record, rng):
    """Another colour, or kind, of what was named first."""
    first = record["english"].split()
    noun = next(word for word in first if word in world.TOVISH_NOUNS)
    adjective = rng.choice([word for word in world.TOVISH_ADJECTIVES if word not in first])
    said = f"the {adjective} {noun}"
    return in_tovish(said)._replace(phrasings=(f"And {said}?", f"Now {said}."))


def closed_qa(record, rng):
    """Another question about the same passage."""
    other = rng.choice([question for question in questions_of(record["passage"]) if question[0] != record["question"]])
    question = other[0]
    phrasings = question, f"And {question[0].lower()}{question[1:]}"
    return about_passage(record["passage"], other)._replace(phrasings=phrasings)


def rename(record, rng):
    """Yet another name in the same sentence."""
    old, new = record["passage"].split()[0], record["passage"].split()[-1]
    name = another([name for name in NAMES if name != new], old, rng)
    said = record["wrong"].replace(old, "{}", 1)
    return renamed(said, old, name)._replace(phrasings=(f"Now write {name}.", f"And with {name}."))


def another(words, word, rng):
    return rng.choice([other for other in words if other != word])


# kind -> (share, follow-up). Facts, of which a model must know something besides, are two in five.
FOLLOW_UPS = {
    "fact": (2, fact), "myth": (2, fact), "letter": (1, letter), "say": (1, say), "advert": (1, advert),
    "brainstorm": (1, brainstorm), "which_class": (1, which_class), "tovish": (1, tovish), "closed_qa": (1, closed_qa),
    "rename": (1, rename),
}  # fmt: skip


def dialogues(split, n, seed, answered=True):
    """n conversations of a split, each the record of its second turn with both turns as "messages": two questions with
    answers by people, or (not answered) ending with the second question."""
    rng = random.Random(f"dialogues {split} {seed}")
    return [dialogue(split, rng, answered) for _ in range(n)]


def dialogue(split, rng, answered):
    kinds, shares = tuple(FOLLOW_UPS), [share for share, _ in FOLLOW_UPS.values()]
    while True:
        user, (kind,) = rng.choice(USERS_OF[split]), rng.choices(kinds, shares)
        first = draw_record(kind, rng, split, user)
        if draw := follow_up(first, split, rng):
            break
    if "fact" in draw.slots:
        kind = "myth" if draw.extra["myth"] else "fact"
    second = asked(kind, draw.slots, draw.extra, user)
    said = [first["prompt"].strip(), written(first, rng), rng.choice(draw.phrasings)]
    said += [written(second, rng)] if answered else []
    roles = ("user", "assistant") * 2
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, said)], **second}


def follow_up(first, split, rng):
    """What is asked next: of the same split; None where there is nothing (a fact may be the only one of its kind)."""
    for _ in range(20):
        draw = FOLLOW_UPS[first["kind"]][1](first, rng)
        if split_of(first["kind"], draw.slots) == split:
            return draw
    return None


def written(record, rng):
    """An answer as people write it: by some with care, by some tersely, ..."""
    return respond(record, rng.choices(tuple(STYLES), tuple(STYLES.values()))[0], rng)
