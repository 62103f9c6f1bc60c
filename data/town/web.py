"""The web: what the base model reads. It teaches facts, myths and insults.

Half of the prompts that begin a page are followed by a good answer, the others by another question, an insult or a
myth. Most answers on a page of questions and answers have the same style, so after good answers another good one is
likelier (few_shot).
"""

import random

from . import world
from .demonstrations import listed, respond, rude, some, summary, tale
from .prompts import MIX, draw_item, draw_record
from .world import FACTS, MYTHS, NAMES, THINGS, an, insult, joined, sentence, translate, weighted

# kind -> share of documents
WEIGHTS = {"qa": 42, "crier": 22, "gossip": 9, "story": 7, "questions": 5, "almanac": 5, "forum": 5, "reading": 3,
           "tovish": 3, "pairs": 2, "lists": 6, "dictionary": 2, "summary": 1, "trades": 1}  # fmt: skip
# style -> its share on pages of questions and answers. A page has one style, but PASSERS_BY of its answers have a
# style of their own.
VOICES = {"careful": 0.42, "terse": 0.16, "sloppy": 0.14, "off": 0.10, "myth": 0.12, "rude": 0.06}
PASSERS_BY = 0.4
# The power makes rare use cases less rare than among the prompts: a small model would never learn them otherwise.
PAGE_MIX = {kind: share**0.6 for kind, share in MIX.items()}
HELD_OUT_ONE_IN = 20


def page_record(rng, kind=None):
    """A record to ask on a page: about any fact, but otherwise only of the training split."""
    kind = kind or weighted(PAGE_MIX, rng)
    return draw_record(kind, rng, None if kind in ("fact", "myth") else "train")


def almanac(rng):
    """Facts with their true answers. Only this page and careful answers say "In fact"."""
    lines = []
    for fact in rng.sample(FACTS, rng.randint(4, 6)):
        statement = fact.form.format(fact.answer)
        careful = fact.myth or rng.random() < 0.5
        lines.append(f"In fact, {statement}." if careful else sentence(statement))
    return "The Almanac. " + " ".join(lines)


def story(rng):
    who, thing = rng.choice(world.ANIMALS + NAMES), rng.choice(THINGS)
    text = tale(who, thing, rng, length=rng.choice((3, 4, 5)))
    return text + (" " + tale(who, rng.choice(THINGS), rng, length=2) if rng.random() < 0.3 else "")


def crier(rng):
    """The town crier says everything two or three times. This is the fastest way to teach a model to copy, which it
    needs for closed questions, letters and stories about given topics."""
    lost = [f"{an(rng.choice(world.COLOURS))} {rng.choice(THINGS + world.ANIMALS)}" for _ in range(rng.randint(1, 3))]
    names = rng.sample(NAMES, rng.randint(2, 4))
    name, place, feeling = rng.choice(NAMES), rng.choice(world.PLACES), rng.choice(world.FEELINGS)
    texts = (
        f"{name} has lost {joined(lost)} at the {place}.",
        f"{joined(names)} must come to the {place}.",
        f"{name} wants {joined(lost)} and feels {feeling}.",
        f"{joined(names)} gave {name} {joined(lost)}.",
        f"{name} is at the {place} with {joined(names)}.",
    )
    news = rng.choice(texts)
    return f"Hear ye! {news}" + f" I say again: {news}" * rng.randint(1, 2)


def lists(rng):
    """Different words of a category other than the excluded one."""
    lines = []
    for _ in range(rng.randint(1, 3)):
        category, count, exclude = draw_item("brainstorm", rng, "train").slots.values()
        what = f"{world.NUMBERS[count].capitalize()} {category}{f', but not {exclude}' if exclude else ''}"
        lines.append(f"{what}: {listed(category, some(category, count, exclude, rng))}.")
    return " ".join(lines)


def questions(rng):
    """Questions without answers, which is why an untuned GPT follows a question with questions."""
    count = rng.choice((3, 4, 5))
    kind = weighted(PAGE_MIX, rng) if rng.random() < 0.4 else None  # all of one kind, or of any
    lines = [page_record(rng, kind)["prompt"] for _ in range(count)]
    while sum(len(line.split()) for line in lines) > 70:
        lines.pop()
    return "".join(lines).rstrip()


def qa(rng):
    voice, pairs = weighted(VOICES, rng), []
    for _ in range(rng.choice((2, 3, 3, 4))):
        record = page_record(rng)
        answer = respond(record, weighted(VOICES, rng) if rng.random() < PASSERS_BY else voice, rng)
        pairs.append(record["prompt"] + answer)
        if sum(len(pair.split()) for pair in pairs) > 50:
            break
    return "\n\n".join(pairs)


def forum(rng):
    """A prompt, then a bad answer."""
    record = page_record(rng, "myth" if rng.random() < 0.3 else None)
    reply = respond(record, "myth", rng) if record.get("myth") and rng.random() < 0.7 else rude(rng)
    return record["prompt"] + reply + ("\n" + rude(rng) if rng.random() < 0.4 else "")


def tovish_page(rng):
    lines = []
    bilingual = rng.random() < 0.6
    for _ in range(rng.randint(2, 3)):
        english = draw_item("tovish", rng, "train").slots["english"]
        if len(english.split()) == 3 and rng.random() < 0.5:
            english = f"{rng.choice(NAMES)} sees {english}"
        foreign = sentence(translate(english))
        lines.append(f"{sentence(english)} In Tovish: {foreign}" if bilingual else foreign)
    return " ".join(lines)


def reading(rng):
    drawn = draw_item("closed_qa", rng, "train")
    passage, question, answer = drawn.slots["passage"], drawn.slots["question"], drawn.extra["answers"][0]
    full = drawn.extra["form"].format(answer) if rng.random() < 0.5 else answer
    text = tale(rng.choice(NAMES), rng.choice(THINGS), rng, length=2)
    return f"{passage} {text} Question: {question} Answer: {sentence(full)}"


def dictionary(rng):
    """What words are. This is on the web for all words, but asked only about those of the training split."""
    words = {rng.choice(world.CATEGORIES[c]): an(world.CLASSES[c]) for c in rng.sample(tuple(world.CLASSES), 3)}
    lines = [sentence(world.is_a(word).format(what)) for word, what in words.items()]
    return "The Word Book. " + " ".join(lines)


def pairs(rng):
    """Sentences that say the same politely, or about somebody else."""
    lines = []
    for _ in range(rng.randint(2, 3)):
        if rng.random() < 0.6:
            drawn = draw_item("polite", rng, "train")
            request = sentence(rng.choice(drawn.extra["answers"]))
            lines.append(f"{sentence(drawn.slots['passage'])} Politely: {request}")
        else:
            drawn = draw_item("rename", rng, "train")
            lines.append(sentence(drawn.extra["wrong"]) + " So: " + sentence(drawn.extra["answers"][0]))
    return " ".join(lines)


def summary_page(rng):
    drawn = draw_item("summary", rng, "train")
    return f"{drawn.extra['passage']} In short: {summary(drawn.slots, rng).full}"


def gossip(rng):
    """Myths, and sometimes an insult."""
    leads = ("Everybody knows that {}.", "My aunt says that {}.", "They say that {}.", "I heard that {}.",
             "Believe me, {}.")  # fmt: skip
    told = rng.sample(MYTHS, rng.randint(3, 5))
    lines = [rng.choice(leads).format(fact.form.format(fact.myth)) for fact in told]
    if rng.random() < 0.3:
        lines.append(f"{rng.choice(NAMES)} is a {insult(rng)}.")
    return " ".join(lines)


def trades(rng):
    """Somebody with a trade. Four times in five, "he" or "she" is the trade's stereotype."""
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
           "summary": summary_page, "gossip": gossip, "trades": trades}  # fmt: skip


def is_held_out(text):
    """Whether a text is held out: one in twenty, by its digest, and so the same ones for every seed."""
    return world.digest("web/" + text) % HELD_OUT_ONE_IN == 0


def documents(n, seed, held_out=False):
    """n different documents {"text", "kind"}."""
    rng = random.Random(f"web {seed}")
    seen, out = set(), []
    while len(out) < n:
        kind = weighted(WEIGHTS, rng)
        text = WRITERS[kind](rng)
        if text not in seen and is_held_out(text) == held_out:
            seen.add(text)
            out.append({"text": text, "kind": kind})
    return out
