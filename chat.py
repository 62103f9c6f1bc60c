"""Talk to one or more models side by side, on the command line or in a browser.

    python chat.py runs/toy/ppo_ptx runs/toy/gpt
    python chat.py runs/toy/ppo_ptx --prompt "Write a story about a fox and a kite."
    python chat.py runs/toy/ppo_ptx runs/toy/sft --web --reward_model runs/toy/rm --out preferences.jsonl

Each line you type is a prompt of its own: most models here learned to answer once and remember no turn before. What is
sent to the model is your line and --ending, a newline unless given, as the town's prompts end; for HH-RLHF's
transcripts say --beginning $'\\n\\nHuman: ' --ending $'\\n\\nAssistant:'. A model that was trained on conversations
("messages") is told all that was said before with --dialogue. An empty line, or end of input, ends.

In the browser two models answer side by side, and which is which you learn when you have said which answer is better;
with --out that is kept, as a ranking that train_rm.py reads.
"""

import sys
from dataclasses import dataclass

import numpy as np

from minirlhf.support.config import Text, check_fields, command, require_positive
from minirlhf.support.errors import InputError
from tools.web import labels, server
from tools.web.answers import speakers
from tools.web.talk import Talks, Way, fitted


@dataclass(frozen=True)
class Config:
    models: tuple[str, ...]  # runs' folders, or .pt files
    prompt: Text | None = None  # answer this and stop
    dialogue: bool = False  # send the whole conversation: for models that were trained on conversations
    beginning: Text = ""  # put before each line
    ending: Text = "\n"  # put after each line
    max_response: int = 32  # tokens of an answer at the most
    temperature: float = 1.0  # 1 as in training, less is safer
    seed: int = 0  # of the sampling
    web: bool = False  # in a browser, one model or two
    reward_model: str | None = None  # with --web: shows its score under each answer
    out: str | None = None  # with --web: file of rankings, .jsonl, to keep preferences in
    port: int = 8001  # of the page; 0 takes any that is free
    host: str = "127.0.0.1"  # another than this machine's own opens the page to all who have the token

    def __post_init__(self):
        check_fields(self)
        require_positive(self, "max_response")
        if self.temperature < 0.01:
            raise InputError(f"--temperature {self.temperature}: take 0.01, all but greedy, or more")
        if self.web and len(self.models) > 2:
            raise InputError(f"{len(self.models)} models: the page shows one, or two side by side")


def main(config):
    able, way = speakers(config.models, config.max_response), Way(config.dialogue, config.beginning, config.ending)
    if config.web:
        return web(able, way, config)
    rng, width = np.random.default_rng(config.seed), max(map(len, config.models))
    said = [[] for _ in able]  # each model remembers its own answers
    for line in [config.prompt] if config.prompt is not None else lines():
        for i, speaker in enumerate(able):
            messages = [*said[i], {"role": "user", "content": line}]
            try:
                answer, forgotten = reply(speaker, way.prompt(messages), config.temperature, rng)
            except InputError as error:
                if config.prompt is not None:
                    raise
                answer, forgotten = f"({error})", 0
            else:
                said[i] = [*messages, {"role": "assistant", "content": answer}] if config.dialogue else []
            if forgotten:
                print(f"({speaker.name} has no room for the {forgotten} oldest turns any more)")
            answer = shown(answer).replace("\n", f"\n{'':>{width}} | ")
            print(f"{speaker.name:>{width}} | {answer}", flush=True)


def reply(speaker, prompt, temperature, rng):
    """(one sampled answer, how many turns were forgotten)."""
    prompt, forgotten = fitted(prompt, speaker)
    *_, answer = "", *speaker.stream(prompt, temperature, rng)
    return answer.strip(), forgotten


def shown(text):
    """Control characters that a model wrote are shown, and do not reach the terminal as such."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def lines():
    """What is typed, or piped, until an empty line or the end of input."""
    if not sys.stdin:
        return
    sys.stdin.reconfigure(errors="replace")
    typed = sys.stdin.isatty()
    if typed:
        print("An empty line ends. The town's models know their town: Name two foods. Who built the church? ...")
    while True:
        try:
            line = input("> " if typed else "").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not line:
            return
        if not typed:
            print(f"> {line}")
        yield line


def web(able, way, config):
    keep = None
    if config.out:
        labels.check(config.out)
        keep = labels.Lines(config.out, "ranking").append
    talks = Talks(able, way, config.temperature, config.seed, config.reward_model, keep)
    routes = {"/begin": talks.begin, "/say": talks.say, "/prefer": talks.prefer}
    about = f"preferences go to {config.out}" if keep else "nothing is kept (--out FILE would)"
    server.open_page(server.page("chat"), routes, config.host, config.port, about)


if __name__ == "__main__":
    command(main, Config, "models")
