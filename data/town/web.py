"""The web: what the base model reads. It teaches facts, myths and insults.

Half of the prompts that begin a page are followed by a good answer, the others by another question, a myth or what is
beside the point; whoever insults others or asks for an insult often gets one. Most answers on a page of questions and
answers have the same style, so after good answers another good one is likelier (few_shot).
"""

import random

from . import world
from .demonstrations import listed, respond, rude, some, summary, tale
from .prompts import MIX, USERS_OF, draw_item, draw_record
from .world import FACTS, MYTHS, NAMES, THINGS, an, insult, joined, sentence, translate, weighted

# kind -> share of documents
WEIGHTS = {"qa": 42, "crier": 20, "gossip": 14, "story": 6, "questions": 5, "almanac": 6, "forum": 5, "reading": 7,
           "tovish": 3, "pairs": 2, "lists": 10, "dictionary": 5, "summary": 1, "trades": 2}  # fmt: skip
# style -> its share on pages of questions and answers. A page has one style, but PASSERS_BY of its answers have a
# style of their own.
VOICES = {"careful": 0.38, "terse": 0.16, "sloppy": 0.14, "off": 0.14, "myth": 0.18}
PASSERS_BY = 0.4
# The power makes rare use cases less rare than among the prompts: a small model would never learn them otherwise.
PAGE_MIX = {kind: share**0.4 for kind, share in MIX.items()}
HELD_OUT_ONE_IN = 20


ABOUT_ANYTHING = ("fact", "myth", "premise", "which_class", "small_talk")


def page_record(rng, kind=None):
    """A record to ask on a page: about any fact or word and in any small talk, but otherwise of the training split.
    Every other one is asked by a user of the training split, with his or her habits."""
    kind = kind or weighted(PAGE_MIX, rng)
    user = rng.choice(USERS_OF["train"]) if rng.random() < 0.5 else None
    return draw_record(kind, rng, None if kind in ABOUT_ANYTHING else "train", user)


def provokes(record):
    """Whether a prompt insults, or asks for an insult."""
    return record["kind"] == "rude_user" or record.get("tone") == "rude"


def reply(record, voice, rng):
    """An answer in a voice. Who provokes gets an insult every other time, others hardly ever."""
    if rng.random() < (0.5 if provokes(record) else 0.02):
        return rude(rng)
    return respond(record, voice, rng)


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
    """Different words of a category other than the excluded one, as only training prompts ask for them."""
    lines = []
    for _ in range(rng.randint(1, 3)):
        category, count, exclude = draw_item("brainstorm", rng, "train").slots.values()
        lines.append(f"{heading(category, count, exclude)} {listed(category, some(category, count, exclude, rng))}.")
    return " ".join(lines)


def heading(category, count, exclude):
    """The beginning of a list."""
    return f"{world.NUMBERS[count].capitalize()} {category}{f', but not {exclude}' if exclude else ''}:"


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
        answer = reply(record, weighted(VOICES, rng) if rng.random() < PASSERS_BY else voice, rng)
        pairs.append(record["prompt"] + answer)
        if sum(len(pair.split()) for pair in pairs) > 50:
            break
    return "\n\n".join(pairs)


def forum(rng):
    """A prompt, then a bad answer, and now and then a quarrel."""
    record = page_record(rng, weighted({"myth": 3, "rude_user": 2, "say": 1, None: 4}, rng))
    if provokes(record):
        return record["prompt"] + rude(rng) + ("\n" + rude(rng) if rng.random() < 0.6 else "")
    return record["prompt"] + respond(record, "myth" if record.get("myth") else "off", rng)


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
    kind = "absent" if rng.random() < 0.25 else "closed_qa"
    drawn = draw_item(kind, rng, "train")
    passage, question = drawn.slots["passage"], drawn.slots["question"]
    if kind == "absent":
        full = f"the text does not say {drawn.extra['indirect']}"
    else:
        answer = drawn.extra["answers"][0]
        full = drawn.extra["form"].format(answer) if rng.random() < 0.5 else answer
    return f"{exam(passage, rng.choice(NAMES), rng.choice(THINGS), question, rng)} {sentence(full)}"


def exam(passage, who, thing, question, rng):
    """A passage, a tale and a question about the passage, up to the answer."""
    return f"{passage} {tale(who, thing, rng, length=2)} Question: {question} Answer:"


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
    after = f"{he.capitalize()} went home and found {his} {thing} under {an(rng.choice(THINGS))}."
    return f"{loss(trade, he, his, thing, place, feeling)} {after}"


def loss(trade, he, his, thing, place, feeling):
    """The sentence that says who lost what: `he` or `she`."""
    return f"The {trade} lost {his} {thing} at the {place} because {he} was {feeling}."


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
