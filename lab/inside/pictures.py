"""Draws the pictures of README.md and docs/ as vector graphics, from the real functions where they show numbers.

python -m lab.inside.pictures runs/toy    writes docs/steps.svg, iteration.svg, responses.svg, clip.svg and strip.svg
"""

import random
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import torch

from data import town
from data.town.prompts import draw_record
from lab.stages import LIMIT
from minirlhf.data import collate
from minirlhf.losses import policy_loss
from minirlhf.model import GPT
from minirlhf.rollout import generate, response_logps, uniforms
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.config import check_fields, command
from minirlhf.support.errors import require
from minirlhf.support.files import write_atomically
from minirlhf.support.records import Sequence

STYLE = """:root { --ink: #1d2126; --faint: #5d6670; --card: #ffffff; --line: #b9b5ab; --mark: #1f5fbf; --soft: #e8effa;
  --plus: #d96f00; --minus: #2468c8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e1; --faint: #a0a8b1; --card: #1e2329; --line: #56606a;
  --mark: #8ab6ff; --soft: #22334d; --plus: #ff9d3c; --minus: #6aa5ff; } }
text { font: 14px system-ui, sans-serif; fill: var(--ink) } .small { font-size: 12px } .faint { fill: var(--faint) }
.bold { font-weight: 600 } .mono { font-family: ui-monospace, monospace; font-size: 13px }
rect { fill: var(--card); stroke: var(--line) } .model { fill: var(--soft); stroke: var(--mark) } .bare { stroke: none }
path, line { stroke: var(--faint); fill: none; stroke-width: 1.5 } .curve { stroke: var(--mark); stroke-width: 2.5 }
marker path { fill: var(--faint); stroke: none }"""
SIZE = 'markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto"'
HEAD = f'<marker id="head" {SIZE}><path d="M0,0 L8,4 L0,8 z"/></marker>'
LINE = 18  # pixels from a line of text to the next


class Picture:
    """An SVG picture; title is what a screen reader says of it."""

    def __init__(self, width, height, title):
        self.width, self.height, self.title, self.parts = width, height, title, []

    def add(self, tag, text=None, **attributes):
        names = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        inner = "/>" if text is None else f">{escape(text)}</{tag}>"
        self.parts.append(f"<{tag} " + " ".join(f'{name}="{value}"' for name, value in names.items()) + inner)

    def text(self, x, y, words, kind="", anchor="middle"):
        lines = words.split("\n")
        for i, line in enumerate("".join(c if c.isprintable() else "\ufffd" for c in line) for line in lines):
            self.add("text", line, x=x, y=y + LINE * i, class_=kind, text_anchor=anchor)

    def box(self, x, y, width, height, words, kind="", text=""):
        """A box with its lines of words in the middle."""
        self.add("rect", x=x, y=y, width=width, height=height, rx=6, class_=kind)
        lines = words.count("\n")
        self.text(x + width / 2, y + height / 2 + 5 - LINE * lines / 2, words, text)

    def arrow(self, *points):
        path = "M" + " L".join(f"{x},{y}" for x, y in points)
        self.add("path", d=path, marker_end="url(#head)")

    def bytes(self):
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img">'
        body = "\n".join([f"<title>{escape(self.title)}</title><style>{STYLE}</style><defs>{HEAD}</defs>", *self.parts])
        return f"{head}\n{body}\n</svg>\n".encode()


@dataclass(frozen=True)
class Config:
    toy: str  # folder of a finished run of reproduce.py
    out: str = "docs"  # folder for the pictures

    def __post_init__(self):
        check_fields(self)


def main(config):
    run = Path(config.toy) / "ppo"
    require((run / "model.pt").exists(), f"{run}/model.pt: missing; give the folder of a finished reproduce.py")
    tokenizer = load_tokenizer(run)
    pictures = dict(steps=steps(), iteration=iteration(), responses=responses(tokenizer), clip=clip())
    pictures["strip"] = strip(config.toy, tokenizer)
    for name, picture in pictures.items():
        write_atomically(f"{config.out}/{name}.svg", picture.bytes())
    print(f"{config.out}: {', '.join(f'{name}.svg' for name in pictures)}")


def steps():
    """The paper's Figure 2, with the project's names."""
    p = Picture(920, 372, "The three steps: supervised fine-tuning, the reward model, reinforcement learning by PPO")
    columns = [
        ("1. Supervised fine-tuning", "train_sft.py", [
            ("A prompt", "What does the fox eat?"), ("A person writes the answer", "In fact, the fox eats berries."),
            ("GPT learns to write such answers", "it is SFT now")]),
        ("2. The reward model", "train_rm.py", [
            ("SFT writes several answers", "A: berries   B: In fact, it eats berries.   C: mice"),
            ("A person ranks them", "B, then A, then C"),
            ("A copy of SFT learns to give", "the better answer the higher score")]),
        ("3. Reinforcement learning", "train_ppo.py", [
            ("The policy, at first SFT, answers", "Say something kind to Tom."),
            ("The reward model scores the answer", "minus beta times the KL from the start"),
            ("PPO makes what led to a higher", "reward more probable; then again")]),
    ]  # fmt: skip
    for i, (title, script, rows) in enumerate(columns):
        x = 8 + 300 * i
        p.text(x + 142, 22, title, "bold")
        p.text(x + 142, 42, script, "mono faint")
        for j, (first, second) in enumerate(rows):
            y = 60 + 104 * j
            p.box(x, y, 284, 72, "", "model" if j == 2 else "")
            p.text(x + 142, y + 31, first)
            p.text(x + 142, y + 53, second, "small" if j < 2 else "")
            if j:
                p.arrow((x + 142, y - 31), (x + 142, y - 3))
    p.arrow((750, 342), (750, 362), (912, 362), (912, 96), (896, 96))  # step 3 is a loop
    return p


def iteration():
    """Which network reads which text in an iteration of PPO, and what it gives."""
    p = Picture(900, 430, "One iteration of PPO: which network reads what, and what it gives")
    p.box(8, 24, 100, 60, "prompts", "", "bold")
    p.box(138, 24, 150, 60, "policy\nsamples answers", "model")
    p.box(318, 24, 574, 60, "prompt + answer, token by token; log p of each token", "")
    p.arrow((108, 54), (135, 54))
    p.arrow((288, 54), (315, 54))
    networks = {
        "reference\n(the start, frozen)": "log p_ref\nof each token",
        "reward model\n(frozen)": "score\nat the end",
        "value network": "V before\neach token",
    }
    for i, (network, gives) in enumerate(networks.items()):
        x = 318 + 197 * i
        p.arrow((x + 90, 84), (x + 90, 117))
        p.box(x, 120, 180, 56, network, "model")
        p.arrow((x + 90, 176), (x + 90, 207))
        p.text(x + 90, 226, gives, "small")
    p.text(150, 142, "all three read\nthe same text", "faint")
    formulas = {
        "shaped_rewards": "-beta (log p - log p_ref)\nat each token,\n+ score at the last",
        "gae": "advantage: how much\nbetter than V expected\n(lambda 0.95)",
        "whiten": "mean 0, standard\ndeviation 1\nin the batch",
        "policy_loss, value_loss": "policy and value network\nlearn from minibatches;\nthe average follows",
    }
    for i, (name, words) in enumerate(formulas.items()):
        x = 8 + 224 * i
        p.box(x, 290, 212, 118, "")
        p.text(x + 106, 316, name, "mono bold")
        p.text(x + 106, 344, words, "small")
        if i:
            p.arrow((x - 12, 349), (x - 2, 349))
    for x in (408, 605, 802):
        p.add("path", d=f"M{x},250 L{x},268 L114,268")
    p.arrow((114, 268), (114, 287))
    return p


def responses(tokenizer):
    """Responses, as collate makes them of two sequences."""
    texts = [("What eats hay?\n", "A horse."), ("Hello\n", "Hi")]
    sequences = []
    for prompt, answer in texts:
        ids = tokenizer.encode(prompt)
        sequences.append(Sequence(ids + tokenizer.encode(answer) + [tokenizer.eos], len(ids)))
    y = collate(sequences, tokenizer.pad)
    T, R = y.tokens.shape[1], y.mask.shape[1]
    cell = min(74, 780 // T)
    p = Picture(110 + cell * T, 330, "Responses: tokens, prompt_lengths, positions, targets and mask of two sequences")

    def name(id):
        special = {tokenizer.pad: "pad", tokenizer.eos: "end"}
        return special.get(id) or tokenizer.decode([id]).replace("\n", "\u21b5")

    p.text(4, 22, "tokens (B, T): prompt, response, end of text, padding at the right", "bold", "start")
    for i, (row, start) in enumerate(zip(y.tokens.tolist(), y.prompt_lengths.tolist())):
        for t, id in enumerate(row):
            p.box(
                100 + cell * t,
                34 + 34 * i,
                cell,
                30,
                name(id),
                "model" if start <= t and id != tokenizer.pad else "",
                "mono",
            )
    for t in range(T):
        p.text(100 + cell * (t + 0.5), 116, f"{t}", "small faint")
    p.text(
        4,
        150,
        "positions (B, R), where the output predicts a response's token; targets (B, R); mask (B, R)",
        "bold",
        "start",
    )
    for i in range(2):
        for r in range(R):
            x, top, real = 100 + cell * r, 164 + 82 * i, bool(y.mask[i, r])
            p.box(x, top, cell, 24, f"{int(y.positions[i, r])}", "bare", "small")
            p.box(x, top + 24, cell, 28, name(int(y.targets[i, r])) if real else "0", "model" if real else "", "mono")
            p.box(x, top + 52, cell, 22, f"{real}", "bare", "small" if real else "small faint")
    for i in range(2):
        for row, words in ((34 + 34 * i + 20, f"row {i}"), (164 + 82 * i + 42, f"row {i}")):
            p.text(92, row, words, "small faint", "end")
    return p


def clip(epsilon=0.2):
    """The clipped objective of one token, by the ratio, for a positive and for a negative advantage."""
    p = Picture(820, 290, "The clipped objective by the ratio, for an advantage of 1 and of -1")
    ratios = torch.linspace(0.4, 1.6, 121)
    for i, advantage in enumerate((1.0, -1.0)):
        left, mask = 60 + 400 * i, torch.ones(1, 1, dtype=torch.bool)
        one, none = torch.full((1, 1), advantage), torch.zeros(1, 1)
        objective = [-policy_loss(r.log()[None, None], none, one, mask, epsilon).item() for r in ratios]

        def at(ratio, value, left=left, middle=advantage):
            return left + (ratio - 0.4) / 1.2 * 320, 130 - (value - middle) * 140

        p.text(
            left + 160,
            20,
            f"advantage {advantage:+.0f}: the token is pushed {'up' if advantage > 0 else 'down'}",
            "bold",
        )
        for ratio in (0.8, 1.0, 1.2):
            x = at(ratio, 0)[0]
            p.add("line", x1=x, y1=36, x2=x, y2=234, stroke_dasharray="3 4")
            p.text(x, 252, f"{ratio:g}", "small faint")
        points = [at(ratio.item(), value) for ratio, value in zip(ratios, objective)]
        p.add("path", d="M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in points), class_="curve")
        p.text(left + 160, 276, "ratio: new probability over old", "small faint")
        p.text(*at(1.42 if advantage > 0 else 0.58, objective[-1] + 0.22 if advantage > 0 else objective[0] + 0.22),
               "flat: nothing\nmore to learn", "small")  # fmt: skip
    p.text(16, 135, "objective", "small faint", "start")
    return p


def strip(toy, tokenizer):
    """A question about a myth, answered before and after PPO, and the KL of each token after. It is the first of the
    test split that PPO answers in the voice of truths and its start does not. The answers are the likeliest ones."""
    rng = random.Random("strip")
    records = [draw_record("myth", rng, "test") for _ in range(100)]
    prompts, noise = [tokenizer.encode(r["prompt"]) for r in records], uniforms(0, len(records), LIMIT)
    start, policy = (load_model(f"{toy}/{name}", GPT, tokenizer).eval() for name in ("rl_start", "ppo"))
    with torch.no_grad():
        both = [generate(m, prompts, noise, tokenizer.eos, tokenizer.pad, temperature=1e-4)[0] for m in (start, policy)]
        kl = response_logps(policy, both[1]) - response_logps(start, both[1])
    before, after = ([text.strip() for text in responses.texts(tokenizer)] for responses in both)
    voiced = [new.startswith("In fact") and not old.startswith("In fact") for old, new in zip(before, after)]
    i = voiced.index(True) if any(voiced) else 0
    own = kl[i, : both[1].response_lengths[i]].tolist()
    tokens = [tokenizer.decode([id]) for id in both[1].targets[i, : len(own)].tolist()]
    widths = [max(46, 9 * len(shown(token)) + 12) for token in tokens]
    question, judged = records[i]["prompt"].strip(), [judgement(records[i], texts[i]) for texts in (before, after)]
    p = Picture(max(620, 20 + sum(widths)), 166, f"{question} The answers before and after PPO, and each token's KL")
    p.text(10, 18, question, "bold", "start")
    p.text(10, 44, f"before PPO ({judged[0]}): {before[i]}", "", "start")
    p.text(10, 68, f"after PPO ({judged[1]}), with the KL of each token:", "", "start")
    p.text(10, 158, f"{sum(own):.2f} nats of KL from the start in all", "small faint", "start")
    x = 10
    for token, width, value in zip(tokens, widths, own):
        strength = 0.45 * abs(value) / max(0.1, *map(abs, own))
        p.add("rect", x=x, y=78, width=width - 3, height=52, rx=4, class_="bare",
              style=f"fill: var({'--plus' if value > 0 else '--minus'}); fill-opacity: {strength:.2f}")  # fmt: skip
        p.text(x + width / 2 - 2, 100, shown(token), "mono")
        p.text(x + width / 2 - 2, 120, f"{value:+.2f}", "small faint")
        x += width
    return p


def judgement(record, text):
    return "true" if town.judge(record, text).truthful else "not true"


def shown(token):
    return "end" if token == "<|endoftext|>" else token.strip() or "\u21b5"


if __name__ == "__main__":
    command(main, Config, "toy")
