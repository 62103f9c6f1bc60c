"""Stores what labelers submit in JSON lines files, and chooses which prompt each labeler is asked next.

    OUT.jsonl                 rankings, as train_rm.py reads them; responses in the order in which they were shown
    OUT-demonstrations.jsonl  better answers that labelers wrote, as train_sft.py reads them
    OUT-skipped.jsonl         prompts that a labeler skipped

Each line is synced to the disk before it is acknowledged. A correction rewrites the file. The next prompt depends on
these files alone: after a restart a single labeler is asked the same prompt, with the same answers.
"""

import hashlib
import json
import os
import random
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from minirlhf.support import files, folder
from minirlhf.support.chats import ASSISTANT
from minirlhf.support.errors import InputError, require
from minirlhf.support.formats import are_strings

FLAGS = ("fails the task", "breaks a constraint", "makes things up", "harmful", "unfit for an assistant")
EVERY = 20  # of this many rankings of a labeler, one repeats an own ranking and one repeats another labeler's
RATINGS = 7
LONGEST = 8000  # characters of a written answer


def beside(out, what):
    """rankings.jsonl -> rankings-skipped.jsonl"""
    return Path(out).with_name(f"{Path(out).name.removesuffix('.jsonl')}-{what}.jsonl")


def fits(record):
    """Whether the fields that this program reads again are as it writes them."""
    lists = [record[name] for name in ("responses", "ranks", "models") if name in record]
    return (
        isinstance(record["prompt"], str)
        and all(isinstance(each, list) and len(each) == len(lists[0]) for each in lists)
        and are_strings(record.get("responses", []))
        and all(type(rank) is int for rank in record.get("ranks", []))
        and isinstance(record.get("about", {}), dict)
    )


class Lines:
    """A JSON lines file that this process locks and appends to. Calls visit(offset, record) for each, old or new."""

    def __init__(self, path, kind, visit=lambda offset, record: None):
        self.path, self.visit = Path(path).resolve(), visit
        folder.lock(self.path.parent, f".{self.path.name}.lock")
        text = self.path.read_bytes() if self.path.exists() else b""
        self._check(text, kind)  # before a byte of the file is changed
        self._repair(text)
        self.known = self._signature()
        for offset, record in self.records():
            visit(offset, record)

    def _check(self, text, kind):
        """Raises InputError if the file is not one that this program wrote."""
        *complete, last = text.split(b"\n")
        needed = {"prompt", "responses", "ranks"} if kind == "ranking" else {"prompt"}
        for number, line in enumerate(complete, 1):
            if line.strip():
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    record = None
                if not isinstance(record, dict) or not needed <= record.keys() or not fits(record):
                    where = f"{self.path}:{number}: no record that tools/label.py wrote"
                    raise InputError(f"{where}; choose another --out, or mend the line")
        begin = b'{"prompt": "'
        if last.strip() and not last.startswith(begin[: len(last)]):
            raise InputError(f"{self.path}: its last line is none that tools/label.py wrote; choose another --out")

    def _repair(self, text):
        """Moves an incomplete, unacknowledged last line to a file beside, or adds the line end if that is missing."""
        start = text.rfind(b"\n") + 1
        if start == len(text):
            return
        try:
            complete = isinstance(json.loads(text[start:]), dict)
        except (ValueError, RecursionError):
            complete = False
        with files.disk_errors(self.path), open(self.path, "rb+") as file:
            if complete:
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
            else:
                handle, aside = tempfile.mkstemp(dir=self.path.parent, prefix=f"{self.path.name}.", suffix=".half")
                with os.fdopen(handle, "wb") as other:
                    other.write(text[start:])
                file.truncate(start)
                print(f"{self.path}: its last line is incomplete; moved it to {aside}")

    def _signature(self):
        return files.signature(self.path) if self.path.exists() else None

    def _still_ours(self):
        if self._signature() != self.known:
            raise InputError(f"{self.path} was changed by somebody else; nothing was saved, start this program again")

    def records(self):
        """Yields (offset, record)."""
        offset = 0
        for line in open(self.path, "rb") if self.path.exists() else ():
            if line.strip():
                yield offset, json.loads(line)
            offset += len(line)

    def append(self, record):
        line = files.as_line(record)
        self._still_ours()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab", buffering=0) as file:
                if (offset := file.tell()) == 0:
                    files.sync_folder(self.path.parent)
                try:
                    if file.write(line) < len(line):
                        raise OSError("the disk is full")
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(offset)
                    raise
        except OSError as error:
            raise InputError(f"{self.path} cannot be written ({error}); make room, and save again") from None
        finally:
            self.known = self._signature()
        self.visit(offset, record)

    def at(self, offset):
        self._still_ours()
        with open(self.path, "rb") as file:
            file.seek(offset)
            return json.loads(file.readline())

    def replace(self, offset, old, record):
        """Rewrites the file with another record in place of `old` at `offset`."""
        self._still_ours()
        text = self.path.read_bytes()
        end = text.index(b"\n", offset) + 1
        if json.loads(text[offset:end]) != old:
            raise InputError(f"{self.path}: another record stands there now; nothing was changed, start this again")
        files.write_atomically(self.path, text[:offset] + files.as_line(record) + text[end:])
        self.known = self._signature()


@dataclass
class Task:
    """A prompt with its answers that one labeler is asked to rank."""

    labeler: str
    prompt: str
    responses: list  # in the order shown
    models: list  # for each response a list of the models that gave it
    about: dict  # the other fields of the prompt's record
    again: bool = False  # this labeler has ranked it before
    replaces: int | None = None  # to correct: index among the labeler's rankings
    before: dict | None = None  # that ranking

    @property
    def id(self):
        content = [self.labeler, self.prompt, self.responses, self.again, self.replaces]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def key(prompt):
    return hashlib.sha256(prompt.encode("utf-8", "replace")).digest()[:12]


class Labels:
    """The labelers' tasks. records: the prompts' records. answers: an answers.Answers. rate: ratings are required, too.

    Methods raise InputError for invalid input, and then change nothing."""

    def __init__(self, out, records, answers, rate=False, seed=0):
        self.records, self.answers, self.rate, self.seed = records, answers, rate, seed
        self.keys = [key(record["prompt"]) for record in records]
        self.mine = defaultdict(list)  # labeler -> offsets of the rankings, oldest first
        self.firsts = defaultdict(dict)  # prompt's key -> {labeler: offset of the labeler's first ranking of it}
        self.repeated, self.skipped = set(), set()  # of (labeler, prompt's key)
        self.tasks = {}  # labeler -> open Task
        self.same = set()  # indices of prompts to which all models gave one answer
        self.rankings = Lines(out, "ranking", self._ranked)
        self.demonstrations = Lines(beside(out, "demonstrations"), "demonstration")
        self.skips = Lines(beside(out, "skipped"), "prompt", self._skipped)

    def _ranked(self, offset, record):
        labeler, prompt = str(record.get("labeler", "")), key(str(record.get("prompt", "")))
        self.mine[labeler].append(offset)
        if record.get("again"):
            self.repeated.add((labeler, prompt))
        else:
            self.firsts[prompt].setdefault(labeler, offset)

    def _skipped(self, offset, record):
        self.skipped.add((str(record.get("labeler", "")), key(str(record.get("prompt", "")))))

    # --- the next task

    def next(self, labeler):
        """The labeler's open Task, the same until it is saved or skipped; None if none is left."""
        if labeler not in self.tasks:
            require(len(self.tasks) < 1000, "too many labelers at once; restart the server")
            if task := self._repeat(labeler) or self._fresh(labeler) or self._other(labeler):
                self.tasks[labeler] = task
        return self.tasks.get(labeler)

    def _repeat(self, labeler):
        """Every 20th task repeats the labeler's oldest ranking; halfway between, one repeats another labeler's."""
        number = (len(self.mine[labeler]) + 1) % EVERY
        if number == EVERY // 2:
            return self._other(labeler)
        for offset in self.mine[labeler] if number == 0 else ():
            record = self.rankings.at(offset)
            pair = labeler, key(record["prompt"])
            if not record.get("again") and pair not in self.repeated and pair not in self.skipped:
                return self._as_before(labeler, record, again=True)
        return None

    def _other(self, labeler):
        """A prompt that others have ranked and this labeler has not."""
        for prompt, by in self.firsts.items():
            if labeler not in by and (labeler, prompt) not in self.skipped:
                return self._as_before(labeler, self.rankings.at(next(iter(by.values()))), again=False)
        return None

    def _as_before(self, labeler, record, again):
        """The same answers in another order."""
        responses, models = record["responses"], models_of(record)
        order = list(range(len(responses)))
        random.Random(f"{labeler} {record['prompt']} {self.seed}").shuffle(order)
        about = record.get("about", {})
        return Task(labeler, record["prompt"], [responses[i] for i in order], [models[i] for i in order], about, again)

    def _fresh(self, labeler):
        """The first prompt that no labeler has ranked or has open."""
        taken = {key(task.prompt) for task in self.tasks.values()} | self.firsts.keys()
        free = [i for i, prompt in enumerate(self.keys)
                if prompt not in taken and i not in self.same and (labeler, prompt) not in self.skipped]  # fmt: skip
        for n, i in enumerate(free):
            answers = self.answers.of(i)
            self.answers.prepare(free[n + 1 : n + 4])
            if len(answers) > 1:
                texts, models = zip(*answers)
                about = {name: value for name, value in self.records[i].items() if name != "prompt"}
                return Task(labeler, self.records[i]["prompt"], list(texts), list(models), about)
            self.same.add(i)
        return None

    # --- what labelers submit

    def rank(self, labeler, id, ranks, seconds, ratings=None, flags=None):
        """Saves a ranking: ranks[i] of the i-th answer shown, 1 the best. Returns how many the labeler has."""
        task = self._open(labeler, id)
        k = len(task.responses)
        if not is_list(ranks, k, lambda rank: type(rank) is int and 1 <= rank <= k):
            raise InputError(f"{k} ranks are needed, each from 1 to {k}")
        if not (isinstance(seconds, (int, float)) and 0 <= seconds < 1e6):
            seconds = None
        distinct = sorted(set(ranks))
        record = {"prompt": task.prompt, "responses": task.responses, "ranks": [distinct.index(r) + 1 for r in ranks],
                  "labeler": labeler, "models": task.models, "seconds": seconds and round(seconds, 1)}  # fmt: skip
        if self.rate:
            if not is_list(ratings, k, lambda rating: type(rating) is int and 1 <= rating <= RATINGS):
                raise InputError(f"{k} ratings are needed, each from 1 to {RATINGS}")
            if not is_list(flags, k, lambda own: isinstance(own, list) and all(flag in FLAGS for flag in own)):
                raise InputError(f"{k} lists of flags are needed, of: {', '.join(FLAGS)}")
            record |= {"ratings": ratings, "flags": [sorted(set(own), key=FLAGS.index) for own in flags]}
        record |= {"again": True} if task.again else {}
        record |= {"about": task.about} if task.about else {}
        if task.replaces is None:
            self.rankings.append(record)
        else:
            self.rankings.replace(self.mine[labeler][task.replaces], task.before, task.before | record)
            self.mine.clear()
            self.firsts.clear()
            for offset, moved in self.rankings.records():
                self._ranked(offset, moved)
        del self.tasks[labeler]
        return len(self.mine[labeler])

    def skip(self, labeler, id):
        task = self._open(labeler, id)
        if task.replaces is None:
            self.skips.append({"prompt": task.prompt, "labeler": labeler})
        del self.tasks[labeler]

    def back(self, labeler, id):
        """Opens the labeler's previous ranking for correction. id: of the open task; None if none is left."""
        task = None if id is None and self.next(labeler) is None else self._open(labeler, id)
        previous = (len(self.mine[labeler]) if task is None or task.replaces is None else task.replaces) - 1
        require(previous >= 0, "there is none before this one")
        record = self.rankings.at(self.mine[labeler][previous])
        self.tasks[labeler] = Task(
            labeler, record["prompt"], record["responses"], models_of(record), record.get("about", {}),
            bool(record.get("again")), previous, record,
        )  # fmt: skip

    def demonstrate(self, labeler, id, response):
        """Saves an answer that the labeler wrote."""
        task = self._open(labeler, id)
        if not isinstance(response, str) or not response.strip() or len(response) > LONGEST:
            raise InputError(f"an answer has 1 to {LONGEST} characters")
        text = f" {response.strip()}" if task.prompt.endswith(ASSISTANT) else response.strip()
        self.demonstrations.append({"prompt": task.prompt, "response": text, "labeler": labeler})

    def _open(self, labeler, id):
        task = self.next(labeler)
        if task is None or task.id != id:
            raise InputError("not open any more: it was saved before, or in another window; nothing was changed")
        return task


def models_of(record):
    """The models of each response; empty lists if the record does not name them."""
    return record.get("models") or [[] for _ in record["responses"]]


def is_list(values, k, is_valid):
    return isinstance(values, list) and len(values) == k and all(map(is_valid, values))


def named(labeler):
    """A labeler's name without surrounding spaces; InputError if it is invalid."""
    if not isinstance(labeler, str) or not 0 < len(labeler.strip()) <= 40 or not labeler.isprintable():
        raise InputError("a name has 1 to 40 printable characters")
    return labeler.strip()


def check(out):
    if not Path(out).name.endswith(".jsonl"):
        raise InputError(f"--out {out}: rankings are JSON lines; choose a name that ends in .jsonl")
