"""Chooses the SFT epoch whose sampled responses score highest with the reward model (Ouyang et al. 2022, section 3.5).

    python -m tools.select_sft --sft runs/sft --reward_model runs/rm --prompts prompts_validation.jsonl \\
        --out runs/sft_best

In the paper SFT's validation loss rises after one epoch, but RM score and human preference still improve.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from minirlhf.model import GPT, RewardModel
from minirlhf.rollout import generate, in_chunks, response_scores, uniforms
from minirlhf.support import records
from minirlhf.support.checkpoint import load_model, load_tokenizer, save_model
from minirlhf.support.config import Text, check_fields, command, require_positive
from minirlhf.support.device import place
from minirlhf.support.errors import require
from minirlhf.support.files import write_json
from minirlhf.support.run import start_run, state_paths


@dataclass(frozen=True)
class Config:
    sft: str  # folder of an SFT run, with epoch-1.pt, epoch-2.pt, ...
    reward_model: str  # checkpoint of the reward model
    prompts: tuple[str, ...]  # files of validation prompts
    out: str  # folder for the chosen model.pt and selection.json
    max_response: int = 512  # tokens of a response at most
    seed: int = 0  # of the samples
    device: Text = "auto"  # cpu, cuda, mps, or auto: the fastest there is
    dtype: Text = "auto"  # of matrix products: float32, bfloat16, or auto: bfloat16 on CUDA

    def __post_init__(self):
        check_fields(self)
        require_positive(self, "max_response")


def main(config):
    tokenizer = load_tokenizer(config.sft)
    reward_model = place(load_model(config.reward_model, RewardModel, tokenizer), config).eval()
    epochs = [path for path in Path(config.sft).glob("epoch-*.pt") if re.fullmatch(r"epoch-\d+\.pt", path.name)]
    epochs.sort(key=lambda path: int(path.stem.removeprefix("epoch-")))
    require(epochs, f"--sft {config.sft}: no epoch-*.pt in it; give the folder of a train_sft.py run")
    stopped = f"--sft {config.sft}: this run has not ended; let it go on with --resume first"
    require(not state_paths(config.sft) and (Path(config.sft) / "model.pt").exists(), stopped)
    n_ctx = min(reward_model.config.n_ctx, load_model(epochs[0], GPT, tokenizer).config.n_ctx)
    prompts = records.load_prompts(config.prompts, tokenizer, n_ctx, config.max_response)
    if not start_run(config):
        return
    means = {path.name: mean_score(path, reward_model, prompts, tokenizer, config) for path in epochs}
    best = select(means)
    for name, mean in means.items():
        print(f"{name}: mean RM score {mean:+.3f}{'   <- chosen' if name == best else ''}", flush=True)
    write_json(Path(config.out) / "selection.json", {"chosen": best, "mean_rm_score": means})
    save_model(f"{config.out}/model.pt", load_model(Path(config.sft) / best, GPT, tokenizer), tokenizer)


def mean_score(path, reward_model, prompts, tokenizer, config):
    """Mean RM score of one sampled response to each prompt."""
    model = place(load_model(path, GPT, tokenizer), config)
    noise = config.seed, *b"selection"  # the same for all epochs, and different from PPO's
    samples = sample_responses(model, tokenizer, prompts, config.max_response, noise)
    return sum(in_chunks(response_scores, reward_model, s).sum().item() for _, s in samples) / len(prompts)


def sample_responses(model, tokenizer, prompts, limit, seed, batch_size=512):
    """A response of at most `limit` tokens to each prompt (lists of token ids), without dropout: yields (indices,
    Responses), prompts of like length together. seed: ints; the noise of prompt i depends on seed and i alone."""
    model.eval()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    noise = uniforms(seed, len(prompts), limit)
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        yield part, generate(model, [prompts[i] for i in part], noise[part], tokenizer.eos, tokenizer.pad)[0]


def select(means):
    """The name with the highest mean, the first of equals. means: {name: mean RM score}."""
    return max(means, key=means.get)


if __name__ == "__main__":
    command(main, Config)
