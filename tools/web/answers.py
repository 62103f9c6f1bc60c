"""Models' answers to prompts: several for a ranking, sampled ahead of time, or one that is streamed token by token."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from minirlhf.model import GPT
from minirlhf.rollout import draw, generate, uniforms
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.device import pick_device
from minirlhf.support.errors import require
from minirlhf.support.forward import Cache

ROUNDS = 3  # of sampling at most, until there are enough different answers
KEPT = 8  # prompts whose answers are kept


class Speaker:
    """A GPT and its tokenizer. limit: tokens of an answer at most."""

    def __init__(self, source, limit):
        self.name, self.limit, self.tokenizer = str(source), limit, load_tokenizer(source)
        self.device = pick_device("auto")
        self.model = load_model(source, GPT, self.tokenizer).to(self.device).eval()
        self.room = self.model.config.n_ctx - limit  # tokens of a prompt at most
        message = f"--max_response {limit}: {source} reads {self.model.config.n_ctx} tokens in all; take less"
        require(self.room > 0, message)

    def several(self, prompt, n, seed):
        """n sampled answers, as texts. seed: ints; the same seed gives the same answers."""
        tokens, tokenizer = [self.tokenizer.encode(prompt)] * n, self.tokenizer
        noise = uniforms(seed, n, self.limit)
        responses, _ = generate(self.model, tokens, noise, tokenizer.eos, tokenizer.pad)
        return responses.texts(tokenizer)

    @torch.no_grad()
    def stream(self, prompt, temperature, rng):
        """Samples an answer and yields the text so far after each token."""
        tokens, answer = torch.tensor([self.tokenizer.encode(prompt)], device=self.device), []
        cache = Cache(tokens.shape[1] + self.limit)
        while len(answer) < self.limit:
            last = torch.tensor([[tokens.shape[1] - 1]], device=self.device)
            logits = self.model(tokens, cache=cache, at=last)[:, 0]
            noise = torch.from_numpy(rng.random(1, dtype=np.float32)).to(self.device)
            tokens = draw(logits, noise, temperature)[0][:, None]
            if tokens.item() == self.tokenizer.eos:
                return
            answer.append(tokens.item())
            yield self.tokenizer.decode(answer)


def that_fit(records, speakers, path):
    """The records whose prompts fit in all models' contexts; prints how many do not."""
    kept = [r for r in records if all(len(s.tokenizer.encode(r["prompt"])) <= s.room for s in speakers)]
    if len(kept) < len(records):
        print(f"{path}: left out {len(records) - len(kept)} of {len(records)} prompts, too long for the models")
    require(kept, f"{path}: none of its prompts is short enough for the models; take a smaller --max_response")
    return kept


class Answers:
    """Up to k different answers to each of some prompts, shared among the models; a thread samples them."""

    def __init__(self, speakers, prompts, k, seed=0):
        self.speakers, self.prompts, self.k, self.seed = speakers, prompts, k, seed
        self.worker, self.futures, self.lock = ThreadPoolExecutor(1), {}, threading.Lock()

    def of(self, i):
        """The answers to the i-th prompt: [(text, [names of the models that gave it])], shuffled."""
        return self._submit(i).result()

    def prepare(self, rows):
        """Starts to sample answers to prompts that come next."""
        for i in rows:
            self._submit(i)

    def close(self):
        """Drops what is not sampled yet."""
        self.worker.shutdown(wait=False, cancel_futures=True)

    def _submit(self, i):
        with self.lock:
            if i not in self.futures:
                while len(self.futures) >= KEPT:
                    del self.futures[next(iter(self.futures))]
                self.futures[i] = self.worker.submit(self.sample, i)
            return self.futures[i]

    def sample(self, i):
        texts, models = {}, {}  # the first sampled text, and the models, by text without surrounding spaces
        for round in range(ROUNDS):
            for j, speaker in enumerate(self.speakers):
                n = len(range(j, self.k, len(self.speakers)))
                for text in speaker.several(self.prompts[i], n, (self.seed, i, round, j)):
                    if text.strip() in texts or len(texts) < self.k:
                        texts.setdefault(text.strip(), text)
                        models.setdefault(text.strip(), set()).add(speaker.name)
            if len(texts) == self.k:
                break
        answers = [(texts[stripped], sorted(models[stripped])) for stripped in texts]
        random.Random(f"order {self.seed} {i}").shuffle(answers)
        return answers
