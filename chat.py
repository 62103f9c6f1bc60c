"""Talk to one or more models side by side, on the command line.

    python chat.py runs/town/ppo_ptx runs/town/gpt
    python chat.py runs/town/ppo_ptx --prompt "Write a story about a fox and a kite."

Each line you type is a prompt of its own: these models learned to answer once and remember no turn before. What is
sent to the model is your line and --ending, a newline unless given, as the town's prompts end; for HH-RLHF's
transcripts say --beginning $'\\n\\nHuman: ' --ending $'\\n\\nAssistant:'. An empty line, or end of input, ends.
"""

import sys

import numpy as np
import torch

from minirlhf.checkpoint import load_model, load_tokenizer
from minirlhf.config import InputError, Parser, command, file_name, number, require, require_positive
from minirlhf.model import GPT
from minirlhf.rollout import generate


def main(argv):
    parser = Parser(__doc__)
    parser.add_argument("models", nargs="+", type=file_name, help="runs' folders, or .pt files")
    parser.add_argument("--prompt", help="answer this and stop")
    parser.add_argument("--beginning", default="", help="put before each line")
    parser.add_argument("--ending", default="\n", help="put after each line [a newline]")
    parser.add_argument("--max_response", type=number(int), default=32, help="tokens of an answer at the most [32]")
    parser.add_argument("--temperature", type=number(float), default=1.0, help="1 as in training, less is safer [1]")
    parser.add_argument("--seed", type=number(int), default=0, help="of the sampling [0]")
    args = parser.parse_args(argv)
    require(args.temperature >= 0.01, f"--temperature {args.temperature}: take 0.01, all but greedy, or more")
    require_positive(args, "max_response")
    models = []
    for source in args.models:
        tokenizer = load_tokenizer(source)
        model = load_model(source, GPT, tokenizer).eval()
        n_ctx = model.config.n_ctx
        message = f"--max_response {args.max_response}: {source} reads {n_ctx} tokens in all; take less"
        require(args.max_response < n_ctx, message)
        models.append((source, model, tokenizer))
    rng, width = np.random.default_rng(args.seed), max(map(len, args.models))
    for line in [args.prompt] if args.prompt is not None else lines():
        for source, model, tokenizer in models:
            try:
                answer = reply(model, tokenizer, f"{args.beginning}{line}{args.ending}", args, rng)
            except InputError as error:
                if args.prompt is not None:
                    raise
                answer = f"({error})"
            # Escape codes that a model wrote must not reach the terminal.
            answer = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in answer)
            answer = answer.replace("\n", f"\n{'':>{width}} | ")
            print(f"{source:>{width}} | {answer}", flush=True)


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


def reply(model, tokenizer, prompt, args, rng):
    """One sampled answer, as text."""
    tokens, room = tokenizer.encode(prompt), model.config.n_ctx - args.max_response
    require(tokens, "nothing to answer: the prompt is empty; say something")
    require(len(tokens) <= room, f"{len(tokens)} tokens, but {max(room, 0)} fit before an answer; say it shorter")
    noise = torch.from_numpy(rng.random((1, args.max_response), dtype=np.float32))
    responses, _ = generate(model, [tokens], noise, tokenizer.eos, tokenizer.pad, args.temperature)
    return responses.texts(tokenizer)[0].strip()


if __name__ == "__main__":
    command(main)
