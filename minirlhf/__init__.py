"""minirlhf: InstructGPT (Ouyang et al. 2022, arXiv 2203.02155), as small as it can honestly be."""

# ruff: noqa: F401

from .data import Responses, batches, collate
from .losses import (
    cosine_lr,
    ema_update,
    gae,
    masked_mean,
    policy_loss,
    ptx_loss,
    ranked_above,
    ranking_loss,
    sft_loss,
    shaped_rewards,
    value_loss,
    warmup_lr,
    whiten,
)
from .model import GPT, PRESETS, GPTConfig, RewardModel
from .rollout import generate, response_logps, response_scores, response_values, sample, uniforms
from .support.checkpoint import load_model, load_tokenizer, save_model
from .support.errors import InputError
from .support.records import Ranking, Sequence
from .support.tokenizer import Tokenizer, train_bpe
