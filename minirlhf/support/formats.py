"""Reads other people's records and turns them into ours. data/README.md lists the formats and what each becomes.

A file is JSON lines (plain or .gz) or parquet, or a folder of these. The fields of a record tell its format. It may
become several of ours, as a conversation becomes a demonstration for each answer in it, or none: how many were kept
and left out, and why, is printed. Chat messages become one text, a transcript, in HH-RLHF's format:

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

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
FILES = (".jsonl", ".jsonl.gz", ".parquet")  # what is read of a folder
SPLITS = {"train", "validation", "valid", "val", "dev", "test"}


class LeftOut(Exception):
    """The reason why a valid record becomes none of ours."""


def records(path, kind):
    """Yields ("file:line", record) for each record of a kind ("demonstration", ...; or "text", for any) in a file or a
    folder. The caller checks the values. Raises InputError for a record that is not of the format its fields name."""
    formats, kept, left_out = Counter(), 0, Counter()

    def rows_and_trees():
        messages = {}
        for where, row in rows(path, kind):
            fields = {name for name, value in row.items() if value is not None}  # parquet has null for a missing field
            name, convert = next((name, convert) for name, needed, convert in FORMATS if needed <= fields)
            formats[name] += 1
            if convert:
                yield where, row, convert
            else:
                messages[where] = row  # the messages of a tree may stand anywhere in a file
        for where, tree in trees(messages):
            yield where, tree, openassistant

    for where, row, convert in rows_and_trees():
        try:
            for result in convert(row, kind, where):  # a record of ours, or the reason why one was left out
                if isinstance(result, str):
                    left_out[result] += 1
                elif convert is not ours and kind == "demonstration" and result.get("response") in ("", " "):
                    left_out["an empty answer"] += 1
                else:
                    kept += 1
                    yield where, result
        except LeftOut as error:
            left_out[str(error)] += 1
    if foreign := sorted(formats.keys() - {"ours"}):
        reasons = "".join(f"; left out {n:,}: {reason}" for reason, n in left_out.most_common())
        print0(f"{path}: {' and '.join(foreign)}: {kept:,} {kind}s from {formats.total():,} records{reasons}")


def rows(path, kind):
    """Yields ("file:line", dict) for each record of a file or a folder, as it stands. A .txt file is one document."""
    for file in files(path):
        if str(file).endswith(".parquet"):
            yield from parquet_rows(file)
            continue
        if str(file).endswith(".txt") and kind in ("document", "text"):
            yield str(file), {"text": "\n".join(text for _, text in lines(file))}
            continue
        for where, line in lines(file):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where}: not JSON ({error}); each line must be one JSON object") from None
            require(isinstance(record, dict), f"{where}: a JSON object is needed, {type(record).__name__} found")
            yield where, record


def files(path):
    """The path itself if it is a file, the data files in it if it is a folder."""
    if not os.path.isdir(path):
        return [path]
    found = sorted(str(file) for file in Path(path).iterdir() if file.name.endswith(FILES))
    require(found, f"{path}: no file in this folder ends in {', '.join(FILES)}; name the files")
    stems = {re.split("[-.]", os.path.basename(file))[0] for file in found}  # train_sft of train_sft-00000-of-00003
    splits = sorted(stem for stem in stems if SPLITS & set(stem.split("_")))
    require(len(splits) < 2, f"{path}: holds {' and '.join(splits)} data; name the files of one of them")
    return found


def lines(path):
    """Yields ("file:line", text) for each line of a text file, which may be gzipped."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path}: a folder or a pipe; give a file, since a run that is resumed reads it again")
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield f"{path}:{number}", line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        where = f"{path}:{number}: byte {error.start + 1}"
        raise InputError(f"{where} is not UTF-8; convert the file to UTF-8") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error}); is it complete, and what its name says?") from None


def parquet_rows(path):
    try:
        from pyarrow import parquet
    except ImportError:
        raise InputError(f'{path}: reading parquet needs pyarrow; pip install "minirlhf[parquet]"') from None
    require(os.path.isfile(path), f"{path}: no such file")
    with reraise(f"{path}: not a complete parquet file; download it again"):
        batches = parquet.ParquetFile(path).iter_batches(batch_size=1000)
        for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), 1):
            yield f"{path}:{number}", row


def transcript(messages, where):
    """[(role, before, own)] of chat messages. `own` is a message's text in the transcript, `before` all before it."""
    parts, text = [], ""
    for message in messages if isinstance(messages, list) else [None]:
        complete = isinstance(message, dict) and "content" in message
        role, content = (message.get("role"), message["content"]) if complete else (None, None)
        if role in ("tool", "function", "developer") or (isinstance(role, str) and content is None):
            raise LeftOut("a tool's or a developer's message, or one without content")
        if role not in ("system", "user", "assistant") or not isinstance(content, str):
            raise InputError(f"{where}: a message needs a role (system, user, assistant) and a string content")
        if role == "system":
            before, own = text + "\n\n" if text else "", content
        else:
            before, own = text + (HUMAN if role == "user" else ASSISTANT), content and f" {content}"
        parts.append((role, before, own))
        text = before + own
    require(parts, f"{where}: a conversation without messages")
    return parts


def prompt_of(messages, where):
    """The transcript of a conversation that the user's message ends, up to where the assistant's answer begins."""
    role, before, own = transcript(messages, where)[-1]
    if role != "user":
        raise LeftOut("a prompt whose last message is not the user's")
    return before + own + ASSISTANT


def without_first_turn(prompt):
    """A transcript without its oldest exchange, or None if it has only one."""
    first = prompt.find(HUMAN)
    second = prompt.find(HUMAN, first + 1)
    return prompt[:first] + prompt[second:] if 0 <= first < second else None


# --- formats ---------------------------------------------------------------------------------------------------------
# Each function takes a record, the kind that is wanted, and "file:line". It yields records of ours. For what is left
# out it yields the reason as a string, or raises LeftOut, which leaves out the rest of the record.


def ours(row, kind, where):
    """Our records, and TRL's {"prompt", "completion"} with texts or lists of messages."""
    if isinstance(row.get("prompt"), list):
        prompt, answer = row.pop("prompt"), row.pop("completion", [])
        row["messages"] = prompt + answer if isinstance(answer, list) else None
        yield from conversation(row, kind, where)
    elif "completion" in row and "response" not in row:
        if row.get("label") is False and kind == "demonstration":  # TRL's unpaired preferences
            raise LeftOut("an answer labelled as bad")
        yield row | {"response": row["completion"]}
    else:
        yield row


def conversation(row, kind, where):
    """Each answer is a demonstration. As a prompt: all up to the last message of the user."""
    messages = row.pop("messages")
    parts = transcript(messages, where)
    last_role, before, own = parts[-1]
    if kind == "text":
        yield row | {"text": before + own}
    elif kind == "prompt":
        yield row | {"prompt": prompt_of(messages if last_role == "user" else messages[:-1], where)}
    elif all(role != "assistant" for role, _, _ in parts):
        raise LeftOut("a conversation without an answer")
    else:
        for role, before, own in parts:
            if role == "assistant":
                yield row | {"prompt": before, "response": own}


def ranked_conversation(row, kind, where):
    """{"messages", "responses", "ranks"}: the responses are candidates for the assistant's next message."""
    responses = strings(row, "responses", where)
    prompt = prompt_of(row.pop("messages"), where)
    yield row | {"prompt": prompt, "responses": [text and f" {text}" for text in responses]}


def pair(row, kind, where):
    """{"chosen", "rejected"} with a prompt or, as in HH-RLHF, beginning with the same one; texts, or TRL's messages."""
    chosen, rejected, prompt = row["chosen"], row["rejected"], row.get("prompt")
    if isinstance(chosen, list) and isinstance(rejected, list):
        before = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        if prompt is None or any(isinstance(m, dict) and m.get("role") == "user" for m in chosen):
            before = []  # chosen and rejected contain the prompt
        *first, (_, prompt, chosen) = transcript(before + chosen, where)
        *second, (_, other_prompt, rejected) = transcript(before + rejected, where)
        if first != second or prompt != other_prompt or not prompt.endswith(ASSISTANT):
            raise InputError(f"{where}: chosen and rejected must differ only in the last message, the assistant's")
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise InputError(f"{where}: chosen and rejected must be strings, or both lists of messages")
    if prompt is None:
        shared = os.path.commonprefix([chosen, rejected])
        require(ASSISTANT in shared, f"{where}: chosen and rejected share no prompt that ends in {ASSISTANT!r}")
        prompt = shared[: shared.rfind(ASSISTANT) + len(ASSISTANT)]
    if isinstance(prompt, str) and chosen.startswith(prompt) and rejected.startswith(prompt):
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    if chosen == rejected and kind == "ranking":
        raise LeftOut("chosen and rejected are the same")
    yield row | {"prompt": prompt, "response": chosen, "responses": [chosen, rejected], "ranks": [1, 2]}


def instruction(row, kind, where):
    """Alpaca's {"instruction", "input", "output"}, or self-instruct's task with several "instances" of the last two."""
    instances = [row] if row.get("output") is not None else objects(row, "instances", ("output",), where)
    for instance in instances:
        text, given = row["instruction"], instance.get("input", "")
        if not isinstance(text, str) or not isinstance(given, str):
            raise InputError(f"{where}: instruction and input must be strings")
        yield row | {"prompt": f"{text}\n{given}\n" if given else f"{text}\n", "response": instance["output"]}


def nectar(row, kind, where):
    """Seven answers to a transcript, each with its rank."""
    answers = objects(row, "answers", ("answer", "rank"), where)
    prompt = row["prompt"].rstrip() if isinstance(row["prompt"], str) else ""
    require(prompt.endswith(ASSISTANT), f"{where}: the prompt must be a transcript that ends in {ASSISTANT!r}")
    yield ranked(prompt, [(a["answer"], a["rank"]) for a in answers], kind)


def ultrafeedback(row, kind, where):
    """Four completions of an instruction, each with a score from 1 to 10; equal scores are a tie."""
    completions = objects(row, "completions", ("response", "overall_score"), where)
    prompt = prompt_of([{"role": "user", "content": row["instruction"]}], where)
    answers = [(c["response"], c["overall_score"]) for c in completions]
    yield ranked(prompt, [(text, -score if is_number(score) else None) for text, score in answers], kind)


def tldr(row, kind, where):
    """Two summaries of a Reddit post or an article, of which people chose one (Stiennon et al. 2020)."""
    summaries, info = objects(row, "summaries", ("text",), where), row["info"]
    require(isinstance(info, dict) and len(summaries) == 2, f"{where}: 'info' must be an object, 'summaries' hold two")
    info = {name: value for name, value in info.items() if isinstance(value, str)}
    text = f"TITLE: {info.get('title', '')}"
    if "post" in info:
        text = f"SUBREDDIT: r/{info.get('subreddit', '')}\n\n{text}\n\nPOST: {info['post']}"
    elif "article" in info:
        text = f"{text}\n\nARTICLE: {info['article']}"
    else:
        raise LeftOut("neither a post nor an article")
    if row.get("choice") not in (0, 1):
        raise LeftOut("neither was chosen")
    yield ranked(f"{text}\n\nTL;DR:", [(s["text"], i != row["choice"]) for i, s in enumerate(summaries)], kind)


def shp(row, kind, where):
    """Two comments on a Reddit post, of which readers preferred one."""
    prompt = prompt_of([{"role": "user", "content": row["history"]}], where)
    require(row["labels"] in (0, 1), f"{where}: 'labels' must be 1 (A is preferred) or 0")
    yield ranked(prompt, [(row["human_ref_A"], 1 - row["labels"]), (row["human_ref_B"], row["labels"])], kind)


def openassistant(row, kind, where):
    """A tree of people's messages and the assistant's replies, ranked from 0. The best reply is a demonstration."""

    def refused(node):
        return bool(node.get("deleted")) or node.get("review_result") is False

    stack = [(row["prompt"], [])]  # messages to visit, each with the conversation before it
    while stack:
        node, before = stack.pop()
        right_role = isinstance(node, dict) and node.get("role") in ("prompter", "assistant")
        if not right_role or not isinstance(node.get("text"), str) or not isinstance(node.get("replies") or [], list):
            raise InputError(f"{where}: a message needs a role, a text and its replies")
        require(len(before) < 200, f"{where}: a reply stands below 200 others; at most 200 are read")
        if refused(node):
            yield "deleted, or refused in review"
            continue
        role, replies = "user" if node["role"] == "prompter" else "assistant", node.get("replies") or []
        conversation = [*before, {"role": role, "content": node["text"]}]
        stack += [(reply, conversation) for reply in reversed(replies)]  # the first reply is visited first
        if role == "user":
            answers = [r for r in replies if isinstance(r, dict) and isinstance(r.get("text"), str) and not refused(r)]
            with_rank = sorted((a for a in answers if is_number(a.get("rank"))), key=lambda a: a["rank"])
            prompt = prompt_of(conversation, where)
            if len(with_rank) > 1 or kind == "prompt":
                yield ranked(prompt, [(a["text"], a["rank"]) for a in with_rank[:9]], kind)
            elif kind == "demonstration" and len(answers) == 1:
                yield {"prompt": prompt, "response": f" {answers[0]['text'].strip()}"}
            else:
                yield "no two answers are ranked" if answers else "not answered"


def trees(messages):
    """Yields ("file:line", tree) from OpenAssistant's messages {"file:line": row}, each of which names its parent."""
    replies = defaultdict(list)
    for where, row in messages.items():
        if not isinstance(row["message_id"], str) or not isinstance(row.get("parent_id"), str | None):
            raise InputError(f"{where}: message_id must be a string, and parent_id a string or null")
        replies[row.get("parent_id")].append(row)
    for row in messages.values():
        row["replies"] = replies.pop(row["message_id"], [])  # pop: of two messages with one id only one has the replies
    yield from ((where, {"prompt": row}) for where, row in messages.items() if row.get("parent_id") is None)


def strings(row, field, where):
    """The list of strings in a field."""
    if not isinstance(row.get(field), list) or not all(isinstance(text, str) for text in row[field]):
        raise InputError(f"{where}: {field!r} must be a list of strings")
    return row[field]


def objects(row, field, names, where):
    """The list of objects in a field, each of which must have these names."""
    if not isinstance(row[field], list) or not all(isinstance(o, dict) and set(names) <= o.keys() for o in row[field]):
        raise InputError(f"{where}: {field!r} must be a list of objects with {' and '.join(names)}")
    return row[field]


def ranked(prompt, answers, kind):
    """A ranking of pairs (text, number), the lowest number best; the best text is also a demonstration's response."""
    if kind == "prompt":
        return {"prompt": prompt}
    if not all(isinstance(text, str) and is_number(number) for text, number in answers):
        raise LeftOut("an answer without text or score")
    if not 2 <= len(answers) <= 9:
        raise LeftOut(f"{len(answers)} answers, and a ranking has 2 to 9")
    numbers = sorted({number for _, number in answers})
    ranks = [numbers.index(number) + 1 for _, number in answers]
    texts = [f" {text.strip()}" if text.strip() else "" for text, _ in answers]  # as after "Assistant:"
    return {"prompt": prompt, "response": texts[ranks.index(1)], "responses": texts, "ranks": ranks}


def is_number(value):
    return isinstance(value, (int, float)) and abs(value) < 1e9  # False for infinity and NaN


FORMATS = (  # (name, fields, function): the first whose fields a record has. None: trees() collects the messages
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
    ("Alpaca", {"instruction", "output"}, instruction),
    ("self-instruct", {"instruction", "instances"}, instruction),
    ("ours", set(), ours),
)
