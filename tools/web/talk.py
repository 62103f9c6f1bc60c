"""A conversation between a person and one or more models: what is sent, what is remembered, what is preferred."""

import random
import secrets
import threading
from collections import OrderedDict

import numpy as np

from minirlhf.model import RewardModel
from minirlhf.rollout import per_sequence, response_scores
from minirlhf.support.checkpoint import load_model
from minirlhf.support.errors import InputError, require
from minirlhf.support.formats import prompt_of, without_first_turn
from minirlhf.support.records import encode_response

from .server import Refused

MOST = 200  # conversations that are remembered


def fitted(prompt, speaker):
    """(the prompt, how many turns were forgotten): a conversation that is too long loses its oldest turns."""
    forgotten = 0
    require(tokens := speaker.tokenizer.encode(prompt), "nothing to answer: the prompt is empty; say something")
    while len(tokens) > speaker.room and (shorter := without_first_turn(prompt)):
        prompt, tokens, forgotten = shorter, speaker.tokenizer.encode(shorter), forgotten + 1
    require(
        len(tokens) <= speaker.room, f"{len(tokens)} tokens, but {speaker.room} fit before an answer; say it shorter"
    )
    return prompt, forgotten


class Way:
    """How what a person says becomes a prompt: line by line, between a beginning and an ending; or as a dialogue, with
    all that was said before."""

    def __init__(self, dialogue, beginning="", ending="\n"):
        self.dialogue, self.beginning, self.ending = dialogue, beginning, ending

    def prompt(self, messages):
        if self.dialogue:
            return prompt_of(messages, "")
        return f"{self.beginning}{messages[-1]['content']}{self.ending}"


class Talks:
    """What the page asks. One model, or two side by side, of which the person is not told which is which until one is
    preferred. scorer: a reward model's folder. keep: takes a ranking record, or None."""

    def __init__(self, speakers, way, temperature, seed=0, scorer=None, keep=None):
        self.speakers, self.way, self.temperature, self.keep = speakers, way, temperature, keep
        self.rng, self.turn, self.talks = np.random.default_rng(seed), threading.Lock(), OrderedDict()
        self.scorer = scorer and load_model(scorer, RewardModel, speakers[0].tokenizer).eval()

    def begin(self, question):
        """A new conversation."""
        name = secrets.token_hex(8)
        self.talks[name] = {"messages": [], "prompt": None, "answers": None, "order": None, "pair": None}
        while len(self.talks) > MOST:
            self.talks.popitem(last=False)
        names = [speaker.name for speaker in self.speakers]
        told = {"talk": name, "sides": len(names), "dialogue": self.way.dialogue, "temperature": self.temperature}
        return told | {"models": names}

    def say(self, question):
        """Yields {"side", "text"} as the answers grow, all sides in turn; then {"scores", "forgotten", "pair"}, where
        pair names the two answers."""
        text, temperature = question.get("text"), question.get("temperature", self.temperature)
        if not isinstance(text, str) or not text.strip():
            raise Refused("say something")
        if not isinstance(temperature, (int, float)) or not 0.01 <= temperature <= 10:
            raise Refused("the temperature lies between 0.01 and 10")
        talk = self._talk(question)
        if self.way.dialogue and talk["answers"]:
            raise Refused("say first which answer the conversation shall go on from")
        before = talk["messages"] if self.way.dialogue else []
        messages = [*before, {"role": "user", "content": text.strip()}]
        try:
            prompt = self.way.prompt(messages)
            fits = [fitted(prompt, speaker) for speaker in self.speakers]
        except InputError as error:
            raise Refused(str(error)) from None
        return self._answer(talk, messages, min(fits, key=lambda fit: len(fit[0])), temperature)

    def _answer(self, talk, messages, fit, temperature):
        prompt, forgotten = fit
        with self.turn:
            order = random.sample(range(len(self.speakers)), len(self.speakers))
            answers, streams = [""] * len(order), {}
            for side, i in enumerate(order):
                streams[side] = self.speakers[i].stream(prompt, temperature, self.rng)
            while streams:
                for side, stream in list(streams.items()):
                    if (text := next(stream, None)) is None:
                        del streams[side]
                    else:
                        answers[side] = text
                        yield {"side": side, "text": text}
            told = {"scores": self._scores(prompt, answers), "forgotten": forgotten, "pair": secrets.token_hex(8)}
            before = dict(talk)
            if len(order) > 1:
                talk |= {"messages": messages, "prompt": prompt, "answers": answers, "order": order}
                talk["pair"] = told["pair"]
            else:
                talk["messages"] = [*messages, {"role": "assistant", "content": answers[0].strip()}]
        try:
            yield told
        except GeneratorExit:  # the window never heard the end of it
            talk |= before
            raise

    def prefer(self, question):
        """Keeps which of two answers is better (0 the first, 1 the second; None: neither), and says whose they are.
        A dialogue goes on from it, or from the first."""
        talk, better = self._talk(question), question.get("better", "")
        if better not in (0, 1, None) or isinstance(better, (bool, float)):
            raise Refused("better is 0, 1 or null")
        with self.turn:
            if not talk["answers"] or question.get("pair") != talk["pair"]:
                raise Refused("these two answers are not open any more; nothing was changed")
            names = [self.speakers[i].name for i in talk["order"]]
            same = talk["answers"][0] == talk["answers"][1]
            ranks = [1, 1] if better is None or same else [1, 2] if better == 0 else [2, 1]
            record = {"prompt": talk["prompt"], "responses": talk["answers"], "ranks": ranks, "models": names}
            if self.keep:
                self.keep(record)
            chosen = {"role": "assistant", "content": talk["answers"][better or 0].strip()}
            talk |= {"messages": [*talk["messages"], chosen], "answers": None}
        return {"models": names, "kept": self.keep is not None}

    def _talk(self, question):
        talk = self.talks.get(question.get("talk")) if isinstance(question.get("talk"), str) else None
        if talk is None:
            raise Refused("this conversation is not known any more; begin a new one")
        return talk

    def _scores(self, prompt, answers):
        """The reward model's, of each answer; None where there is none, or where it does not fit."""
        if self.scorer is None:
            return None
        tokenizer, n_ctx = self.speakers[0].tokenizer, self.scorer.config.n_ctx
        sequences = [encode_response(prompt, answer, tokenizer) for answer in answers]
        scores = [per_sequence(response_scores, self.scorer, [s], tokenizer.pad) if s.length <= n_ctx else None
                  for s in sequences]  # fmt: skip
        return [None if score is None else round(score.item(), 2) for score in scores]
