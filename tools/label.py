"""Rank models' answers in a browser: step 2 of InstructGPT with human labelers, who may write demonstrations, too.

    python -m tools.label --models runs/toy/sft runs/toy/gpt --prompts runs/toy/town/prompts_train.jsonl --rate \\
        --out runs/mine/rankings.jsonl                      then open the address that it prints
    python -m tools.label --out runs/mine/rankings.jsonl --report --reward_model runs/toy/rm
    python -m tools.label --out runs/mine/rankings.jsonl --export trl

The models give --answers answers to each prompt; the page hides which model gave which. With --rate each answer is
first rated from 1 to 7 and flagged, as in the paper's interface (Figure 12, Table 3); then all are ranked, with ties.
One prompt in twenty is asked again later, to measure how often labelers agree with themselves.

Each ranking is on the disk before the page moves on; after a kill, start the same command again. train_rm.py --data
reads the rankings, and train_sft.py --data the answers that labelers wrote (rankings-demonstrations.jsonl). --report
prints counts, times and agreement; on the town's prompts also with the town's own labelers.
"""

import threading
from dataclasses import dataclass

from minirlhf.support.config import Text, check_fields, command, refuse_unused, require_choice, require_positive
from minirlhf.support.errors import InputError, require
from minirlhf.support.records import read
from tools.web import agreement, labels, server
from tools.web.answers import Answers, Speaker, that_fit
from tools.web.labels import FLAGS, Labels, named


@dataclass(frozen=True)
class Config:
    out: str  # file of rankings to add to, .jsonl
    models: tuple[str, ...] = ()  # the models: runs' folders, or .pt files
    prompts: str | None = None  # file of prompts
    answers: int = 4  # to each prompt, 2 to 9 (paper: 4 to 9)
    rate: bool = False  # rate each answer before all are ranked, as in the paper
    max_response: int = 32  # tokens of an answer at most
    seed: int = 0  # of the sampling
    port: int = 8000  # of the page; 0 for any free port
    host: Text = "127.0.0.1"  # any other than this default serves other machines, too, to whoever has the token
    report: bool = False  # only print statistics of the rankings in --out
    reward_model: str | None = None  # for --report: a reward model to compare with
    export: str | None = None  # only write the rankings as pairs of chosen and rejected: trl, or hh (HH-RLHF's format)

    def __post_init__(self):
        check_fields(self)
        require_choice(self, "export", agreement.EXPORTS)
        require_positive(self, "max_response")
        if not self.report:
            refuse_unused(self, "reward_model", "--report")
        if self.report or self.export:
            refuse_unused(self, "models prompts answers rate", "labelling (--report and --export only read --out)")
        else:
            require(self.models, "--models: name one or more models")
            require(self.prompts, "--prompts: name a file of prompts")
            require(2 <= self.answers <= 9, f"--answers {self.answers}: a ranking has 2 to 9")
            fault = f"--models: {len(self.models)} for --answers {self.answers}; take more answers, or fewer models"
            require(len(self.models) <= self.answers, fault)
            require(self.port < 2**16, f"--port {self.port}: a port is below 65536")


def main(config):
    labels.check(config.out)
    if config.report:
        print(agreement.report(config.out, config.reward_model))
    if config.export:
        print(agreement.export(config.out, config.export))
    if config.report or config.export:
        return
    speakers = [Speaker(model, config.max_response) for model in config.models]
    records = that_fit(read(config.prompts, "prompt"), speakers, config.prompts)
    answers = Answers(speakers, [record["prompt"] for record in records], config.answers, config.seed)
    store = Labels(config.out, records, answers, config.rate, config.seed)
    answers.prepare([0])
    try:
        server.open_page(server.page("label"), routes(store), config.host, config.port, f"rankings go to {config.out}")
    finally:
        answers.close()


REQUESTS = {  # path: (method of Labels, its required fields, its optional fields)
    "/next": (Labels.next, set(), set()),
    "/rank": (Labels.rank, {"id", "ranks", "seconds"}, {"ratings", "flags"}),
    "/skip": (Labels.skip, {"id"}, set()),
    "/back": (Labels.back, {"id"}, set()),
    "/demonstrate": (Labels.demonstrate, {"id", "response"}, set()),
}


def routes(store):
    """{path: function of a request, a dict, that returns what the page then shows}. store: a Labels, used in a lock."""
    lock = threading.Lock()

    def route(method, required, optional):
        def answer(request):
            labeler = named(request.pop("labeler", None))
            if not required <= request.keys() <= required | optional:
                raise InputError("the request's fields are not those that the page sends")
            with lock:
                method(store, labeler, **request)
                return state(store, labeler)

        return answer

    return {path: route(*request) for path, request in REQUESTS.items()}


def state(store, labeler):
    shown = {"saved": len(store.mine[labeler]), "prompts": len(store.records), "rate": store.rate, "flags": FLAGS}
    if task := store.next(labeler):
        before = task.before and {name: task.before.get(name) for name in ("ranks", "ratings", "flags")}
        own = {"id": task.id, "prompt": task.prompt, "answers": task.responses, "again": task.again}
        shown["task"] = own | {"before": before}
    return shown


if __name__ == "__main__":
    command(main, Config)
