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

import numpy as np

from minirlhf.support.config import Parser, command, file_name, number, require_positive
from minirlhf.support.errors import InputError, require
from tools.web import labels, server
from tools.web.answers import speakers
from tools.web.talk import Talks, Way, fitted


def main(argv):
    parser = Parser(__doc__)
    parser.add_argument("models", nargs="+", type=file_name, help="runs' folders, or .pt files")
    parser.add_argument("--prompt", help="answer this and stop")
    parser.add_argument("--dialogue", action="store_true", help="send all that was said, and by whom: for models that "
                        "were trained on conversations")  # fmt: skip
    parser.add_argument("--beginning", default="", help="put before each line")
    parser.add_argument("--ending", default="\n", help="put after each line [a newline]")
    parser.add_argument("--max_response", type=number(int), default=32, help="tokens of an answer at the most [32]")
    parser.add_argument("--temperature", type=number(float), default=1.0, help="1 as in training, less is safer [1]")
    parser.add_argument("--seed", type=number(int), default=0, help="of the sampling [0]")
    parser.add_argument("--web", action="store_true", help="in a browser, one model or two")
    parser.add_argument("--reward_model", type=file_name, help="with --web: shows its score under each answer")
    parser.add_argument("--out", type=file_name, help="with --web: file of rankings, .jsonl, to keep preferences in")
    parser.add_argument("--port", type=number(int), default=8001, help="of the page; 0 takes any that is free [8001]")
    parser.add_argument("--host", default="127.0.0.1", help=server.HOST_HELP)
    args = parser.parse_args(argv)
    require(args.temperature >= 0.01, f"--temperature {args.temperature}: take 0.01, all but greedy, or more")
    require_positive(args, "max_response")
    able, way = speakers(args.models, args.max_response), Way(args.dialogue, args.beginning, args.ending)
    if args.web:
        return web(able, way, args)
    rng, width = np.random.default_rng(args.seed), max(map(len, args.models))
    said = [[] for _ in able]  # each model remembers its own answers
    for line in [args.prompt] if args.prompt is not None else lines():
        for i, speaker in enumerate(able):
            messages = [*said[i], {"role": "user", "content": line}]
            try:
                answer, forgotten = reply(speaker, way.prompt(messages), args.temperature, rng)
            except InputError as error:
                if args.prompt is not None:
                    raise
                answer, forgotten = f"({error})", 0
            else:
                said[i] = [*messages, {"role": "assistant", "content": answer}] if args.dialogue else []
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


def web(able, way, args):
    require(len(able) <= 2, f"{len(able)} models: the page shows one, or two side by side")
    keep = None
    if args.out:
        labels.check(args.out)
        keep = labels.Lines(args.out, "ranking").append
    talks = Talks(able, way, args.temperature, args.seed, args.reward_model, keep)
    routes = {"/begin": talks.begin, "/say": talks.say, "/prefer": talks.prefer}
    about = f"preferences go to {args.out}" if keep else "nothing is kept (--out FILE would)"
    server.open_page(server.page("chat"), routes, args.host, args.port, about)


if __name__ == "__main__":
    command(main)
