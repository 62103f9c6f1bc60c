"""Models' answers to prompts: several for a ranking, sampled ahead of the person; or one, token by token."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from minirlhf.model import GPT
from minirlhf.rollout import draw, generate
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.device import pick_device
from minirlhf.support.errors import require
from minirlhf.support.forward import Cache

ROUNDS = 3  # of sampling, until there are as many different answers as were asked for
KEPT = 8  # prompts whose answers wait


class Speaker:
    """A GPT and its tokenizer."""

    def __init__(self, source, limit):
        self.name, self.limit, self.tokenizer = str(source), limit, load_tokenizer(source)
        self.device = pick_device("auto")
        self.model = load_model(source, GPT, self.tokenizer).to(self.device).eval()
        self.room = self.model.config.n_ctx - limit  # tokens of a prompt at the most
        message = f"--max_response {limit}: {source} reads {self.model.config.n_ctx} tokens in all; take less"
        require(self.room > 0, message)

    def several(self, prompt, n, seed):
        """n sampled answers, as texts; the same for the same seed (ints)."""
        noise = torch.from_numpy(np.random.default_rng(seed).random((n, self.limit), dtype=np.float32))
        tokens, tokenizer = [self.tokenizer.encode(prompt)] * n, self.tokenizer
        responses, _ = generate(self.model, tokens, noise.to(self.device), tokenizer.eos, tokenizer.pad)
        return responses.texts(self.tokenizer)

    @torch.no_grad()
    def stream(self, prompt, temperature, rng):
        """Yields a sampled answer as far as it is known, after each token: ever longer texts."""
        tokens, said = torch.tensor([self.tokenizer.encode(prompt)], device=self.device), []
        cache = Cache(tokens.shape[1] + self.limit)
        while len(said) < self.limit:
            last = torch.tensor([[tokens.shape[1] - 1]], device=self.device)
            logits = self.model(tokens, cache=cache, at=last)[:, 0]
            noise = torch.from_numpy(rng.random(1, dtype=np.float32)).to(self.device)
            tokens = draw(logits, noise, temperature)[0][:, None]
            if tokens.item() == self.tokenizer.eos:
                return
            said.append(tokens.item())
            yield self.tokenizer.decode(said)


def speakers(sources, limit):
    return [Speaker(source, limit) for source in sources]


def that_fit(records, speakers, where):
    """The records whose whole prompts all models can read; the others are left out, aloud."""
    kept = [r for r in records if all(len(s.tokenizer.encode(r["prompt"])) <= s.room for s in speakers)]
    if len(kept) < len(records):
        print(f"{where}: left out {len(records) - len(kept)} of {len(records)} prompts, too long for the models")
    require(kept, f"{where}: none of its prompts is short enough for the models; take a smaller --max_response")
    return kept


class Answers:
    """k different answers to each of some prompts, by models in turn; a thread samples those that come next."""

    def __init__(self, speakers, prompts, k, seed=0):
        self.speakers, self.prompts, self.k, self.seed = speakers, prompts, k, seed
        self.worker, self.ready, self.turn = ThreadPoolExecutor(1), {}, threading.Lock()

    def of(self, i):
        """[(text, [names of the models that said it])] in a random order, of at most k different texts."""
        return self._soon(i).result()

    def prepare(self, rows):
        """Says which prompts come next."""
        for i in rows:
            self._soon(i)

    def close(self):
        """Forgets what is not sampled yet."""
        self.worker.shutdown(wait=False, cancel_futures=True)

    def _soon(self, i):
        with self.turn:
            if i not in self.ready:
                while len(self.ready) >= KEPT:
                    del self.ready[next(iter(self.ready))]
                self.ready[i] = self.worker.submit(self.sample, i)
            return self.ready[i]

    def sample(self, i):
        found, texts = {}, {}  # by what is seen of them: the models, and the text as it was sampled
        for round in range(ROUNDS):
            for j, speaker in enumerate(self.speakers):
                n = len(range(j, self.k, len(self.speakers)))
                for text in speaker.several(self.prompts[i], n, (self.seed, i, round, j)):
                    if text.strip() in found or len(found) < self.k:
                        texts.setdefault(text.strip(), text)
                        found.setdefault(text.strip(), set()).add(speaker.name)
            if len(found) == self.k:
                break
        answers = [(texts[seen], sorted(models)) for seen, models in found.items()]
        random.Random(f"order {self.seed} {i}").shuffle(answers)
        return answers
