"""What people said, in files that grow (a correction writes one anew), and whom to ask what next.

    OUT.jsonl                 rankings, as train_rm.py reads them; responses stand in the order in which they came
    OUT-demonstrations.jsonl  better answers that people wrote, as train_sft.py reads them
    OUT-skipped.jsonl         prompts that somebody had no answer to

Every line is written at once and synced to the disk before it is acknowledged. Where a labeler stands follows from
these files alone: after a kill the same prompt comes to a labeler who is alone, with the same answers.
"""

import hashlib
import json
import os
import random
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from minirlhf.support import files, folder
from minirlhf.support.errors import InputError, require
from minirlhf.support.formats import ASSISTANT
from minirlhf.support.records import read

from .server import Refused

FLAGS = ("fails the task", "breaks a constraint", "makes things up", "harmful", "unfit for an assistant")
EVERY = 20  # rankings of a labeler, one of which is an own one again, and one somebody else's
RATINGS = 7
LONGEST = 8000  # characters of an answer that a person writes


def beside(out, what):
    """rankings.jsonl -> rankings-skipped.jsonl"""
    return Path(out).with_name(f"{Path(out).name.removesuffix('.jsonl')}-{what}.jsonl")


class Lines:
    """A file of JSON lines that grows by whole lines, this process's alone until it ends. `visit(offset, record)` sees
    each, those that are there first."""

    def __init__(self, path, kind, visit=lambda offset, record: None):
        self.path, self.visit = Path(path).resolve(), visit
        folder.lock(self.path.parent, f".{self.path.name}.lock")
        if half := self._half():
            self._set_aside(half)
        if self.path.exists() and self.path.stat().st_size:
            read(self.path, kind)  # or an InputError that names the line
        for offset, record in self._records():
            own = isinstance(record.get("prompt"), str) and (kind != "ranking" or "responses" in record)
            require(own, f"{self.path}: holds records that tools/label.py did not write; choose another --out")
            visit(offset, record)

    def _half(self):
        """How many bytes a last line has that is not whole: a machine went down while it was written. (One that only
        lacks its line end gets that.)"""
        text = self.path.read_bytes() if self.path.exists() else b""
        last = text[text.rfind(b"\n") + 1 :]
        if last:
            with suppress(ValueError, TypeError, RecursionError):
                json.loads(last) | {}
                with files.disk_errors(self.path), open(self.path, "ab") as file:
                    file.write(b"\n")
                return 0
        return len(last)

    def _set_aside(self, half):
        """Moves it to another file: nobody was told that it was saved, and it may be something else altogether."""
        with files.disk_errors(self.path), open(self.path, "rb+") as file:
            whole = file.seek(-half, os.SEEK_END)
            aside = f"{self.path}.half"
            files.write_atomically(aside, file.read())
            file.truncate(whole)
        print(f"{self.path}: its last line is not whole, and stands in {aside} now")

    def _records(self):
        offset = 0
        for line in open(self.path, "rb") if self.path.exists() else ():
            if line.strip():
                yield offset, json.loads(line)
            offset += len(line)

    def append(self, record):
        line = as_line(record)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                if (offset := os.fstat(handle).st_size) == 0:
                    sync_folder(self.path.parent)
                try:
                    if os.write(handle, line) < len(line):
                        raise OSError("no room for it")
                    os.fsync(handle)
                except OSError:
                    os.ftruncate(handle, offset)
                    raise
            finally:
                os.close(handle)
        except OSError as error:
            raise Refused(f"{self.path} cannot be written ({error}); make room, and save again") from None
        self.visit(offset, record)

    def at(self, offset):
        with open(self.path, "rb") as file:
            file.seek(offset)
            return json.loads(file.readline())

    def replace(self, offset, record):
        """Writes the file anew with another record in place of the one at `offset`."""
        text = self.path.read_bytes()
        end = text.index(b"\n", offset) + 1
        try:
            files.write_atomically(self.path, text[:offset] + as_line(record) + text[end:])
        except InputError as error:
            raise Refused(str(error)) from None


def as_line(record):
    """Dates and the like, which parquet files have, become text."""
    return (json.dumps(record, ensure_ascii=False, default=str) + "\n").encode("utf-8", "replace")


def sync_folder(folder):
    """So that a new file is in it after a power cut, too. (Windows cannot.)"""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


@dataclass
class Task:
    """What one labeler is asked now."""

    labeler: str
    prompt: str
    responses: list  # in the order in which they are shown
    models: list  # of which model each is: a list of names, since several may have said the same
    about: dict  # the other fields of the prompt's record
    again: bool = False  # this labeler has ranked them before
    replaces: int | None = None  # the place among the labeler's rankings of the one that this shall correct
    before: dict | None = None  # that ranking

    @property
    def id(self):
        said = [self.labeler, self.prompt, self.responses, self.again, self.replaces]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def key(prompt):
    return hashlib.sha256(prompt.encode("utf-8", "replace")).digest()[:12]


class Labels:
    """records: the prompts' records. answers: gives the answers to the i-th (Answers). rate: answers are rated, too."""

    def __init__(self, out, records, answers, rate=False, seed=0):
        self.records, self.answers, self.rate, self.seed = records, answers, rate, seed
        self.keys = [key(record["prompt"]) for record in records]
        self.mine = defaultdict(list)  # labeler -> offsets of the rankings, in time
        self.firsts = defaultdict(dict)  # prompt's key -> {labeler: offset of the first ranking of it}
        self.repeated, self.skipped = set(), set()  # of (labeler, prompt's key)
        self.tasks, self.passed = {}, set()
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

    # --- what is asked next

    def next(self, labeler):
        """The labeler's open Task, the same until it is saved or skipped; None where nothing is left."""
        if labeler not in self.tasks:
            if len(self.tasks) >= 1000:
                raise Refused("too many labelers at once; start the server again")
            if task := self._repeat(labeler) or self._fresh(labeler) or self._other(labeler):
                self.tasks[labeler] = task
        return self.tasks.get(labeler)

    def _repeat(self, labeler):
        """Of every 20 one is asked again, the oldest first, and one is somebody else's."""
        place = (len(self.mine[labeler]) + 1) % EVERY
        if place == EVERY // 2:
            return self._other(labeler)
        for offset in self.mine[labeler] if place == 0 else ():
            record = self.rankings.at(offset)
            place = labeler, key(record["prompt"])
            if not record.get("again") and place not in self.repeated and place not in self.skipped:
                return self._as_before(labeler, record, again=True)
        return None

    def _other(self, labeler):
        """One that others have ranked, and this labeler has not seen."""
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
        """The first prompt that nobody has ranked or is at."""
        closed = {key(task.prompt) for task in self.tasks.values()} | self.firsts.keys()
        free = [i for i, prompt in enumerate(self.keys) if prompt not in closed and i not in self.passed
                and (labeler, prompt) not in self.skipped]  # fmt: skip
        for place, i in enumerate(free):
            answers = self.answers.of(i)
            self.answers.prepare(free[place + 1 : place + 4])
            if len(answers) > 1:  # else all models say the same
                texts, models = zip(*answers)
                about = {name: value for name, value in self.records[i].items() if name != "prompt"}
                return Task(labeler, self.records[i]["prompt"], list(texts), list(models), about)
            self.passed.add(i)
        return None

    # --- what people say

    def rank(self, labeler, id, ranks, seconds, ratings=None, flags=None):
        """Saves a ranking: ranks[i] of the answer shown at place i, 1 the best. Returns how many the labeler has."""
        task = self._open(labeler, id)
        k = len(task.responses)
        if not _list_of(ranks, k, lambda r: type(r) is int and 1 <= r <= k):
            raise Refused(f"{k} ranks are needed, each from 1 to {k}")
        places = sorted(set(ranks))
        record = {"prompt": task.prompt, "responses": task.responses, "ranks": [places.index(r) + 1 for r in ranks],
                  "labeler": labeler, "models": task.models, "seconds": _seconds(seconds)}  # fmt: skip
        if self.rate:
            if not _list_of(ratings, k, lambda r: type(r) is int and 1 <= r <= RATINGS):
                raise Refused(f"{k} ratings are needed, each from 1 to {RATINGS}")
            if not _list_of(flags, k, lambda own: isinstance(own, list) and all(flag in FLAGS for flag in own)):
                raise Refused(f"{k} lists of flags are needed, of: {', '.join(FLAGS)}")
            record |= {"ratings": ratings, "flags": [sorted(set(own), key=FLAGS.index) for own in flags]}
        record |= {"again": True} if task.again else {}
        record |= {"about": task.about} if task.about else {}
        if task.replaces is None:
            self.rankings.append(record)
        else:
            self._correct(labeler, task.replaces, task.before | record)
        del self.tasks[labeler]
        return len(self.mine[labeler])

    def _correct(self, labeler, place, record):
        self.rankings.replace(self.mine[labeler][place], record)
        self.mine.clear()
        self.firsts.clear()
        for offset, record in self.rankings._records():  # which stand elsewhere now
            self._ranked(offset, record)

    def skip(self, labeler, id):
        task = self._open(labeler, id)
        if task.replaces is None:
            self.skips.append({"prompt": task.prompt, "labeler": labeler})
        del self.tasks[labeler]

    def back(self, labeler, id):
        """Opens the labeler's ranking before this one again, to be corrected; id is None where nothing is left."""
        task = None if id is None and self.next(labeler) is None else self._open(labeler, id)
        place = (len(self.mine[labeler]) if task is None or task.replaces is None else task.replaces) - 1
        if place < 0:
            raise Refused("there is none before this one")
        record = self.rankings.at(self.mine[labeler][place])
        self.tasks[labeler] = Task(
            labeler, record["prompt"], record["responses"], models_of(record), record.get("about", {}),
            bool(record.get("again")), place, record,
        )  # fmt: skip

    def demonstrate(self, labeler, id, response):
        """Saves an answer that the labeler wrote."""
        task = self._open(labeler, id)
        if not isinstance(response, str) or not response.strip() or len(response) > LONGEST:
            raise Refused(f"an answer has 1 to {LONGEST} characters")
        said = f" {response.strip()}" if task.prompt.endswith(ASSISTANT) else response.strip()
        self.demonstrations.append({"prompt": task.prompt, "response": said, "labeler": labeler})

    def _open(self, labeler, id):
        task = self.next(labeler)
        if task is None or task.id != id:
            raise Refused(
                "this one is not open any more: it was saved before, or in another window. Nothing was changed"
            )
        return task


def models_of(record):
    """Whose each response is; of rankings that do not say so, nobody's."""
    return record.get("models") or [[] for _ in record["responses"]]


def _list_of(values, k, fits):
    return isinstance(values, list) and len(values) == k and all(map(fits, values))


def _seconds(seconds):
    usual = isinstance(seconds, (int, float)) and 0 <= seconds < 1e6
    return round(seconds, 1) if usual else None


def named(labeler):
    """A labeler's name as it was given, or Refused."""
    if not isinstance(labeler, str) or not 0 < len(labeler.strip()) <= 40 or not labeler.isprintable():
        raise Refused("a name has 1 to 40 letters")
    return labeler.strip()


def check(out):
    name = Path(out).name
    require(name.endswith(".jsonl"), f"--out {out}: rankings are JSON lines; choose a name that ends in .jsonl")
