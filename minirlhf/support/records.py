"""Reads records from files, checks them, and encodes them as token ids. data/README.md shows every format.

    document      {"text"}                            all of its tokens are learned
    demonstration {"prompt", "response"}              the response's are
    ranking       {"prompt", "responses", "ranks"}    K = 2 to 9 responses, rank 1 is best, equal ranks are ties
    prompt        {"prompt"}

Other people's records become these in formats.py. Prompt and response are encoded separately and concatenated, at
every stage; a response ends with end-of-text."""

import functools
import math
from collections import Counter, defaultdict

import numpy as np

from . import formats, rows
from .chats import HUMAN, LeftOut, without_turns
from .distributed import print0
from .errors import InputError, require
from .marks import says_bad
from .progress import progress
from .tokens import Documents, Encoder, Joined, Ranking, Records, Sequence, is_encoded, open_encoded  # noqa: F401

FITS, SHORTENED = 1, 2  # what may be said of a record; 0 if it is too long
MANY = 20_000  # records whose encoding shows its progress


def read(path, kind):
    """The records of a file as a list of dicts of that kind ("document", ...), with any other fields kept. Prints how
    many rows were left out, and why. Raises InputError with file and line on a row that is no such record, and if none
    is left."""
    return list(convert(path, kind))


def texts(path):
    """Yields every text in a file of any kind of record, for training a tokenizer."""
    for record in convert(path, "text"):
        responses = record.get("responses")
        fields = [record.get("text"), record.get("prompt")]
        fields += responses if isinstance(responses, list) else [record.get("response")]
        yield from (field for field in fields if isinstance(field, str))


def convert(path, kind):
    """Yields the records of a kind, or of any kind ("text"), of a file, a folder or a pattern."""
    shapes, kept, left_out = Counter(), 0, {}  # left_out: {reason: [how many, where the first is]}
    require(not is_encoded(path), f"{path}: holds token ids, and text is needed here; give the file it was made from")

    def leave_out(reason, where):
        left_out.setdefault(reason, [0, where])[0] += 1

    for where, row, shape in shaped_rows(path, kind, shapes):
        try:
            if kind == "demonstration" and says_bad(row):
                raise LeftOut("an answer that is labelled as bad")
            for record in shape.records(row, kind):
                fault = record if isinstance(record, str) else fault_of(record, kind, where, shape)
                if fault:
                    leave_out(fault, where)
                else:
                    kept += 1
                    yield record
        except LeftOut as error:
            leave_out(str(error), where)
    reasons = sorted(left_out.items(), key=lambda item: -item[1][0])
    foreign = " and ".join(sorted(shapes.keys() - {"ours"}))
    if foreign or left_out:
        listed = "".join(f"; left out {n:,}: {reason} (first: {where})" for reason, (n, where) in reasons)
        print0(f"{path}: {foreign and foreign + ': '}{kept:,} {kind}s from {shapes.total():,} records{listed}")
    if not kept and kind != "text":
        reason, (_, where) = reasons[0] if reasons else (f"no records in it; a {kind} a line is needed", (0, path))
        raise InputError(f"{where}: {reason}; no {kind} is left of {path} (data/README.md)")


def shaped_rows(path, kind, shapes):
    """Yields ("file:line", row, its Shape), and counts the shapes."""
    gathered = defaultdict(dict)
    if names := rows.skipped(path):
        print0(f"{path}: {', '.join(names[:9])}{' ...' if len(names) > 9 else ''} not read; name files to have others")
    for where, row in rows.rows(path, formats.wanted):
        row = formats.unpacked(row)
        shape = formats.shape_of(row, kind)
        shapes[shape.name] += 1
        if shape.gather:
            gathered[shape.name][where] = row  # rows that belong together may stand anywhere in a file
        else:
            yield where, row, shape
    for shape in formats.SHAPES:
        if shape.name in gathered:
            yield from ((where, row, shape) for where, row in shape.gather(gathered[shape.name]))


def fault_of(record, kind, where, shape):
    """The reason why a record is left out, or None. Raises InputError if one of our own is not of this kind."""
    for field in formats.FIELDS[kind]:
        value, needed = record.get(field), "a list of strings" if field == "responses" else "a string"
        if not (formats.are_strings(value) if field == "responses" else isinstance(value, str)):
            if shape.name != "ours" or (field in record and value is None):
                return f"no {field}"
            fault = f"{where}: field {field!r} is missing or not {needed}"
            require(field not in record, f"{fault}: it is {type(value).__name__}")
            found = ", ".join(record) or "no field that is known here"
            advice = f"rename its fields to {' and '.join(formats.FIELDS[kind])}, or see the shapes in data/README.md"
            raise InputError(f"{fault}; it has {found}; {advice}")
        if field != "responses" and not value.strip():
            return f"an empty {'answer' if field == 'response' else field}"
    if kind == "ranking":
        n, ranks = len(record["responses"]), record.get("ranks")
        require(2 <= n <= 9, f"{where}: {n} responses; a ranking has 2 to 9")
        if not isinstance(ranks, list) or not all(type(r) is int and 0 < r < 10**6 for r in ranks):
            raise InputError(f"{where}: 'ranks' must be a list of positive integers, 1 the best")
        require(len(ranks) == n, f"{where}: {len(ranks)} ranks for {n} responses; ranks[i] is that of responses[i]")
    answers = record["responses"] if kind == "ranking" else [record["response"]] if kind == "demonstration" else []
    if any(HUMAN in answer for answer in answers):
        return "an answer with a turn of the other side"
    return None


def pack(records, tokenizer, n_ctx):
    """Documents, each ended by end-of-text, concatenated and cut into Sequences of n_ctx + 1 tokens (tokens.py)."""
    return Documents([encode(records, "document", tokenizer)[0]["tokens"]], n_ctx)


def arrays_of(path, kind, tokenizer, limit=math.inf):
    """The arrays (tokens.py) of the records of a file, or of a folder that tools.encode has written."""
    if is_encoded(path):
        return open_encoded(path, kind, tokenizer, None if kind == "document" else limit)
    records = read(path, kind)
    shown = (record for _, record in progress(records, f"{path}: encoding")) if len(records) > MANY else records
    arrays, fits = encode(shown, kind, tokenizer, limit)
    tell(Counter(fits), kind, limit, path)
    return arrays


def encode_response(prompt, response, tokenizer):
    """The Sequence of prompt + response + end-of-text."""
    prompt = tokenizer.encode(prompt)
    return Sequence(np.array([*prompt, *tokenizer.encode(response), tokenizer.eos], np.int32), len(prompt))


def encode_demonstrations(records, tokenizer, n_ctx, where=""):
    """Sequences of prompt + response + end-of-text, of at most n_ctx tokens."""
    return encode_fitting(records, "demonstration", tokenizer, n_ctx, where)[1]


def encode_rankings(records, tokenizer, n_ctx, where=""):
    """Rankings whose longest prompt + response + end-of-text has at most n_ctx tokens."""
    return encode_fitting(records, "ranking", tokenizer, n_ctx, where)[1]


def encode_prompts(records, tokenizer, limit, where=""):
    """(records, their token lists) of the prompts that have at most `limit` tokens."""
    return encode_fitting(records, "prompt", tokenizer, limit, where)


def encode_fitting(records, kind, tokenizer, limit, where=""):
    """(records, Records) of those that fit in `limit` tokens. Prints how many do not, or lost their oldest turns."""
    arrays, fits = encode(records, kind, tokenizer, limit)
    tell(Counter(fits), kind, limit, where)
    return [record for record, fit in zip(records, fits) if fit], Records(kind, **arrays)


def encode(records, kind, tokenizer, limit=math.inf):
    """The arrays of records (tokens.Encoder), and for each record whether it fits in `limit` tokens: FITS, SHORTENED,
    or 0. Documents have no limit. A long conversation loses as many of its oldest turns as must go; if it is still too
    long, it is left out."""
    encoder, fits = Encoder(tokenizer), []
    count = functools.lru_cache(10_000)(lambda text: len(tokenizer.encode(text)))  # turns stand in several records
    for record in records:
        if kind == "document":
            end = [] if record.get(rows.MORE) else [tokenizer.eos]
            encoder.add([[*tokenizer.encode(record["text"]), *end]])
            continue
        texts = record["responses"] if kind == "ranking" else [record["response"]] if kind == "demonstration" else []
        responses = [[*tokenizer.encode(text), tokenizer.eos] for text in texts]
        room = limit - max(map(len, responses), default=0)
        prompt, fit = fitting(record["prompt"], room, limit, tokenizer, count)
        fits.append(fit)
        if fit:
            encoder.add([prompt, *responses], record["ranks"] if kind == "ranking" else [0] * len(responses))
    return encoder.arrays(), fits


def fitting(prompt, room, limit, tokenizer, count):
    """(tokens, FITS, SHORTENED or 0) of a prompt that may have `room` tokens."""
    n = 0  # exchanges that it loses
    if len(prompt) > limit and prompt.count(HUMAN) > 1:
        n = turns_to_drop(prompt, room, count)
    tokens = tokenizer.encode(without_turns(prompt, n))
    while n and len(tokens) <= room and len(more := tokenizer.encode(without_turns(prompt, n - 1))) <= room:
        n, tokens = n - 1, more
    while len(tokens) > room and (shorter := without_turns(prompt, n + 1)):
        n, tokens = n + 1, tokenizer.encode(shorter)
    return tokens, 0 if len(tokens) > room else SHORTENED if n else FITS


def tell(fits, kind, limit, where):
    """Prints how many records of those that were encoded do not fit, or were shortened. InputError if none fits. fits:
    a Counter of FITS, SHORTENED and 0."""
    shortened, dropped, total = fits[SHORTENED], fits[0], fits.total()
    if shortened:
        print0(f"{where}: {shortened} of {total} {kind}s lost their oldest turns, to fit in {limit} tokens")
    if dropped:
        print0(f"{where}: dropped {dropped} of {total} {kind}s, longer than {limit} tokens")
    advice = "take a smaller --max_response, or a longer context" if kind == "prompt" else "use a longer context"
    require(dropped < total or not total, f"{where}: none of its {kind}s fits in {limit} tokens; {advice}")


def turns_to_drop(prompt, room, count):
    """About how many of its oldest exchanges a transcript must lose to fit in `room` tokens: by the sum of its turns'
    tokens, from the last one back, so that a long conversation is not encoded over and over. count: text to tokens."""
    turns, end, tokens = prompt.count(HUMAN), len(prompt), count(prompt[: prompt.find(HUMAN)])
    for kept in range(turns):
        begin = prompt.rfind(HUMAN, 0, end)
        tokens += count(prompt[begin:end])
        if tokens > room:
            return min(turns - kept, turns - 1)
        end = begin
    return 0


def load_documents(paths, tokenizer, n_ctx):
    """The Sequences of documents, of files or folders that tools.encode has written."""
    documents = Documents([arrays_of(path, "document", tokenizer)["tokens"] for path in paths], n_ctx)
    documents.vocabulary, documents.where = tokenizer.n_vocab, ", ".join(map(str, paths))
    return documents


def load_demonstrations(paths, tokenizer, n_ctx):
    """The Sequences of demonstrations of at most n_ctx tokens, of files or folders as above."""
    return load(paths, "demonstration", tokenizer, n_ctx)


def load_rankings(paths, tokenizer, n_ctx):
    """The Rankings of at most n_ctx tokens, of files or folders as above."""
    return load(paths, "ranking", tokenizer, n_ctx)


def load_prompts(paths, tokenizer, n_ctx, max_response):
    """The token lists of prompts, of files or folders as above, that leave room in n_ctx for max_response tokens."""
    room, fault = n_ctx - max_response, f"leaves no room for a prompt in a context of {n_ctx} tokens"
    require(room > 0, f"--max_response {max_response} {fault}; take less than {n_ctx}")
    return load(paths, "prompt", tokenizer, room)


def load(paths, kind, tokenizer, limit):
    parts = [Records(kind, **arrays_of(path, kind, tokenizer, limit)) for path in paths]
    for part, path in zip(parts, paths):
        part.vocabulary, part.where = tokenizer.n_vocab, path
    return Joined(parts)
