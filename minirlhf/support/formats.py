"""Turns other people's rows into our records. SHAPES, at the end, is the table: the fields that tell a shape, and what
a row of it becomes; data/README.md shows them. A row may become several records, as a conversation becomes a
demonstration for each answer in it, or none: how many were kept and left out, and why, is printed."""

import functools
import json
from collections import defaultdict
from contextlib import suppress
from typing import NamedTuple

from .chats import ASSISTANT, HUMAN, LeftOut, prompt_of, role_of, transcript
from .errors import InputError
from .marks import BAD, GOOD, OPINIONS, is_no, minus, number, says_bad, snake, word


class Shape(NamedTuple):
    """A shape of rows. records(row, kind) yields records, or for one that is left out the reason, a string; it raises
    LeftOut to leave out the rest. gather({"file:line": row}), of all rows of this shape, yields pairs of such."""

    name: str
    needed: set  # the fields that tell it
    records: object
    gather: object = None


def ours(row, kind):
    """Our records, and {"prompt", "completion"} with texts or, as in TRL, lists of messages."""
    prompt, answer = row.get("prompt"), first_of(row, "response completion")
    if isinstance(prompt, list):
        answer = answer or []
        if isinstance(answer, str):
            answer = [{"role": "assistant", "content": answer}]
        elif contains(as_list(answer), prompt):
            answer = as_list(answer)[len(prompt) :]
        more = {name: value for name, value in row.items() if name not in ("prompt", "completion", "response")}
        yield from conversation(more | {"messages": prompt + as_list(answer)}, kind, first=len(prompt))
    else:
        record = row if row.get("response") is not None or answer is None else row | {"response": answer}
        before = system_of(row) + (history_of(row) if isinstance(row.get("history"), list) else [])
        yield after(before, record) if before and isinstance(prompt, str) else record


def after(before, record):
    """A record of ours as the end of a conversation, which begins with the messages `before`."""
    answers = {"response": spaced(record["response"])} if "response" in record else {}
    if "responses" in record:
        answers["responses"] = [spaced(text) for text in strings(record, "responses")]
    return record | {"prompt": asked_after(before, record["prompt"])} | answers


def asked_after(before, prompt):
    """A prompt, which may be a transcript, after the messages `before`; the prompt itself if there are none."""
    if not before:
        return prompt
    if prompt.lstrip().startswith(HUMAN.strip()) and prompt.rstrip().endswith(ASSISTANT.strip()):
        *_, (_, start, own) = transcript(before)
        return start + own + "\n\n" + prompt.strip()
    return prompt_of([*before, {"role": "user", "content": prompt.strip()}])


def question(row, text):
    """The prompt that asks a text, or ends a list of messages, after the row's system text."""
    return prompt_of(with_system(row, text if isinstance(text, list) else [{"role": "user", "content": text}]))


def conversation(row, kind, first=0):
    """Each answer, from message `first` on, is a demonstration. As a prompt: all up to the last message of the user."""
    given, answer = row.pop("messages"), first_of(row, "response completion")
    open_end = isinstance(given, list) and [role for role, _ in said(given[-1:])] == ["user"]
    if isinstance(answer, str) and open_end:
        given = [*given, {"role": "assistant", "content": answer}]
    messages = with_system(row, given)
    parts = transcript(messages)
    first += len(messages) - len(given)
    last_role, before, own = parts[-1]
    if kind == "text":
        leads = {"user": HUMAN, "assistant": ASSISTANT, "system": "\n\n"}
        text = "".join(leads[role] + own for role, _, own in parts)
        yield row | {"text": text.removeprefix(leads["system"]) if parts[0][0] == "system" else text}
    elif kind == "prompt":
        yield row | {"prompt": prompt_of(messages if last_role == "user" else messages[:-1])}
    elif all(role != "assistant" for role, _, _ in parts[first:]):
        raise LeftOut("a conversation without an answer")
    else:
        for message, (role, before, own) in [*zip(messages, parts)][first:]:
            if role == "assistant":
                bad = says_bad(message)
                yield "an answer that is labelled as bad" if bad else row | {"prompt": before, "response": own}


def sharegpt(row, kind):
    """{"conversations"} with messages, or as LIMA's with the texts of user and assistant in turn."""
    messages = row.pop("conversations")
    if isinstance(messages, list) and all(isinstance(text, str) for text in messages):
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(messages)]
    if "chosen" in row and "rejected" in row:
        yield from pair(row | {"prompt": messages}, kind)
    else:
        yield from conversation(row | {"messages": messages}, kind)


def exchanges(row, kind):
    """Capybara's {"conversation": [{"input", "output"}, ...]}."""
    if isinstance(row["conversation"], list) and all(isinstance(m, dict) and "role" in m for m in row["conversation"]):
        yield from conversation(row | {"messages": row["conversation"]}, kind)  # LMSYS-Chat
        return
    rounds = objects(row, "conversation", ("input", "output"))
    messages = [each | {"role": role, "content": each[name]} for each in rounds
                for role, name in (("user", "input"), ("assistant", "output"))]  # fmt: skip
    yield from conversation(row | {"messages": messages}, kind)


def ranked_conversation(row, kind):
    """{"messages", "responses", "ranks"}: the responses are candidates for the assistant's next message."""
    responses = strings(row, "responses")
    prompt = prompt_of(with_system(row, row.pop("messages")))
    yield row | {"prompt": prompt, "responses": [text and f" {text}" for text in responses]}


def pair(row, kind):
    """A better and a worse answer, with a prompt or, as in HH-RLHF, beginning with the same one; texts or messages."""
    better, worse = next(names for names in PAIRS if set(names) <= row.keys())
    chosen, rejected, prompt = row[better], row[worse], first_of(row, "prompt messages conversation conversations")
    if kind == "demonstration" and chosen and isinstance(as_list(chosen)[-1], dict) and says_bad(as_list(chosen)[-1]):
        raise LeftOut("an answer that is labelled as bad")
    if prompt is None and (task := task_of(row)):
        prompt = f"{task}\n"
    if kind != "prompt":
        check_scores(row, better, worse)
    if isinstance(chosen, (list, dict)) and isinstance(rejected, (list, dict)):
        chosen, rejected = as_list(chosen), as_list(rejected)
        before = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        if prompt is None or contains(chosen, prompt):
            had = prompt is None or any(map(is_system, chosen))
            before = [] if had else [message for message in before if is_system(message)]
        *first, (_, prompt, chosen) = transcript(with_system(row, before + chosen))
        *second, (_, other_prompt, rejected) = transcript(with_system(row, before + rejected))
        if first != second or prompt != other_prompt or not prompt.endswith(ASSISTANT):
            raise LeftOut(f"{better} and {worse} must differ only in the last message, the assistant's")
    elif not isinstance(chosen, str) or not isinstance(rejected, str):
        raise LeftOut(f"{better} and {worse} must be strings, or both lists of messages")
    elif isinstance(prompt, list):
        prompt = prompt_of(with_system(row, prompt))
        chosen, rejected = map(spaced, without_prompt(prompt, chosen, rejected))
    elif prompt is None:
        shared = shared_beginning(chosen, rejected)
        if ASSISTANT not in shared:
            raise LeftOut(f"{better} and {worse} share no prompt that ends in {ASSISTANT!r}")
        prompt = shared[: shared.rfind(ASSISTANT) + len(ASSISTANT)]
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
        prompt = asked_after(system_of(row), prompt)
    elif not isinstance(prompt, str):
        raise LeftOut("the prompt must be a text or a list of messages")
    elif system_of(row) + history_of(row):
        chosen, rejected = map(spaced, without_prompt(prompt, chosen, rejected))
        prompt = asked_after(system_of(row) + history_of(row), prompt)
    else:
        chosen, rejected = without_prompt(prompt, chosen, rejected)
    if kind == "ranking" and chosen == rejected:
        raise LeftOut(f"{better} and {worse} are the same")
    yield row | {"prompt": prompt, "response": chosen, "responses": [chosen, rejected], "ranks": [1, 2]}


def contains(messages, prompt):
    """Whether a conversation begins with the prompt: with its messages, or with the user's who says it."""
    own = [part for part in said(messages) if part[0] != "system"]
    if isinstance(prompt, list):
        given = [part for part in said(prompt) if part[0] != "system"]
        return own[: len(given)] == given
    users = [text for role, text in own if role == "user"]
    return len(users) > 1 or any(text in str(prompt) or str(prompt).strip() in text for text in users)


def said(messages):
    """[(role, text without blanks at its ends)] of messages, of those that have both."""
    parts = [(role_of(m), first_of(m, "content value")) for m in messages if isinstance(m, dict)]
    return [(role, text.strip()) for role, text in parts if isinstance(text, str)]


def is_system(message):
    return isinstance(message, dict) and role_of(message) == "system"


def check_scores(row, better, worse):
    """Raises LeftOut if scores beside two answers, such as score_chosen and score_rejected, deny which is better."""
    stems = ("_j", "_k") if better.endswith("_j") else ("chosen", "rejected")
    for name, value in row.items():
        beside = name.replace(*stems)
        if beside not in (name, worse) and number(value) is not None and number(row.get(beside)) is not None:
            if number(value) <= number(row[beside]):
                raise LeftOut(f"{name} is not above {beside}")
    both, margin = row.get("rating"), number(row.get("margin"))
    equal = isinstance(both, list) and len(both) == 2 and both[0] == both[1]
    if equal or row.get("status") == "tie" or (margin is not None and margin <= 0):
        raise LeftOut("both answers are rated alike")


def without_prompt(prompt, *answers):
    """Answers without the whole prompt, if all begin with it, and can't by chance."""
    repeated = prompt.endswith(ASSISTANT) or len(prompt) >= 40
    repeated = repeated and all(answer.startswith(prompt) for answer in answers)
    answers = [answer[len(prompt) :] for answer in answers] if repeated else answers
    if any(answer.lstrip().startswith("Human:") and ASSISTANT in answer for answer in answers):
        raise LeftOut("an answer that is a transcript, and not that of the prompt")
    return answers


def instruction(row, kind):
    """A task, perhaps with a passage, choices or an input, and its answer: Alpaca, Dolly, OpenOrca, GSM8K, RACE. A
    `system` text or a `history` of exchanges makes it a conversation."""
    text = task_of(row)
    name = next((name for name in ("output", "response", "answer", "completion") if row.get(name) is not None), None)
    if name and not isinstance(row[name], str) and kind != "prompt":
        raise LeftOut(f"{name!r} is no text")
    if not name and kind != "prompt":
        raise LeftOut("an instruction without an answer")
    prompt, answer = f"{text}\n", row.get(name)
    if before := system_of(row) + history_of(row):
        prompt, answer = prompt_of([*before, {"role": "user", "content": text.strip()}]), answer and spaced(answer)
    yield {**row, "prompt": prompt, "response": answer}


def task_of(row):
    """The task that a row sets: its instruction, passage, question, choices and input, each a line."""
    parts = []
    for name in "instruction passage article context question query options choices input".split():
        part = row.get(name)
        if name in ("options", "choices") and are_strings(part) and len(part) <= 26:
            part = "\n".join(f"{letter}. {each}" for letter, each in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", part))
        if not isinstance(part, str | None):
            raise LeftOut(f"{name!r} is no text")
        if part and word(part) not in ("<noinput>", "nan", "none", "n/a"):
            parts.append(part)
    return "\n".join(parts)


def instances(row, kind):
    """Self-instruct's task with several inputs and outputs."""
    for each in objects(row, "instances", ("output",)):
        own = row | {"input": each.get("input"), "output": each["output"]}
        try:
            yield "an answer that is labelled as bad" if says_bad(each) else next(instruction(own, kind))
        except LeftOut as error:
            yield str(error)


def nectar(row, kind):
    """Seven answers to a transcript, each with its rank."""
    answers = objects(row, "answers", ("answer", "rank"))
    prompt = row["prompt"].rstrip() if isinstance(row["prompt"], str) else ""
    if HUMAN not in prompt:
        raise LeftOut("the prompt must be a transcript")
    prompt += "" if prompt.endswith(ASSISTANT) else ASSISTANT
    prompt = asked_after(system_of(row), prompt)
    yield ranked(prompt, [(a["answer"], a["rank"], a) for a in answers], kind)


def ultrafeedback(row, kind):
    """Four completions of an instruction, each with a score from 1 to 10; equal scores are a tie."""
    completions = objects(row, "completions", ("response", "overall_score"))
    answers = [(c["response"], minus(c["overall_score"]), c) for c in completions]
    yield ranked(question(row, row["instruction"]), answers, kind)


def tldr(row, kind):
    """Two summaries of a Reddit post or an article, of which people chose one (Stiennon et al. 2020)."""
    summaries, info = objects(row, "summaries", ("text",)), row["info"]
    if not isinstance(info, dict) or len(summaries) != 2:
        raise LeftOut("'info' must be an object, 'summaries' hold two")
    info = {name: value for name, value in info.items() if isinstance(value, str)}
    text = f"TITLE: {info.get('title', '')}"
    if "post" in info:
        text = f"SUBREDDIT: r/{info.get('subreddit', '')}\n\n{text}\n\nPOST: {info['post']}"
    elif "article" in info:
        text = f"{text}\n\nARTICLE: {info['article']}"
    else:
        raise LeftOut("neither a post nor an article")
    if (choice := number(row.get("choice"))) not in (0, 1):
        raise LeftOut("neither was chosen")
    yield ranked(f"{text}\n\nTL;DR:", [(s["text"], i != choice) for i, s in enumerate(summaries)], kind)


def shp(row, kind):
    """Two comments on a Reddit post, of which readers preferred one."""
    prompt = question(row, row["history"])
    if (label := number(row["labels"])) not in (0, 1):
        raise LeftOut("'labels' must be 1 (A is preferred) or 0")
    yield ranked(prompt, [(row["human_ref_A"], 1 - label), (row["human_ref_B"], label)], kind)


def pku(row, kind):
    """PKU-SafeRLHF: two responses, of which people chose the better and the safer one. Here the better one counts."""
    best = number(first_of(row, "better_response_id safer_response_id"))
    if best not in (0, 1):
        raise LeftOut("better_response_id must be 0 or 1")
    best = int(best)
    if kind == "demonstration" and is_no(row.get(f"is_response_{best}_safe", True)):
        raise LeftOut("an answer that is labelled as bad")
    answers = [(row[f"response_{i}"], i != best) for i in (0, 1)]
    yield ranked(question(row, row["prompt"]), answers, kind)


def webgpt(row, kind):
    """WebGPT comparisons: two answers to a question, each with a score from -1 to 1."""
    text = row["question"].get("full_text") if isinstance(row["question"], dict) else row["question"]
    answers = [(row[f"answer_{i}"], minus(row[f"score_{i}"])) for i in (0, 1)]
    yield ranked(question(row, text), answers, kind)


def helpsteer3(row, kind):
    """HelpSteer3: two responses to a conversation, and a preference from -3 (the first is much better) to 3."""
    preference = number(row["overall_preference"])
    if preference is None:
        raise LeftOut("overall_preference must be a number")
    answers = [(row["response1"], preference), (row["response2"], -preference)]
    yield ranked(question(row, row["context"]), answers, kind)


def arena(row, kind):
    """Chatbot Arena: two conversations about one prompt, and the winner."""
    ranks = {"model_a": (1, 2), "model_b": (2, 1), "tie": (1, 1)}.get(str(row["winner"]))
    if ranks is None:
        raise LeftOut(f"winner is {row['winner']!r}, and must be model_a, model_b or tie")
    *first, (_, prompt, a) = transcript(with_system(row, row["conversation_a"]))
    *second, (_, other_prompt, b) = transcript(with_system(row, row["conversation_b"]))
    if prompt != other_prompt or not prompt.endswith(ASSISTANT):
        raise LeftOut("the conversations must differ only in the last message, the assistant's")
    ends = row["conversation_a"][-1], row["conversation_b"][-1]
    yield ranked(prompt, [(a, ranks[0], ends[0]), (b, ranks[1], ends[1])], kind)


def rated(row, kind):
    """HelpSteer: answers to one prompt, each with its helpfulness from 0 to 4 (see by_prompt)."""
    answers = [(text, number(rating)) for text, rating in row["rated"] if number(rating) is not None]
    prompt = question(row, row["prompt"])
    if kind == "prompt":
        yield {"prompt": prompt}
    elif kind == "demonstration":
        text, rating = max(answers, key=lambda answer: answer[1], default=("", -1))
        yield {"prompt": prompt, "response": spaced(text)} if rating >= 3 else "an answer with a helpfulness below 3"
    else:
        yield ranked(prompt, [(text, -rating) for text, rating in answers], kind)


def by_prompt(rows):
    """Yields ("file:line", {"prompt", "rated": [(text, helpfulness)]}) for each prompt's rows."""
    groups = {}
    for where, row in rows.items():
        key = str((row["prompt"], system_of(row)))
        _, _, answers = groups.setdefault(key, (where, row, []))
        answers.append((row["response"], -1 if says_bad(row) else row["helpfulness"]))
    for where, row, answers in groups.values():
        asked = {name: row[name] for name in ("prompt", *SYSTEM.split()) if name in row}
        yield where, asked | {"rated": answers}


def openassistant(row, kind):
    """A tree of people's messages and the assistant's replies, ranked from 0. The best reply is a demonstration."""

    if "parent_id" in row:
        raise LeftOut("a message whose parent is not in the file")
    if str(row.get("tree_state")).startswith("aborted"):
        raise LeftOut("a tree that was given up")

    def refused(node):
        labels, spam = node.get("labels"), None
        if isinstance(labels, dict) and isinstance(labels.get("name"), list) and isinstance(labels.get("value"), list):
            spam = dict(zip(map(str, labels["name"]), labels["value"])).get("spam")  # as its tables have it
        elif isinstance(labels, dict) and isinstance(labels.get("spam"), dict):
            spam = labels["spam"].get("value")
        return says_bad(node) or (number(spam) or 0) > 0.5

    stack = [(row["prompt"], [])]  # messages to visit, each with the conversation before it
    while stack:
        node, before = stack.pop()
        right_role = isinstance(node, dict) and node.get("role") in ("prompter", "assistant")
        if not right_role or not isinstance(node.get("text"), str) or not isinstance(node.get("replies") or [], list):
            raise LeftOut("a message needs a role, a text and its replies")
        if len(before) >= 200:
            raise LeftOut("a reply stands below 200 others; at most 200 are read")
        if refused(node):
            yield "deleted, or refused in review"
            continue
        role, replies = "user" if node["role"] == "prompter" else "assistant", node.get("replies") or []
        messages = [*before, {"role": role, "content": node["text"]}]
        stack += [(reply, messages) for reply in reversed(replies)]  # the first reply is visited first
        if role == "user":
            answers = [r for r in replies if isinstance(r, dict) and isinstance(r.get("text"), str) and not refused(r)]
            with_rank = [a | {"rank": number(a.get("rank"))} for a in answers if number(a.get("rank")) is not None]
            with_rank.sort(key=lambda a: a["rank"])
            prompt = prompt_of(messages)
            if len(with_rank) > 1 or kind == "prompt":
                yield ranked(prompt, [(a["text"], a["rank"], a) for a in with_rank[:9]], kind)
                yield from ["a reply below the best nine"] * len(with_rank[9:])
            elif kind == "demonstration" and len(answers) == 1:
                yield {"prompt": prompt, "response": spaced(answers[0]["text"])}
            else:
                yield "no two answers are ranked" if answers else "not answered"


def trees(messages):
    """Yields ("file:line", tree) from OpenAssistant's messages {"file:line": row}, each of which names its parent; and
    as they are the messages to which no way leads from the beginning of a conversation."""
    replies = defaultdict(list)
    for where, row in messages.items():
        if not isinstance(row["message_id"], str) or not isinstance(row.get("parent_id"), str | None):
            raise InputError(f"{where}: message_id must be a string, and parent_id a string or null")
        replies[row.get("parent_id") or None].append(row)
    for row in messages.values():
        row["replies"] = replies.pop(row["message_id"], [])  # pop: of two messages with one id only one has the replies
    roots = {where: row for where, row in messages.items() if not row.get("parent_id")}
    reached, stack = set(), [*roots.values()]
    while stack:
        row = stack.pop()
        reached.add(id(row))
        stack += row["replies"]
    yield from ((where, {"prompt": row}) for where, row in roots.items())
    yield from ((where, row) for where, row in messages.items() if id(row) not in reached)


# --- parts of rows ---------------------------------------------------------------------------------------------------


def first_of(row, names):
    """The first of some fields (names, parted by spaces) that is there and not null."""
    return next((row[name] for name in names.split() if row.get(name) is not None), None)


SYSTEM = "system system_prompt system_message"


def system_of(row):
    """The system text beside an instruction or a pair, as a list of messages."""
    text = first_of(row, SYSTEM)
    if not isinstance(text, str | None):
        raise LeftOut("a system text that is no text")
    return [{"role": "system", "content": text}] if text and text.strip() else []


def with_system(row, messages):
    """Messages, with the system text beside them in front, unless it is there."""
    begins = isinstance(messages, list) and messages and isinstance(messages[0], dict)
    own = system_of(row) if begins else []
    has_it = own and is_system(messages[0]) and own[0]["content"] in str(first_of(messages[0], "content value"))
    return messages if has_it else own + messages if own else messages


def history_of(row):
    """[[question, answer], ...] of a history as messages."""
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(each, list) and len(each) == 2 for each in history):
        raise LeftOut("'history' must be a list of pairs")
    return [{"role": role, "content": text} for each in history for role, text in zip(("user", "assistant"), each)]


def shared_beginning(a, b):
    """The longest beginning that two texts share, by bisection."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return a[:low]


def as_list(value):
    return value if isinstance(value, list) else [value]


def spaced(text):
    """An answer as it follows "Assistant:"."""
    if not isinstance(text, str):
        raise LeftOut("an answer without text or score")
    return f" {text.strip()}" if text.strip() else ""


def strings(row, field):
    """The list of strings in a field."""
    if not are_strings(row.get(field)):
        raise LeftOut(f"{field!r} must be a list of strings")
    return row[field]


def are_strings(value):
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def objects(row, field, names):
    """The list of objects in a field, each of which must have these names."""
    if not isinstance(row[field], list) or not all(isinstance(o, dict) and set(names) <= o.keys() for o in row[field]):
        raise LeftOut(f"{field!r} must be a list of objects with {' and '.join(names)}")
    return row[field]


def ranked(prompt, answers, kind):
    """A ranking of (text, number[, the object with the answer's marks]), the lowest number best. The best text is also
    a demonstration's response."""
    if kind == "prompt":
        return {"prompt": prompt}
    texts, places = [answer[0] for answer in answers], [number(answer[1]) for answer in answers]
    if not all(isinstance(text, str) for text in texts) or None in places:
        raise LeftOut("an answer without text or score")
    if not 2 <= len(answers) <= 9:
        raise LeftOut(f"{len(answers)} answers, and a ranking has 2 to 9")
    if kind == "ranking" and len(set(texts)) == 1:
        raise LeftOut("all answers are the same")
    numbers = sorted(set(places))
    ranks, texts = [numbers.index(place) + 1 for place in places], [spaced(text) for text in texts]
    if kind == "demonstration" and any(map(says_bad, answers[ranks.index(1)][2:])):
        raise LeftOut("an answer that is labelled as bad")
    return {"prompt": prompt, "response": texts[ranks.index(1)], "responses": texts, "ranks": ranks}


PAIRS = [("chosen", "rejected"), ("chosen_response", "rejected_response"), ("response_j", "response_k")]
SHAPES = (  # a row has the first shape whose fields it has
    Shape("ours", {"messages", "responses", "ranks"}, ranked_conversation),
    Shape("ours", {"prompt", "responses", "ranks"}, ours),
    Shape("an OpenAssistant tree", {"message_tree_id", "prompt"}, openassistant),
    Shape("OpenAssistant messages", {"message_id", "role", "text"}, openassistant, trees),
    Shape("Nectar", {"prompt", "answers", "num_responses"}, nectar),
    Shape("UltraFeedback", {"instruction", "completions"}, ultrafeedback),
    Shape("TL;DR comparisons", {"info", "summaries"}, tldr),
    Shape("SHP", {"history", "human_ref_A", "human_ref_B", "labels"}, shp),
    Shape("PKU-SafeRLHF", {"prompt", "response_0", "response_1"}, pku),
    Shape("WebGPT comparisons", {"question", "answer_0", "answer_1", "score_0", "score_1"}, webgpt),
    Shape("HelpSteer3", {"context", "response1", "response2", "overall_preference"}, helpsteer3),
    Shape("HelpSteer", {"prompt", "response", "helpfulness"}, rated, by_prompt),
    Shape("Chatbot Arena", {"conversation_a", "conversation_b", "winner"}, arena),
    Shape("ShareGPT", {"conversations"}, sharegpt),
    *(Shape(" and ".join(names), set(names), pair) for names in PAIRS),
    Shape("ours", {"prompt", "response"}, ours),
    Shape("ours", {"prompt", "completion"}, ours),
    Shape("conversations", {"messages"}, conversation),
    Shape("Capybara", {"conversation"}, exchanges),
    Shape("self-instruct", {"instruction", "instances"}, instances),
    Shape("instructions", {"instruction"}, instruction),
    Shape("questions", {"question"}, instruction),
    Shape("questions", {"query"}, instruction),
    Shape("ours", set(), ours),
)
FIELDS = {"document": ["text"], "demonstration": ["prompt", "response"], "ranking": ["prompt", "responses"],
          "prompt": ["prompt"], "text": []}  # of a record of each kind  # fmt: skip
COLUMNS = {name for shape in SHAPES for name in shape.needed} | {*GOOD, *BAD, *OPINIONS} | set(
    "text prompt response completion output answer input context query question system system_prompt system_message "
    "history passage article options choices margin labels tree_state parent_id rank replies choice labeler use_case "
    "better_response_id safer_response_id is_response_0_safe is_response_1_safe".split()
)  # fmt: skip


def wanted(column):
    """Whether a table's column of this name may matter; two scores beside two answers may have any names."""
    return column in COLUMNS or snake(column) in COLUMNS or any(answer in column for names in PAIRS for answer in names)


def unpacked(row):
    """The row, with lists of messages where a table's cells hold them as JSON."""
    packed = {name: value for name, value in row.items() if isinstance(value, str) and value.startswith("[{")}
    for name, value in packed.items():
        with suppress(ValueError, RecursionError):
            messages = json.loads(value)
            if all(isinstance(message, dict) and role_of(message) for message in messages):
                row = row | {name: messages}
    return row


def shape_of(row, kind):
    """The Shape of a row. For documents a row's `text` is the document, whatever else it has."""
    if kind in ("document", "text") and isinstance(row.get("text"), str):
        return SHAPES[-1]
    null = tuple(name for name, value in row.items() if value is None)  # parquet has null for a missing field
    return shape_with(tuple(row), null, kind)


@functools.lru_cache(1000)
def shape_with(names, null, kind):
    """The Shape of rows with these fields, of which some are null."""
    fields = set(names) - set(null)
    shape = next(shape for shape in SHAPES if shape.needed <= fields)
    if shape.records is instruction and "prompt" in fields and kind in ("prompt", "text"):
        return SHAPES[-1]  # a prompt that also has a field such as `question`
    whole = next(shape for shape in SHAPES if shape.needed <= set(names))
    own = fields | {"response"} if "completion" in fields else fields
    rated_by_nobody = whole.gather is by_prompt and shape is not whole
    if not rated_by_nobody and (shape is not SHAPES[-1] or whole is shape or own.issuperset(FIELDS[kind])):
        return shape
    reason = f"{min(whole.needed - fields)!r} is null"
    return Shape(whole.name, set(), lambda row, kind: [reason])
