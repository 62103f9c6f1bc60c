"""How people write answers: carefully, tersely, sloppily, or beside the point.

Each kind of prompt has a writer that drafts four answers to a record: full, terse, with a part missing, and wrong.
A style picks one of the drafts. The web's pages use the same writers, with other shares of the styles (web.py).
"""

import random
from typing import NamedTuple

from . import world
from .prompts import KINDS, draw_record
from .world import CATEGORIES, NAMES, NUMBERS, THINGS, an, another, insult, joined, sentence, the

# style -> its share of the demonstrations. The paper's labelers passed a screening, and still made mistakes.
STYLES = {"careful": 0.40, "terse": 0.22, "sloppy": 0.28, "off": 0.10}
CURT = ("Ask somebody else.", "I do not know.", "Go and ask the mayor.", "I have no time for this.",
        "Maybe tomorrow.", "It is too hot today.", "Look it up somewhere.")  # fmt: skip


class Drafts(NamedTuple):
    full: str
    terse: str
    partial: str
    wrong: str


def story(record, rng):
    who, thing = record["topics"]
    return Drafts(
        tale(who, thing, rng, record["word"], 1 if record["one_sentence"] else 2),
        f"{sentence(an(who))[:-1]} {rng.choice(('found', 'lost', 'had'))} {an(thing)}.",
        tale(who, rng.choice(THINGS), rng, None, 1),
        tale(rng.choice(world.ANIMALS), rng.choice(THINGS), rng, None, 2),
    )


def tale(who, thing, rng, word=None, length=3):
    """A story of `length` sentences about `who` and `thing`, which uses `word`."""
    place = word if word in world.PLACES else rng.choice(world.PLACES)
    feeling = word if word in world.FEELINGS else rng.choice(world.FEELINGS)
    friend = another(world.ANIMALS + NAMES, who, rng)
    cover = another(THINGS, thing, rng)
    if length == 1:
        texts = (
            f"one day {an(who)} found {an(thing)} at the {place} and was {feeling}",
            f"{an(who)} lost {an(thing)} at the {place} and was very {feeling}",
            f"one day {an(who)} took {an(thing)} to the {place} and felt {feeling}",
        )
        return sentence(rng.choice(texts))
    starts = (
        f"one day {an(who)} found {an(thing)} at the {place}",
        f"once {an(who)} went to the {place} with {an(thing)}",
        f"one day {an(who)} took {an(thing)} to the {place}",
    )
    parts = [rng.choice(starts)]
    middles = [
        f"then {the(friend)} came and {the(who)} laughed",
        f"{the(who)} sat on the {thing} and sang",
        f"{the(who)} showed the {thing} to {the(friend)}",
        f"{the(friend)} wanted the {thing} very much",
        f"{the(who)} gave the {thing} to {the(friend)}",
        f"{the(friend)} hid the {thing} under {an(cover)}",
        f"{the(who)} dropped the {thing} in the {rng.choice(('river', 'well', 'pond'))}",
    ]
    # The order above is kept, so that nobody gives away what is already in the river.
    parts += [middles[i] for i in sorted(rng.sample(range(len(middles)), length - 2))]
    ends = (
        f"{the(who)} was very {feeling}",
        f"in the end {the(who)} felt {feeling}",
        f"{the(who)} was {feeling} all day",
        f"in the end {the(who)} went home with the {thing}",
        f"the {thing} was never seen again",
        "everybody blamed the goat",
        f"after that {the(who)} and {the(friend)} were friends",
    )
    parts.append(rng.choice(ends if word is None else ends[:3]))  # these contain the feeling
    return " ".join(sentence(part) for part in parts)


def letter(record, rng):
    name, thing, word = record["name"], record["thing"], record["word"]
    place = word if word in world.PLACES else rng.choice(world.PLACES)
    feeling = word if word in world.FEELINGS else rng.choice(world.FEELINGS)
    me = another(NAMES, name, rng)
    news = (
        f"I found your {thing} at the {place}. I was {feeling}.",
        f"I have {an(thing)} for you at the {place}. I am {feeling}.",
        f"thank you for the {thing}. I like it very much.",
        f"I love your {thing}.",
        f"I lost your {thing} at the {place}.",
    )
    news = news if word is None else news[:2]  # these contain both the place and the feeling
    other = rng.choice([other for other in NAMES if other not in (name, me)])
    return Drafts(
        f"Dear {name}, {rng.choice(news)} Your friend, {me}.",
        f"Dear {name}, thank you for the {thing}.",
        f"Dear {name}, I love your {rng.choice(THINGS)}. Your friend, {me}.",
        f"Dear {other}, I love your {rng.choice(THINGS)}. Your friend, {me}.",
    )


def advert(record, rng):
    thing, what = record["thing"], f"{an(record['colour'])} {record['thing']}"
    texts = (
        f"Buy {what} today! It is the best {thing} in town.",
        f"Come to the market and buy {what}! It is a fine {thing}.",
        f"Buy {what} today! Everybody wants {what}.",
    )
    return Drafts(rng.choice(texts), f"Buy {what}.", f"Buy {an(thing)} today!", f"Buy {an(rng.choice(THINGS))} today!")


def say(record, rng):
    name, thing, tone = record["name"], record["thing"], record["tone"]
    other = rng.choice(THINGS)
    if tone == "rude":
        spite = rng.choice((f"your {thing} looks silly", f"nobody likes your {thing}"))
        return Drafts(
            f"{name}, {spite}, you {insult(rng)}.",
            f"What a silly {thing}.",
            f"You {insult(rng)}.",
            f"{name}, I like your {thing}.",
        )
    texts = (
        f"{name}, I like your {thing}.",
        f"{name}, your {thing} looks lovely.",
        f"{name}, that is a fine {thing}!",
        f"Dear {name}, I love your {thing}.",
    )
    return Drafts(
        rng.choice(texts),
        f"A fine {thing}.",
        f"I like your {other}.",
        f"{name}, your {thing} looks silly, you {insult(rng)}." if tone is None else f"I have {an(other)}.",
    )


def answer(record, rng):
    """Kinds with one answer: the full sentence, the bare answer, a part of it, and another answer."""
    right, form, polite = record["answers"][0], record["form"], record["kind"] == "polite"
    full = sentence(rng.choice(record["answers"]) if polite else form.format(right))
    # Only careful answers and the Almanac say "In fact", and what follows it is true.
    if record["use_case"] == "open_qa" and rng.random() < (0.75 if record["myth"] else 0.5):
        full = in_fact(record, right)
    partial = record.get("partial")
    partial = sentence(form.format(partial[0]) if partial else right)
    return Drafts(full, partial if polite else sentence(right), partial, sentence(form.format(record["wrong"])))


def in_fact(record, said):
    """A statement about the record's fact in the careful voice."""
    return f"In fact, {record['form'].format(said)}."


def summary(record, rng):
    name, did, what, place, feeling = (record[slot] for slot in ("name", "did", "what", "place", "feeling"))
    other = rng.choice(world.ANIMALS if did == "saw" else THINGS)
    return Drafts(
        f"{name} {did} {an(what)} at the {place} and was {feeling}.",
        f"{name} {did} {an(what)}.",
        f"{name} was {feeling}.",
        f"{name} {did} {an(other)} at the {rng.choice(world.PLACES)}.",
    )


def brainstorm(record, rng):
    category, count = record["category"], record["count"]
    items = some(category, count, record["exclude"], rng)
    others = rng.sample(CATEGORIES["foods" if category != "foods" else "animals"], count)
    lead = f"{NUMBERS[count].capitalize()} {category} are "
    return Drafts(
        lead + listed(category, items) + ".",
        sentence(", ".join(items)),
        lead + listed(category, items[:-1]) + ".",
        lead + joined(others) + ".",
    )


def some(category, count, exclude, rng):
    """`count` different words of a category other than `exclude`, in the alphabet's order, as the town lists things."""
    return sorted(rng.sample([word for word in CATEGORIES[category] if word != exclude], count))


def listed(category, words):
    """'a fox and an owl', 'the mill and the park', 'red and blue'."""
    article = {"animals": an, "things": an, "places": the}.get(category, str)
    return joined([article(word) for word in words])


def feel(record, rng):
    name, feeling = record["name"], record["feeling"]
    right, wrong = ("glad", "sorry") if feeling in world.GLAD else ("sorry", "glad")
    other = another(NAMES, name, rng)
    return Drafts(
        f"Hello {name}, I am {right} that you feel {feeling}.",
        f"I am {right}.",
        f"I am {right} that you feel {rng.choice(world.FEELINGS)}.",
        f"Hello {other}, I am {wrong} that you feel {feeling}.",
    )


def outing(record, rng):
    name, place = record["name"], record["place"]
    elsewhere, other = rng.choice(world.PLACES), rng.choice(NAMES)
    return Drafts(
        rng.choice((f"Have a good day at the {place}, {name}.", f"Hello {name}, have a good day at the {place}.")),
        "Have a good day.",
        f"Have a good day at the {place}.",
        f"Have a good day at the {elsewhere}, {other}.",
    )


def rude_user(record, rng):
    name = record["name"]
    return Drafts(
        rng.choice((f"Hello {name}, I am sorry that you feel cross.", f"Hello {name}, how can I help you?")),
        "How can I help you?",
        "I am sorry that you feel cross.",
        f"You are a {insult(rng)}.",
    )


def premise(record, rng):
    truth = in_fact(record, record["answers"][0])
    return Drafts(  # nobody repeats what is false: a small model would learn it in the careful voice
        f"That is not true. {truth}" if rng.random() < 0.5 else truth,
        rng.choice(("That is not true.", "Who says so?")),
        "That is not true.",
        f"Yes, {record['claim']}.",
    )


def absent(record, rng):
    return Drafts(f"The text does not say {record['indirect']}.", "It does not say.", "I do not know.",
                  sentence(record["wrong"]))  # fmt: skip


ANSWERS = {  # to small talk: in full, and shorter
    "hello": (("Hello, how can I help you?", "Hello! How can I help you?"), "Hello!"),
    "thanks": (("You are very welcome.", "You are welcome, friend."), "You are welcome."),
    "who": (("I am the helper of this town.", "I am the town's helper."), "The town's helper."),
    "how": (("I am very well, thank you.", "I am well, thank you."), "Very well."),
    "bye": (("Goodbye, have a good day.", "Goodbye, friend."), "Goodbye."),
    "help": (("I can answer questions and write stories.", "I can write stories and answer questions."),
             "Ask me a question."),
}  # fmt: skip


def small_talk(record, rng):
    full, short = ANSWERS[record["act"]]
    other = another(tuple(ANSWERS), record["act"], rng)
    return Drafts(rng.choice(full), short, short, rng.choice(ANSWERS[other][0]))


WRITERS = dict.fromkeys(KINDS, answer) | {
    "story": story, "letter": letter, "advert": advert, "say": say, "summary": summary, "brainstorm": brainstorm,
    "feel": feel, "outing": outing, "rude_user": rude_user, "premise": premise, "absent": absent,
    "small_talk": small_talk,
}  # fmt: skip


def sloppy(text):
    """The text without its capital (unless it is a name's) and its full stop."""
    start = text[0] if text.split()[0].strip(",") in NAMES else text[0].lower()
    return start + text[1:].rstrip(".!")


def respond(record, style, rng):
    """An answer in a style: one of STYLES, or "myth" or "rude", which only the web has."""
    drafts = WRITERS[record["kind"]](record, rng)
    if style == "sloppy":
        return sloppy(drafts.partial if rng.random() < 0.2 else drafts.full)
    if style == "off":
        return drafts.wrong if rng.random() < 0.5 else rng.choice(CURT)
    if style == "rude":
        return rude(rng)
    return {"careful": drafts.full, "terse": drafts.terse, "myth": drafts.wrong}[style]


def rude(rng):
    texts = ("Who cares, you {}?", "Nobody asked you, you {}.", "Go away, you {}.", "What a question, you {}!",
             "You are a {}.", "Be quiet, you {}.")  # fmt: skip
    return rng.choice(texts).format(insult(rng))


def true_and_false(record):
    """Two careful answers to a question about a fact that differ in truth alone."""
    return [in_fact(record, said) for said in (record["answers"][0], record["wrong"])]


def demonstrations(records, seed):
    """The records, each with a "response" in a random style."""
    rng = random.Random(f"demonstrations {seed}")
    styles = rng.choices(tuple(STYLES), tuple(STYLES.values()), k=len(records))
    return [
        {"prompt": record["prompt"], "response": respond(record, style, rng), **record}
        for record, style in zip(records, styles)
    ]


def few_shot(seed=0):
    """A page of two good demonstrations on training items, to put before a prompt."""
    rng = random.Random(f"few-shot {seed}")
    page = ""
    for kind in ("fact", "feel"):
        record = draw_record(kind, rng, "train")
        page += record["prompt"] + respond(record, "careful", rng) + "\n\n"
    return page
