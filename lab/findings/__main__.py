"""The paper's findings, measured in the town: each a claim, figures with 95 % intervals, a picture and a verdict.

    python -m lab.findings                      lists them, with what each costs in minutes on two cores
    python -m lab.findings ladder toxicity      runs some
    python -m lab.findings --all                runs all that are not yet there, in an hour and three quarters

What is trained is kept and shared. Stopped or killed, it goes on with the same command.
"""

import importlib
import math
import pkgutil
import time
from dataclasses import dataclass
from pathlib import Path

from minirlhf.support.config import Parser, command, file_name, number
from minirlhf.support.errors import InputError, require
from minirlhf.support.files import read_json, write_json
from minirlhf.support.folder import claim
from minirlhf.support.run import drawing

from . import page
from .finding import Finding, verdict
from .lab import MINUTES, Lab


def known():
    """{name: Finding}: the subclasses in this folder's files, in the order in which they are defined."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name != "__main__":
            importlib.import_module(f"lab.findings.{module.name}")
    return {finding.name(): finding for finding in Finding.__subclasses__()}


@dataclass(frozen=True)
class Config:
    out: str
    seed: int
    tiny: bool
    judge_on: str


def main(argv):
    findings = known()
    parser = Parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="FINDING", help="which to run, again if it was run before")
    parser.add_argument("--all", action="store_true", help="run all that are not yet there")
    parser.add_argument("--seed", type=number(int), default=0, help="of everything that is drawn [0]")
    parser.add_argument("--out", type=file_name, help="folder for all of it [runs/findings, with another seed -SEED]")
    parser.add_argument("--judge_on", choices=("test", "validation"), default="test", help="whose prompts models are "
                        "judged on; validation, to try a recipe [test]")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="a hundredth of the work; its figures mean nothing")
    args = parser.parse_args(argv)
    for name in args.names:
        require(name in findings, f"{name}: no finding; choose of {', '.join(findings)}")
    kind = "findings-tiny" if args.tiny else "findings"
    out = args.out or f"runs/{kind}" + (f"-{args.seed}" if args.seed else "")
    if not args.names and not args.all:
        return show(findings)
    claim(Config(out, args.seed, args.tiny, args.judge_on))
    lab = Lab(out, args.seed, args.tiny, args.judge_on)
    chosen = args.names or [name for name in findings if not Path(f"{out}/{name}.json").exists()]
    for i, name in enumerate(chosen):
        kept = [size for size in MINUTES if Path(f"{out}/{size}/ppo_ptx/model.pt").exists()]
        left = "" if args.tiny else f", about {math.ceil(cost([findings[n] for n in chosen[i:]], kept))} min left"
        print(f"== {name} ({i + 1} of {len(chosen)}{left})", flush=True)
        run(findings[name](), lab)
    results = [(finding(), read_json(f"{out}/{name}.json")) for name, finding in findings.items()
               if Path(f"{out}/{name}.json").exists()]  # fmt: skip
    flags = "".join(f" {word}" for word in argv if word not in args.names and word != "--all")
    page.write(out, results, f"seed {args.seed}, judged on {args.judge_on} prompts, in {out}", flags)
    print(f"{out}/findings.html shows {len(results)} of {len(findings)} findings")


def cost(findings, kept=()):
    """Minutes of findings on two cores, with those of the models that they share and that are not kept yet."""
    missing = {size for finding in findings for size in finding.sizes if size not in kept}
    return sum(finding.minutes for finding in findings) + sum(MINUTES[size] for size in missing)


def run(finding, lab):
    """Measures a finding, writes its figures and its picture, and says what came of it."""
    began = time.perf_counter()
    try:
        figures = finding.measure(lab)
    except ImportError as error:
        raise InputError(f'{finding.name()}: {error}; pip install "minirlhf[all]"') from None
    claims = list(finding.claims(figures))
    result = {"verdict": verdict(claims), "figures": figures, "seconds": round(time.perf_counter() - began, 1)}
    write_json(f"{lab.out}/{finding.name()}.json", result)
    draw(finding, figures, f"{lab.out}/{finding.name()}.png")
    for one in claims:
        print(f"   {page.MARKS[one.holds]}: {one.text}: {page.text(one.value)}")
    print(f"   {result['verdict']}, {result['seconds']:.0f} s", flush=True)


def draw(finding, figures, path):
    from minirlhf.support.files import write_atomically

    with drawing(path):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 3.6), layout="constrained")
        finding.draw(figure, figures)
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110, transparent=True))


def show(findings):
    for name, finding in findings.items():
        claim = finding.claim().split(". ")[0].split("; ")[0].split(": ")[0]
        print(f"{name:<24}{finding.minutes:>4g} min  {claim}")
    models = ", ".join(f"{size} {minutes}" for size, minutes in MINUTES.items())
    print(f"{'together':<24}{cost(findings.values()):>4.0f} min, with the models that they share: {models}")


if __name__ == "__main__":
    command(main)
