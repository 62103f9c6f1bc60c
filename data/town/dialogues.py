"""Conversations of two turns, whose second question needs the first to be understood: "And where does it live?"

A follow-up asks for the same kind of thing as the turn before and leaves out what was said there. Its record is that of
the prompt that asks the same in full, so the judge needs no rule for conversations. People write both answers, as they
did for ChatGPT. One function per kind draws the second question, given the record of the first.
"""

import random

from . import prompts as ask
from . import world
from .demonstrations import STYLES, respond
from .prompts import Draw
from .world import FACT, FACTS, NAMES, RELATIONS, an, another, weighted


def fact(record, rng):
    """Another fact about the same subject ("What does it eat?"), or the same about another subject ("And the owl?")."""
    first = FACT[record["fact"]]
    relation, subject = first.key.split("/")
    others = [fact for fact in FACTS if fact.key.split("/")[1] == subject and fact is not first]
    if others and rng.random() < 0.5:
        second = rng.choice(others)
        question = RELATIONS[second.relation][0].replace("the {s}", "it")
        phrasings = question, f"And {question[0].lower()}{question[1:]}"
    else:
        second = rng.choice([fact for fact in FACTS if fact.relation == relation and fact is not first])
        subject = second.key.split("/")[1]
        phrasings = f"And the {subject}?", f"What about the {subject}?"
    return ask.about_fact(second, rng)._replace(phrasings=phrasings)


def letter(record, rng):
    name = another(NAMES, record["name"], rng)
    slots = {"name": name, "thing": record["thing"], "word": None, "one_sentence": False}
    return Draw(slots, (f"Now write one to {name}.", f"And one to {name}."))


def say(record, rng):
    name = another(NAMES, record["name"], rng)
    slots = {"name": name, "thing": record["thing"], "tone": record["tone"]}
    return Draw(slots, (f"Say it to {name}, too.", f"Now to {name}."))


def advert(record, rng):
    colour = another(world.COLOURS, record["colour"], rng)
    slots = {"colour": colour, "thing": record["thing"]}
    return Draw(slots, (f"And for {an(colour)} one.", f"Now one for {an(colour)} one."))


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
    return ask.of_class(word, right, wrong)._replace(phrasings=(f"And {word}?", f"What about {word}?"))


def tovish(record, rng):
    """The noun that was named first, with another adjective."""
    first = record["english"].split()
    noun = next(word for word in first if word in world.TOVISH_NOUNS)
    adjective = rng.choice([word for word in world.TOVISH_ADJECTIVES if word not in first])
    said = f"the {adjective} {noun}"
    return ask.in_tovish(said)._replace(phrasings=(f"And {said}?", f"Now {said}."))


def closed_qa(record, rng):
    """Another question about the same passage."""
    passage = record["passage"]
    other = rng.choice([asked for asked in ask.questions_of(passage) if asked[0] != record["question"]])
    phrasings = other[0], f"And {other[0][0].lower()}{other[0][1:]}"
    return ask.about_passage(passage, other)._replace(phrasings=phrasings)


def rename(record, rng):
    """A third name in the same sentence."""
    old, new = record["passage"].split()[0], record["passage"].split()[-1]
    name = another([name for name in NAMES if name != new], old, rng)
    said = record["wrong"].replace(old, "{}", 1)
    return ask.renamed(said, old, name)._replace(phrasings=(f"Now write {name}.", f"And with {name}."))


FOLLOW_UPS = {
    "fact": fact, "myth": fact, "letter": letter, "say": say, "advert": advert, "brainstorm": brainstorm,
    "which_class": which_class, "tovish": tovish, "closed_qa": closed_qa, "rename": rename,
}  # fmt: skip
# The share of each kind. Questions about facts, which need knowledge from outside the conversation, are a third.
SHARES = {kind: 2 if follow_up is fact else 1 for kind, follow_up in FOLLOW_UPS.items()}


def dialogues(split, n, seed, answered=True):
    """n conversations of a split. Each is the record of its second turn with both turns as "messages": two questions
    and their answers, or (if not answered) all but the second answer."""
    rng = random.Random(f"dialogues {split} {seed}")
    return [dialogue(split, rng, answered) for _ in range(n)]


def dialogue(split, rng, answered):
    draw = None
    while not draw:
        user, kind = rng.choice(ask.USERS_OF[split]), weighted(SHARES, rng)
        first = ask.draw_record(kind, rng, split, user)
        draw = follow_up(first, split, rng)
    if "fact" in draw.slots:
        kind = "myth" if draw.extra["myth"] else "fact"
    second = ask.asked(kind, draw.slots, draw.extra, user)
    said = [first["prompt"].strip(), respond(first, weighted(STYLES, rng), rng), rng.choice(draw.phrasings)]
    said += [respond(second, weighted(STYLES, rng), rng)] if answered else []
    roles = ("user", "assistant") * 2
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, said)], **second}


def follow_up(first, split, rng):
    """The Draw of a follow-up in the same split, or None if 20 tries find none (a fact may be the only one there)."""
    for _ in range(20):
        draw = FOLLOW_UPS[first["kind"]](first, rng)
        if ask.split_of(first["kind"], draw.slots) == split:
            return draw
    return None
