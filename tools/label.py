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

from minirlhf.support.config import Parser, command, file_name, number, require_positive
from minirlhf.support.errors import require
from minirlhf.support.records import read
from tools.web import agreement, answers, labels, server
from tools.web.labels import FLAGS, Labels, named


def main(argv):
    parser = Parser(__doc__)
    parser.add_argument("--out", type=file_name, required=True, help="file of rankings to add to, .jsonl")
    parser.add_argument("--models", nargs="+", type=file_name, help="runs' folders, or .pt files, that answer")
    parser.add_argument("--prompts", type=file_name, help="file of prompts")
    parser.add_argument("--answers", type=number(int), default=4, help="to each prompt, 2 to 9 (paper: 4 to 9) [4]")
    parser.add_argument("--rate", action="store_true", help="rate each answer before all are ranked, as the paper did")
    parser.add_argument("--max_response", type=number(int), default=32, help="tokens of an answer at the most [32]")
    parser.add_argument("--seed", type=number(int), default=0, help="of the sampling [0]")
    parser.add_argument("--port", type=number(int), default=8000, help="of the page; 0 takes any that is free [8000]")
    parser.add_argument("--host", default="127.0.0.1", help=server.HOST_HELP)
    parser.add_argument("--report", action="store_true", help="say what the rankings in --out are worth, and stop")
    parser.add_argument("--reward_model", type=file_name, help="for --report: a reward model to compare with")
    parser.add_argument("--export", choices=tuple(agreement.EXPORTS), help="write the rankings as pairs of chosen and "
                        "rejected, for TRL or as HH-RLHF has them, and stop")  # fmt: skip
    args = parser.parse_args(argv)
    labels.check(args.out)
    if args.report or args.export:
        if args.report:
            print(agreement.report(args.out, args.reward_model))
        if args.export:
            print(agreement.export(args.out, args.export))
        return
    require(args.models, "--models: name one or more that shall answer")
    require(args.prompts, "--prompts: name a file of prompts")
    require(2 <= args.answers <= 9, f"--answers {args.answers}: a ranking has 2 to 9")
    require(args.port < 2**16, f"--port {args.port}: a port is below 65536")
    require_positive(args, "max_response")
    speakers = answers.speakers(args.models, args.max_response)
    records = answers.that_fit(read(args.prompts, "prompt"), speakers, args.prompts)
    sampler = answers.Answers(speakers, [record["prompt"] for record in records], args.answers, args.seed)
    asked = Labels(args.out, records, sampler, args.rate, args.seed)
    sampler.prepare([0])
    try:
        server.open_page(server.page("label"), routes(asked), args.host, args.port, f"rankings go to {args.out}")
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
    command(main)
