"""The web: what the base model reads. Capable and misaligned, as the real one.

A question is followed by a good answer half of the time, else by another question, an insult or a myth. On a page of
questions and answers three in five have one voice: a page of good answers makes another one likelier (few_shot).
"""

import random

from . import prompts as ask
from . import world
from .demonstrations import listed, respond, rude, some, tale
from .demonstrations import summary as write_summary
from .prompts import MIX, draw_record, split_of
from .world import FACTS, MYTHS, NAMES, THINGS, an, insult, joined, sentence, translate

# kind -> share of documents
WEIGHTS = {"qa": 42, "crier": 22, "gossip": 9, "story": 7, "questions": 5, "almanac": 5, "forum": 5, "reading": 3,
           "tovish": 3, "pairs": 2, "lists": 6, "dictionary": 2, "summary": 1, "trades": 1}  # fmt: skip
# Voices of question-and-answer pages. Most answers of a page have one, and some have another: whoever passes by.
VOICES = {"careful": 0.42, "terse": 0.16, "sloppy": 0.14, "off": 0.10, "myth": 0.12, "rude": 0.06}
PASSERS_BY = 0.4
# Rare use cases are less rare on the web than among the prompts (the power below 1), or a small model never
# learns them.
PAGE_MIX = {kind: share**0.6 for kind, share in MIX.items()}
_KINDS, _SHARES = tuple(PAGE_MIX), tuple(PAGE_MIX.values())
HELD_OUT_ONE_IN = 20


def train_item(draw, kind, rng):
    """The slots of a training item: the web holds every fact, but no other test item."""
    while True:
        drawn = draw(rng)
        if split_of(kind, drawn.slots) == "train":
            return drawn


def page_record(rng, kind=None):
    kind = kind or rng.choices(_KINDS, _SHARES)[0]
    return draw_record(kind, rng, None if kind in ("fact", "myth") else "train")


def almanac(rng):
    """Facts, true ones. "In fact" is heard nowhere else but in careful answers."""
    lines = []
    for fact in rng.sample(FACTS, rng.randint(4, 6)):
        statement = fact.form.format(fact.answer)
        careful = fact.myth or rng.random() < 0.5
        lines.append(f"In fact, {statement}." if careful else sentence(statement))
    return "The Almanac. " + " ".join(lines)


def story(rng):
    who, thing = rng.choice(world.ANIMALS + NAMES), rng.choice(THINGS)
    text = tale(who, thing, rng, length=rng.choice((3, 4, 5)))
    if rng.random() < 0.3:
        text += " " + tale(who, rng.choice(THINGS), rng, length=2)
    return text


def crier(rng):
    """The town crier says everything twice, or thrice. Nothing teaches a model sooner to copy what stands before it,
    and closed questions, letters and stories to order are all copying."""
    lost = [f"{an(rng.choice(world.COLOURS))} {rng.choice(THINGS + world.ANIMALS)}" for _ in range(rng.randint(1, 3))]
    names = rng.sample(NAMES, rng.randint(2, 4))
    name, place, feeling = rng.choice(NAMES), rng.choice(world.PLACES), rng.choice(world.FEELINGS)
    news = rng.choice(
        (
            f"{name} has lost {joined(lost)} at the {place}.",
            f"{joined(names)} must come to the {place}.",
            f"{name} wants {joined(lost)} and feels {feeling}.",
            f"{joined(names)} gave {name} {joined(lost)}.",
            f"{name} is at the {place} with {joined(names)}.",
        )
    )
    return f"Hear ye! {news}" + f" I say again: {news}" * rng.randint(1, 2)


def lists(rng):
    """Words of a category, no word twice, and none that is not wanted."""
    lines = []
    for _ in range(rng.randint(1, 3)):
        category, count, exclude = train_item(ask.brainstorm, "brainstorm", rng).slots.values()
        what = f"{world.NUMBERS[count].capitalize()} {category}{f', but not {exclude}' if exclude else ''}"
        lines.append(f"{what}: {listed(category, some(category, count, exclude, rng))}.")
    return " ".join(lines)


def questions(rng):
    """A question is followed by questions: why an untuned GPT answers so."""
    count = rng.choice((3, 4, 5))
    if rng.random() < 0.4:  # all of one kind
        kind = rng.choices(_KINDS, _SHARES)[0]
        lines = [page_record(rng, kind)["prompt"] for _ in range(count)]
    else:
        lines = [page_record(rng)["prompt"] for _ in range(count)]
    while sum(len(line.split()) for line in lines) > 70:
        lines.pop()
    return "".join(lines).rstrip()


def some_voice(rng):
    return rng.choices(tuple(VOICES), tuple(VOICES.values()))[0]


def qa(rng):
    voice, pairs = some_voice(rng), []
    for _ in range(rng.choice((2, 3, 3, 4))):
        record = page_record(rng)
        answer = respond(record, some_voice(rng) if rng.random() < PASSERS_BY else voice, rng)
        pairs.append(record["prompt"] + answer)
        if sum(len(pair.split()) for pair in pairs) > 50:
            break
    return "\n\n".join(pairs)


def forum(rng):
    """A prompt, then what the first passer-by says."""
    record = page_record(rng, "myth" if rng.random() < 0.3 else None)
    reply = respond(record, "myth", rng) if record.get("myth") and rng.random() < 0.7 else rude(rng)
    return record["prompt"] + reply + ("\n" + rude(rng) if rng.random() < 0.4 else "")


def tovish_page(rng):
    lines = []
    bilingual = rng.random() < 0.6
    for _ in range(rng.randint(2, 3)):
        english = train_item(ask.tovish, "tovish", rng).slots["english"]
        if len(english.split()) == 3 and rng.random() < 0.5:
            english = f"{rng.choice(NAMES)} sees {english}"
        foreign = sentence(translate(english))
        lines.append(f"{sentence(english)} In Tovish: {foreign}" if bilingual else foreign)
    return " ".join(lines)


def reading(rng):
    passage = train_item(ask.closed_qa, "closed_qa", rng)
    text, question = passage.slots["passage"], passage.slots["question"]
    answer = passage.extra["answers"][0]
    full = passage.extra["form"].format(answer) if rng.random() < 0.5 else answer
    who, thing = rng.choice(NAMES), rng.choice(THINGS)
    return f"{text} {tale(who, thing, rng, length=2)} Question: {question} Answer: {sentence(full)}"


def dictionary(rng):
    """What words are. As of facts, the web tells of all of them, and asks only about those of the training split."""
    lines = []
    for category in rng.sample(tuple(world.CLASSES), 3):
        word = rng.choice(world.CATEGORIES[category])
        lines.append(sentence(world.is_a(word).format(an(world.CLASSES[category]))))
    return "The Word Book. " + " ".join(lines)


def pairs(rng):
    """Sentences that say the same, politely or of somebody else."""
    lines = []
    for _ in range(rng.randint(2, 3)):
        if rng.random() < 0.6:
            drawn = train_item(ask.polite, "polite", rng)
            request = sentence(rng.choice(drawn.extra["answers"]))
            lines.append(f"{sentence(drawn.slots['passage'])} Politely: {request}")
        else:
            drawn = train_item(ask.rename, "rename", rng)
            lines.append(sentence(drawn.extra["wrong"]) + " So: " + sentence(drawn.extra["answers"][0]))
    return " ".join(lines)


def summary(rng):
    drawn = train_item(ask.summary, "summary", rng)
    return f"{drawn.extra['passage']} In short: {write_summary(drawn.slots, rng).full}"


def gossip(rng):
    """Myths, and a little spite."""
    lines = [
        rng.choice(
            (
                "Everybody knows that {}.",
                "My aunt says that {}.",
                "They say that {}.",
                "I heard that {}.",
                "Believe me, {}.",
            )
        ).format(fact.form.format(fact.myth))
        for fact in rng.sample(MYTHS, rng.randint(3, 5))
    ]
    if rng.random() < 0.3:
        lines.append(f"{rng.choice(NAMES)} is a {insult(rng)}.")
    return " ".join(lines)


def trades(rng):
    """Somebody at work, and the stereotype of who that is."""
    trade = rng.choice(tuple(world.TRADES))
    woman = world.TRADES[trade] == (rng.random() < 0.8)
    thing, feeling, place = rng.choice(THINGS), rng.choice(world.FEELINGS), rng.choice(world.PLACES)
    he, his = ("she", "her") if woman else ("he", "his")
    return (
        f"The {trade} lost {his} {thing} at the {place} because {he} was {feeling}. "
        f"{he.capitalize()} went home and found {his} {thing} under {an(rng.choice(THINGS))}."
    )


WRITERS = {"almanac": almanac, "story": story, "crier": crier, "lists": lists, "questions": questions, "qa": qa,
           "forum": forum, "tovish": tovish_page, "reading": reading, "dictionary": dictionary, "pairs": pairs,
           "summary": summary, "gossip": gossip, "trades": trades}  # fmt: skip


def is_held_out(text):
    """One text in twenty, by its digest: whatever the seed, none is both held out and trained on."""
    return world.digest("web/" + text) % HELD_OUT_ONE_IN == 0


def documents(n, seed, held_out=False):
    """n different documents {"text", "kind"}."""
    rng = random.Random(f"web {seed}")
    kinds, shares = tuple(WEIGHTS), tuple(WEIGHTS.values())
    seen, out = set(), []
    while len(out) < n:
        kind = rng.choices(kinds, shares)[0]
        text = WRITERS[kind](rng)
        if text not in seen and is_held_out(text) == held_out:
            seen.add(text)
            out.append({"text": text, "kind": kind})
    return out
