"""Rank models' answers in a browser: step 2 of InstructGPT with the H in it, and better answers for step 1.

    python -m tools.label --models runs/toy/sft runs/toy/gpt --prompts runs/toy/town/prompts_train.jsonl --rate \\
        --out runs/mine/rankings.jsonl                      then open the address that it prints
    python -m tools.label --out runs/mine/rankings.jsonl --report --reward_model runs/toy/rm
    python -m tools.label --out runs/mine/rankings.jsonl --export trl

To each prompt the models give --answers answers; whose they are is not shown. With --rate each is first rated alone,
from 1 to 7, with flags, as in the paper's interface (Figure 12, Table 3); then all are ranked, and ties are welcome.
One prompt in twenty comes again later, to see how well labelers agree with themselves.

What was saved is safe: a kill loses nothing, and the same command goes on. train_rm.py --data reads the rankings as
they are, and train_sft.py --data the answers that people wrote (rankings-demonstrations.jsonl). --report says how many
there are and what they are worth: on the town's prompts also against the town's own labelers.
"""

import inspect
import threading
from dataclasses import dataclass

from minirlhf.support.config import check_fields, command, require_choice, require_positive
from minirlhf.support.errors import InputError
from minirlhf.support.records import read
from tools.web import agreement, answers, labels, server
from tools.web.labels import FLAGS, Labels, named


@dataclass(frozen=True)
class Config:
    out: str  # file of rankings to add to, .jsonl
    models: tuple[str, ...] = ()  # runs' folders, or .pt files, that answer
    prompts: str | None = None  # file of prompts
    answers: int = 4  # to each prompt, 2 to 9 (paper: 4 to 9)
    rate: bool = False  # rate each answer before all are ranked, as the paper did
    max_response: int = 32  # tokens of an answer at the most
    seed: int = 0  # of the sampling
    port: int = 8000  # of the page; 0 takes any that is free
    host: str = "127.0.0.1"  # another than this machine's own opens the page to all who have the token
    report: bool = False  # say what the rankings in --out are worth, and stop
    reward_model: str | None = None  # for --report: a reward model to compare with
    export: str | None = None  # write the rankings as pairs of chosen and rejected, and stop: trl, or hh as HH-RLHF

    def __post_init__(self):
        check_fields(self)
        require_choice(self, "export", agreement.EXPORTS)
        require_positive(self, "max_response")
        if not (self.report or self.export):
            if not self.models:
                raise InputError("--models: name one or more that shall answer")
            if not self.prompts:
                raise InputError("--prompts: name a file of prompts")
            if not 2 <= self.answers <= 9:
                raise InputError(f"--answers {self.answers}: a ranking has 2 to 9")
            if self.port >= 2**16:
                raise InputError(f"--port {self.port}: a port is below 65536")


def main(config):
    labels.check(config.out)
    if config.report or config.export:
        if config.report:
            print(agreement.report(config.out, config.reward_model))
        if config.export:
            print(agreement.export(config.out, config.export))
        return
    speakers = answers.speakers(config.models, config.max_response)
    records = answers.that_fit(read(config.prompts, "prompt"), speakers, config.prompts)
    sampler = answers.Answers(speakers, [record["prompt"] for record in records], config.answers, config.seed)
    asked = Labels(config.out, records, sampler, config.rate, config.seed)
    sampler.prepare([0])
    try:
        server.open_page(server.page("label"), routes(asked), config.host, config.port, f"rankings go to {config.out}")
    finally:
        sampler.close()


def routes(asked):
    """What the page may ask: {name: function of a dict}. One question at a time changes what is saved."""
    turn = threading.Lock()

    def state(labeler):
        task = asked.next(labeler)
        told = {"saved": len(asked.mine[labeler]), "prompts": len(asked.records), "rate": asked.rate, "flags": FLAGS}
        if task:
            before = task.before and {name: task.before.get(name) for name in ("ranks", "ratings", "flags")}
            own = {"id": task.id, "prompt": task.prompt, "answers": task.responses, "again": task.again}
            told["task"] = own | {"before": before}
        return told

    def asks(function):
        def answer(question):
            labeler = named(question.pop("labeler", None))
            with turn:
                try:
                    call = inspect.signature(function).bind(asked, labeler, **question)
                except TypeError:
                    raise server.Refused("this is not a question that the page asks") from None
                function(*call.args, **call.kwargs)
                return state(labeler)

        return answer

    return {
        "/next": asks(Labels.next),
        "/rank": asks(Labels.rank),
        "/skip": asks(Labels.skip),
        "/back": asks(Labels.back),
        "/demonstrate": asks(Labels.demonstrate),
    }


if __name__ == "__main__":
    command(main, Config)
