"""Conversations between a person and one or two models: their prompts, their turns, and which answer is preferred."""

import random
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from minirlhf.model import RewardModel
from minirlhf.rollout import per_sequence, response_scores
from minirlhf.support.chats import prompt_of, without_turns
from minirlhf.support.checkpoint import load_model
from minirlhf.support.errors import InputError, require
from minirlhf.support.records import encode_response

MOST = 200  # conversations that are kept


def fitted(prompt, speaker):
    """(the prompt without as many of its oldest turns as do not fit in the context, how many these are)."""
    dropped = 0
    require(tokens := speaker.tokenizer.encode(prompt), "the prompt is empty; type something")
    while len(tokens) > speaker.room and (shorter := without_turns(prompt, 1)):
        prompt, tokens, dropped = shorter, speaker.tokenizer.encode(shorter), dropped + 1
    if len(tokens) > speaker.room:
        raise InputError(f"the prompt has {len(tokens)} tokens, and {speaker.room} fit; shorten it")
    return prompt, dropped


@dataclass
class PromptFormat:
    """Builds a prompt from messages: the last one between a beginning and an ending, or a transcript of them all."""

    dialogue: bool
    beginning: str = ""
    ending: str = "\n"

    def prompt(self, messages):
        return prompt_of(messages) if self.dialogue else f"{self.beginning}{messages[-1]['content']}{self.ending}"


class Talks:
    """The chat page's requests. With two models, which is which is hidden until one answer is preferred.

    scorer: a reward model's folder, or None. keep: a function that saves a ranking record, or None. Methods raise
    InputError for invalid input, and then change nothing."""

    def __init__(self, speakers, form, temperature, seed=0, scorer=None, keep=None):
        self.speakers, self.form, self.temperature, self.keep = speakers, form, temperature, keep
        self.rng, self.lock, self.talks = np.random.default_rng(seed), threading.Lock(), OrderedDict()
        self.scorer = scorer and load_model(scorer, RewardModel, speakers[0].tokenizer).eval()

    def begin(self, request):
        """Starts a conversation, and drops the oldest if there are too many."""
        name = secrets.token_hex(8)
        self.talks[name] = {"messages": [], "answers": None}
        while len(self.talks) > MOST:
            self.talks.popitem(last=False)
        names = [speaker.name for speaker in self.speakers]
        settings = {"dialogue": self.form.dialogue, "temperature": self.temperature}
        return {"talk": name, "sides": len(names), "models": names} | settings

    def say(self, request):
        """Yields {"side", "text"} while the answers grow, then {"scores", "forgotten", "pair": the two answers' id}."""
        text, temperature = request.get("text"), request.get("temperature", self.temperature)
        if not isinstance(text, str) or not text.strip():
            raise InputError("the message is empty; type something")
        if not isinstance(temperature, (int, float)) or not 0.01 <= temperature <= 10:
            raise InputError("the temperature must be between 0.01 and 10")
        talk = self._talk(request)
        if self.form.dialogue and talk["answers"]:
            raise InputError("choose first which answer the conversation continues from")
        messages = [*(talk["messages"] if self.form.dialogue else []), {"role": "user", "content": text.strip()}]
        prompt = self.form.prompt(messages)
        fits = [fitted(prompt, speaker) for speaker in self.speakers]
        return self._answer(talk, messages, *min(fits, key=lambda fit: len(fit[0])), temperature)

    def _answer(self, talk, messages, prompt, dropped, temperature):
        with self.lock:
            order = random.sample(range(len(self.speakers)), len(self.speakers))
            answers = [""] * len(order)
            streams = {side: self.speakers[i].stream(prompt, temperature, self.rng) for side, i in enumerate(order)}
            while streams:
                for side, stream in list(streams.items()):
                    if (text := next(stream, None)) is None:
                        del streams[side]
                    else:
                        answers[side] = text
                        yield {"side": side, "text": text}
            end = {"scores": self._scores(prompt, answers), "forgotten": dropped, "pair": secrets.token_hex(8)}
            before = dict(talk)
            if len(order) > 1:
                talk |= dict(messages=messages, prompt=prompt, answers=answers, order=order, pair=end["pair"])
            else:
                talk["messages"] = [*messages, {"role": "assistant", "content": answers[0].strip()}]
        try:
            yield end
        except GeneratorExit:  # the page was closed before it got the end
            talk |= before
            raise

    def prefer(self, request):
        """Saves which of two answers is better (0 the first, 1 the second, None neither), and returns their models. A
        dialogue continues from the better answer, or from the first."""
        talk, better = self._talk(request), request.get("better", "")
        if better not in (0, 1, None) or isinstance(better, (bool, float)):
            raise InputError("better must be 0, 1 or null")
        with self.lock:
            if not talk["answers"] or request.get("pair") != talk["pair"]:
                raise InputError("these two answers are not open any more; nothing was changed")
            names = [self.speakers[i].name for i in talk["order"]]
            same = talk["answers"][0] == talk["answers"][1]
            ranks = [1, 1] if better is None or same else [1, 2] if better == 0 else [2, 1]
            if self.keep:
                self.keep({"prompt": talk["prompt"], "responses": talk["answers"], "ranks": ranks, "models": names})
            chosen = {"role": "assistant", "content": talk["answers"][better or 0].strip()}
            talk |= {"messages": [*talk["messages"], chosen], "answers": None}
        return {"models": names, "kept": self.keep is not None}

    def _talk(self, request):
        name = request.get("talk")
        if not isinstance(name, str) or name not in self.talks:
            raise InputError("the server does not know this conversation any more; start a new one")
        return self.talks[name]

    def _scores(self, prompt, answers):
        """The reward model's score of each answer, None of one that is too long; None without a reward model."""
        if self.scorer is None:
            return None
        tokenizer, n_ctx = self.speakers[0].tokenizer, self.scorer.config.n_ctx
        sequences = [encode_response(prompt, answer, tokenizer) for answer in answers]
        return [round(per_sequence(response_scores, self.scorer, [s], tokenizer.pad).item(), 2)
                if s.length <= n_ctx else None for s in sequences]  # fmt: skip
