"""Talk to one or more models side by side, on the command line or in a browser.

    python chat.py                                   lists the models in runs/
    python chat.py runs/toy/ppo_ptx runs/toy/gpt
    python chat.py runs/toy/ppo_ptx --prompt "Write a story about a fox and a kite."
    python chat.py runs/toy/ppo_ptx runs/toy/sft --web --reward_model runs/toy/rm --out preferences.jsonl

Each line you type is a new prompt; earlier turns are not sent, since most models here were trained on single turns.
The model gets --beginning, your line, and --ending, by default a newline, as the town's prompts end. For HH-RLHF's
transcripts use --beginning $'\\n\\nHuman: ' --ending $'\\n\\nAssistant:'. --dialogue sends the whole conversation, for
models that were trained on conversations ("messages"). An empty line or end of input ends.

In the browser two models answer side by side; you learn which is which after you chose the better answer. --out saves
these choices as rankings for train_rm.py.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minirlhf.model import GPT
from minirlhf.support.checkpoint import read_checkpoint
from minirlhf.support.config import Text, check_fields, command, refuse_unused, require_positive
from minirlhf.support.errors import InputError
from minirlhf.support.files import read_lines
from tools.web import labels, server
from tools.web.answers import Speaker
from tools.web.talk import PromptFormat, Talks, fitted


@dataclass(frozen=True)
class Config:
    models: tuple[str, ...] = ()  # runs' folders, or .pt files; with none, those in runs/ are listed
    prompt: Text | None = None  # answer only this prompt
    dialogue: bool = False  # send the whole conversation: for models that were trained on conversations
    beginning: Text = ""  # text before each line
    ending: Text = "\n"  # text after each line
    max_response: int = 32  # tokens of an answer at most
    temperature: float = 1.0  # 1 as in training; lower gives likelier answers
    seed: int = 0  # of the sampling
    web: bool = False  # serve a page for a browser, with one model or two
    reward_model: str | None = None  # with --web: show its score under each answer
    out: str | None = None  # with --web: .jsonl file of rankings that your choices are added to
    port: int = 8001  # of the page; 0 for any free port
    host: Text = "127.0.0.1"  # any other than this default serves other machines, too, to whoever has the token

    def __post_init__(self):
        check_fields(self)
        require_positive(self, "max_response")
        if self.temperature < 0.01:
            raise InputError(f"--temperature {self.temperature}: must be at least 0.01, which is almost greedy")
        if self.web:
            refuse_unused(self, "prompt", "--no-web")
        else:
            refuse_unused(self, "out reward_model port host", "--web")
        if self.dialogue:
            refuse_unused(self, "beginning ending", "--no-dialogue")
        if self.web and len(self.models) > 2:
            raise InputError(f"{len(self.models)} models: the page shows one, or two side by side")


def main(config):
    if not config.models:
        if config.prompt is not None or config.web:
            raise InputError("required: models; python chat.py lists those in runs/")
        return list_models()
    speakers = [Speaker(model, config.max_response) for model in config.models]
    form = PromptFormat(config.dialogue, config.beginning, config.ending)
    if config.web:
        return web(speakers, form, config)
    rng, width = np.random.default_rng(config.seed), max(map(len, config.models))
    turns = [[] for _ in speakers]  # each model's conversation has its own answers
    for line in [config.prompt] if config.prompt is not None else lines(examples(config.models[0])):
        for i, speaker in enumerate(speakers):
            messages, dropped = [*turns[i], {"role": "user", "content": line}], 0
            try:
                answer, dropped = reply(speaker, form.prompt(messages), config.temperature, rng)
                turns[i] = [*messages, {"role": "assistant", "content": answer}] if config.dialogue else []
            except InputError as error:
                if config.prompt is not None:
                    raise
                answer = f"({error})"
            if dropped:
                print(f"({speaker.name}: the {dropped} oldest turns do not fit any more)")
            answer = printable(answer).replace("\n", f"\n{'':>{width}} | ")
            print(f"{speaker.name:>{width}} | {answer}", flush=True)


def list_models(folder="runs"):
    """Prints the folders in which there is a model that can be talked to."""
    found = sorted(str(path.parent) for path in Path(folder).glob("**/model.pt") if is_policy(path))
    if not found:
        raise InputError(f"no model in {folder}/; make some with python reproduce.py, or name a model's folder")
    print("Models to talk to; name one, or several to compare:")
    for name in found:
        print(f"    python chat.py {name}")


def is_policy(path):
    """Whether a file holds a language model, and no reward model."""
    try:
        return read_checkpoint(path)["kind"] == GPT.kind
    except InputError:
        return False


def examples(model, count=3):
    """Prompts of the town in a run of reproduce.py, one of each kind; nothing for other models."""
    path = Path(model).parent / "town" / "prompts_test.jsonl"
    if not path.is_file():
        return []
    by_kind = {}
    for record in read_lines(path):
        by_kind.setdefault(record["kind"], record["prompt"].strip())
    return list(by_kind.values())[:count]


def reply(speaker, prompt, temperature, rng):
    """(a sampled answer, how many old turns were dropped)."""
    prompt, dropped = fitted(prompt, speaker)
    *_, answer = "", *speaker.stream(prompt, temperature, rng)
    return answer.strip(), dropped


def printable(text):
    """Escapes control characters, which the terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def lines(prompts=()):
    """Yields lines from stdin until an empty one or the end. prompts: examples to try."""
    if not sys.stdin:
        return
    sys.stdin.reconfigure(errors="replace")
    terminal = sys.stdin.isatty()
    if terminal:
        print(
            "Type a prompt; an empty line ends."
            + (" The model knows its town, and nothing else. Try:" if prompts else "")
        )
        for prompt in prompts:
            print(f"    {prompt}")
    while True:
        try:
            line = input("> " if terminal else "").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not line:
            return
        if not terminal:
            print(f"> {line}")
        yield line


def web(speakers, form, config):
    keep, about = None, "nothing is saved without --out FILE"
    if config.out:
        labels.check(config.out)
        keep, about = labels.Lines(config.out, "ranking").append, f"preferences go to {config.out}"
    talks = Talks(speakers, form, config.temperature, config.seed, config.reward_model, keep)
    routes = {"/begin": talks.begin, "/say": talks.say, "/prefer": talks.prefer}
    server.open_page(server.page("chat"), routes, config.host, config.port, about)


if __name__ == "__main__":
    command(main, Config, "models")
