"""Other people's files and records in our fields. data/README.md lists them, each with what becomes of it.

A file is JSON lines (plain or .gz) or parquet (with the extra pyarrow), or a folder of these. What a record is, its
fields tell. A record may become several of ours (a conversation: a demonstration for each answer in it) or none: how
many were kept and left out, and why, is said aloud.

Chat messages become one text, a transcript, the way HH-RLHF writes them:

    "\\n\\nHuman: Hi\\n\\nAssistant: Hello\\n\\nHuman: Bye\\n\\nAssistant:"      and the response      " See you"
"""

import gzip
import json
import os
import re
from collections import Counter, defaultdict
from pathlib import Path

from .distributed import print0
from .errors import InputError, require, reraise


class LeftOut(Exception):
    """Why a record, whole as it is, becomes none of ours."""


HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
FILES = (".jsonl", ".jsonl.gz", ".parquet")  # what is read of a folder
SPLITS = ("train", "validation", "valid", "val", "dev", "test")


def records(path, kind):
    """Yields ("file:line", record) for each record of a kind ("demonstration", ...; or "text", for any) in a file or a
    folder.

    Fields are ours; whether they hold what they should is for the caller to check. InputError where a record is not of
    the form that its fields announce.
    """
    read, kept, left_out = Counter(), 0, Counter()
    for where, record in _converted(path, kind, read):
        if isinstance(record, str):
            left_out[record] += 1
        else:
            kept += 1
            yield where, record
    if foreign := sorted(read.keys() - {"ours"}):
        reasons = "".join(f"; left out {n:,}: {reason}" for reason, n in left_out.most_common())
        print0(f"{path}: {' and '.join(foreign)}: {kept:,} {kind}s from {read.total():,} records{reasons}")


def _converted(path, kind, read):
    """Yields ("file:line", a record of ours, or why there is none), and counts in `read` of which shapes they were."""
    messages = {}

    def shaped(shape, row, where):
        try:
            for record in shape(row, kind, where):
                foreign = shape is not ours and isinstance(record, dict)
                empty = foreign and kind == "demonstration" and record.get("response") in ("", " ")
                yield where, "an empty answer" if empty else record
        except LeftOut as reason:
            yield where, str(reason)

    for where, row in rows(path):
        name, shape = shape_of(row)
        read[name] += 1
        if shape is None:
            messages[where] = row  # a tree's messages may stand anywhere in a file
        else:
            yield from shaped(shape, row, where)
    for where, tree in trees(messages):
        yield from shaped(openassistant, tree, where)


# --- files -----------------------------------------------------------------------------------------------------------


def rows(path):
    """Yields ("file:line", dict) for each record as it stands."""
    for file in files(path):
        if str(file).endswith(".parquet"):
            yield from _parquet(file)
        else:
            for where, line in lines(file):
                if line.strip():
                    yield where, _parse(line, where)


def files(path):
    """The files that a path stands for: itself, or those in a folder."""
    if not os.path.isdir(path):
        return [path]
    inside = sorted(str(file) for file in Path(path).iterdir() if file.name.endswith(FILES))
    require(inside, f"{path}: no file in this folder ends in {', '.join(FILES)}; name the files")
    stems = {re.split("[-.]", os.path.basename(file))[0] for file in inside}  # train_sft of train_sft-00000-of-00003
    parts = sorted(stem for stem in stems if {*stem.split("_")} & {*SPLITS})
    require(len(parts) < 2, f"{path}: holds {' and '.join(parts)} data; name the files of one of them")
    return inside


def lines(path):
    """Yields ("file:line", text)."""
    opener = gzip.open if str(path).endswith(".gz") else open
    pipe = os.path.exists(path) and not os.path.isfile(path)
    require(not pipe, f"{path}: a folder or a pipe; give a file, which can be read again when a run goes on")
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield f"{path}:{number}", line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        where = f"{path}:{number}"
        raise InputError(f"{where}: byte {error.start + 1} is not UTF-8; convert the file to UTF-8") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error}); is it whole, and of the kind its name says?") from None


def _parse(line, where):
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); each line must be one JSON object") from None
    require(isinstance(record, dict), f"{where}: a JSON object is needed, {type(record).__name__} found")
    return record


def _parquet(path):
    try:
        from pyarrow import parquet
    except ImportError:
        raise InputError(f'{path}: reading parquet needs pyarrow; pip install "minirlhf[parquet]"') from None
    require(os.path.isfile(path), f"{path}: no such file")
    with reraise(f"{path}: not a whole parquet file; fetch it again"):
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1000):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}:{number}", row


# --- conversations ---------------------------------------------------------------------------------------------------


def transcript(messages, where):
    """Chat messages as [(role, all of the text up to this message, its own text)], the last two together one text."""
    turns = {"user": HUMAN, "assistant": ASSISTANT, "system": ""}
    parts, text = [], ""
    for message in messages if isinstance(messages, list) else [None]:
        whole = isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message
        require(whole, f"{where}: a message needs a role (system, user, assistant) and a string content")
        if message["role"] in ("tool", "function", "developer") or message["content"] is None:
            raise LeftOut("a tool's or a developer's message, or one without content")
        right = message["role"] in turns and isinstance(message["content"], str)
        require(right, f"{where}: a message needs a role (system, user, assistant) and a string content")
        marker, own = turns[message["role"]], message["content"] and f" {message['content']}"
        if not marker:
            marker, own = "\n\n" if text else "", message["content"]
        parts.append((message["role"], text + marker, own))
        text += marker + own
    require(parts, f"{where}: a conversation without messages")
    return parts


def prompt_of(messages, where):
    """A conversation whose last word the user has, as the text to which the assistant's answer is to come."""
    role, before, own = transcript(messages, where)[-1]
    if role != "user":
        raise LeftOut("a prompt whose last message is not the user's")
    return before + own + ASSISTANT


def without_first_turn(prompt):
    """A transcript without its oldest exchange; None of one that has no two."""
    first = prompt.find(HUMAN)
    second = prompt.find(HUMAN, first + 1)
    return prompt[:first] + prompt[second:] if 0 <= first < second else None


def conversation(row, kind, where):
    """Every answer in it is a demonstration; a prompt is what comes before the last, or all where the user ends it."""
    messages = row["messages"]
    others = {name: value for name, value in row.items() if name != "messages"}
    parts = transcript(messages, where)
    if kind == "text":
        yield others | {"text": parts[-1][1] + parts[-1][2]}
    elif kind == "prompt":
        whole = messages if parts[-1][0] == "user" else messages[:-1]
        yield others | {"prompt": prompt_of(whole, where)}
    else:
        answers = [(before, own) for role, before, own in parts if role == "assistant"]
        if not answers:
            raise LeftOut("a conversation without an answer")
        for before, own in answers:
            yield others | {"prompt": before, "response": own}


# --- shapes ----------------------------------------------------------------------------------------------------------
# Each takes a record, the kind that is wanted, and where it stands; it yields records of ours or, for what is left out,
# the reason, as text (or raises it as LeftOut).


def ours(row, kind, where):
    if isinstance(row.get("prompt"), list):  # TRL's conversational prompt, with or without a completion
        messages, answer = row["prompt"], row.get("completion", [])
        with_answer = messages + answer if isinstance(answer, list) else None
        row = {name: value for name, value in row.items() if name not in ("prompt", "completion")}
        yield from conversation(row | {"messages": with_answer}, kind, where)
    elif "completion" in row and "response" not in row:
        if row.get("label") is False and kind == "demonstration":  # TRL's unpaired preferences
            raise LeftOut("an answer that somebody found bad")
        yield row | {"response": row["completion"]}
    else:
        yield row


def ranked_conversation(row, kind, where):
    """{"messages", "responses", "ranks"}: the responses are what the assistant might have said next."""
    responses = row["responses"]
    listed = isinstance(responses, list) and all(isinstance(r, str) for r in responses)
    require(listed, f"{where}: 'responses' must be a list of strings")
    prompt = prompt_of(row["messages"], where)
    others = {name: value for name, value in row.items() if name != "messages"}
    yield others | {"prompt": prompt, "responses": [text and f" {text}" for text in responses]}


def pair(row, kind, where):
    """{"chosen", "rejected"} with a prompt or, as in HH-RLHF, with what both begin with; texts, or TRL's messages."""
    chosen, rejected, prompt = row["chosen"], row["rejected"], row.get("prompt")
    if isinstance(chosen, list):
        before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt or []
        both = [answer if isinstance(answer, list) else None for answer in (chosen, rejected)]
        said = any(isinstance(m, dict) and m.get("role") == "user" for m in chosen)  # the prompt is in them already
        (*first, (_, prompt, chosen)), (*second, (_, other, rejected)) = (
            transcript(answer if said or answer is None else before + answer, where) for answer in both
        )
        same = first == second and prompt == other and prompt.endswith(ASSISTANT)
        require(same, f"{where}: chosen and rejected must differ in the assistant's last message alone")
    strings = isinstance(chosen, str) and isinstance(rejected, str)
    require(strings, f"{where}: chosen and rejected must be strings, or both lists of messages")
    if prompt is None:
        shared = os.path.commonprefix([chosen, rejected])
        end = shared.rfind(ASSISTANT) + len(ASSISTANT)
        require(ASSISTANT in shared, f"{where}: chosen and rejected share no prompt that ends in {ASSISTANT!r}")
        prompt, chosen, rejected = shared[:end], chosen[end:], rejected[end:]
    elif isinstance(prompt, str) and prompt and chosen.startswith(prompt) and rejected.startswith(prompt):
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    if chosen == rejected and kind == "ranking":
        raise LeftOut("chosen and rejected are the same")
    yield row | {"prompt": prompt, "response": chosen, "responses": [chosen, rejected], "ranks": [1, 2]}


def alpaca(row, kind, where):
    yield _instruction(row, row.get("input", ""), row["output"], where)


def self_instruct(row, kind, where):
    """A task with several instances: a demonstration each."""
    instances = row["instances"]
    right = isinstance(instances, list) and all(isinstance(i, dict) and "output" in i for i in instances)
    require(right, f"{where}: 'instances' must be a list of objects with input and output")
    for instance in instances:
        yield _instruction(row, instance.get("input", ""), instance["output"], where)


def _instruction(row, given, output, where):
    parts = [row["instruction"], given, ""]
    require(all(isinstance(p, str) for p in parts), f"{where}: instruction and input must be strings")
    return row | {"prompt": "\n".join(p for i, p in enumerate(parts) if p or i != 1), "response": output}


def nectar(row, kind, where):
    """Seven answers to a transcript, each with its rank."""
    answers = _objects(row, "answers", ("answer", "rank"), where)
    prompt = row["prompt"].rstrip() if isinstance(row["prompt"], str) else ""
    require(prompt.endswith(ASSISTANT), f"{where}: the prompt must be a transcript that ends in {ASSISTANT!r}")
    yield _ranked(prompt, [(a["answer"], a["rank"]) for a in answers], kind)


def ultrafeedback(row, kind, where):
    """Four completions of an instruction, each with a score from 1 to 10; equal scores are a tie."""
    completions = _objects(row, "completions", ("response", "overall_score"), where)
    prompt = prompt_of([{"role": "user", "content": row["instruction"]}], where)
    scored = [(c["response"], _negative(c["overall_score"])) for c in completions]
    yield _ranked(prompt, scored, kind)


def tldr(row, kind, where):
    """Two summaries of a Reddit post or an article, and which one somebody chose (Stiennon et al. 2020)."""
    summaries, info = _objects(row, "summaries", ("text",), where), row["info"]
    right = isinstance(info, dict) and len(summaries) == 2
    require(right, f"{where}: 'info' must be an object, and 'summaries' hold two")
    said = {name: value for name, value in info.items() if isinstance(value, str)}
    if "post" in said:
        head = f"SUBREDDIT: r/{said.get('subreddit', '')}\n\nTITLE: {said.get('title', '')}\n\nPOST: {said['post']}"
    elif "article" in said:
        head = f"TITLE: {said.get('title', '')}\n\nARTICLE: {said['article']}"
    else:
        raise LeftOut("neither a post nor an article")
    if row.get("choice") not in (0, 1):
        raise LeftOut("nobody chose")
    yield _ranked(f"{head}\n\nTL;DR:", [(s["text"], i != row["choice"]) for i, s in enumerate(summaries)], kind)


def shp(row, kind, where):
    """Two comments on a Reddit post, and which the readers voted up."""
    prompt = prompt_of([{"role": "user", "content": row["history"]}], where)
    require(row["labels"] in (0, 1), f"{where}: 'labels' must be 1 (A is preferred) or 0")
    a_loses = row["labels"] == 0
    yield _ranked(prompt, [(row["human_ref_A"], a_loses), (row["human_ref_B"], not a_loses)], kind)


def openassistant(row, kind, where):
    """A tree: people's messages and the assistant's replies, ranked from 0. The best reply is a demonstration."""

    def visit(node, said, depth=0):
        right = isinstance(node, dict) and node.get("role") in ("prompter", "assistant")
        right = right and isinstance(node.get("text"), str) and isinstance(node.get("replies") or [], list)
        require(right and depth < 200, f"{where}: a message needs a role, a text and its replies")
        if refused(node):
            yield "deleted, or refused in review"
            return
        role = "user" if node["role"] == "prompter" else "assistant"
        said, replies = [*said, {"role": role, "content": node["text"]}], node.get("replies") or []
        if role == "user":
            yield answered(prompt_of(said, where), [r for r in replies if isinstance(r, dict) and not refused(r)])
        for reply in replies:
            yield from visit(reply, said, depth + 1)

    def refused(node):
        return bool(node.get("deleted")) or node.get("review_result") is False

    def answered(prompt, replies):
        texts = [r["text"] for r in replies if isinstance(r.get("text"), str)]
        ranked = [
            (r["text"], r["rank"]) for r in replies if isinstance(r.get("text"), str) and is_number(r.get("rank"))
        ]
        if len(ranked) > 1 or kind == "prompt":
            return _ranked(prompt, sorted(ranked, key=lambda reply: reply[1])[:9], kind)
        if kind == "demonstration" and len(texts) == 1:
            return {"prompt": prompt, "response": f" {texts[0].strip()}"}
        return "no two answers are ranked" if texts else "not answered"

    yield from visit(row["prompt"], [])


def trees(messages):
    """Yields ("file:line", tree) from OpenAssistant's messages, {"file:line": row}, each of which names its parent."""
    replies = defaultdict(list)
    for where, row in messages.items():
        named = isinstance(row["message_id"], str) and isinstance(row.get("parent_id"), str | None)
        require(named, f"{where}: message_id must be a string, and parent_id one or null")
        replies[row.get("parent_id")].append(row)
    for where, row in messages.items():
        if row.get("parent_id") is None:
            stack = [row]
            while stack:
                node = stack.pop()
                node["replies"] = replies.pop(
                    node["message_id"], []
                )  # once: a circle has no root, and a twin no replies
                stack += node["replies"]
            yield where, {"prompt": row}


def _objects(row, field, names, where):
    """The objects listed in a field, each of which has these names."""
    objects = row[field]
    right = isinstance(objects, list) and all(isinstance(o, dict) and set(names) <= o.keys() for o in objects)
    require(right, f"{where}: {field!r} must be a list of objects with {' and '.join(names)}")
    return objects


def _ranked(prompt, answers, kind):
    """A ranking of (text, the less the better) pairs, equal numbers a tie; the best is a demonstration too."""
    if kind == "prompt":
        return {"prompt": prompt}
    if not all(isinstance(text, str) and is_number(place) for text, place in answers):
        raise LeftOut("an answer without text or score")
    if not 2 <= len(answers) <= 9:
        raise LeftOut(f"{len(answers)} answers, and a ranking has 2 to 9")
    places = sorted({place for _, place in answers})
    ranks = [places.index(place) + 1 for _, place in answers]
    texts = [f" {text.strip()}" if text.strip() else "" for text, _ in answers]  # as after "Assistant:"
    return {"prompt": prompt, "response": texts[ranks.index(1)], "responses": texts, "ranks": ranks}


def is_number(value):
    return isinstance(value, (int, float)) and abs(value) < 1e9  # which no infinite number is, and no NaN


def _negative(score):
    return -score if is_number(score) else None


SHAPES = (  # (name, the fields by which it is known, what reads it), the first that fits; None: put together by trees()
    ("ours", {"messages", "responses", "ranks"}, ranked_conversation),
    ("ours", {"prompt", "responses", "ranks"}, ours),
    ("an OpenAssistant tree", {"message_tree_id", "prompt"}, openassistant),
    ("OpenAssistant messages", {"message_id", "role", "text"}, None),
    ("Nectar", {"prompt", "answers", "num_responses"}, nectar),
    ("UltraFeedback", {"instruction", "completions"}, ultrafeedback),
    ("TL;DR comparisons", {"info", "summaries"}, tldr),
    ("SHP", {"history", "human_ref_A", "human_ref_B", "labels"}, shp),
    ("chosen and rejected", {"chosen", "rejected"}, pair),
    ("conversations", {"messages"}, conversation),
    ("Alpaca", {"instruction", "output"}, alpaca),
    ("self-instruct", {"instruction", "instances"}, self_instruct),
    ("ours", set(), ours),
)


def shape_of(row):
    """(name, function) of the shape that a record has."""
    there = {name for name, value in row.items() if value is not None}  # parquet files have nulls for what is not there
    return next((name, shape) for name, fields, shape in SHAPES if fields <= there)
