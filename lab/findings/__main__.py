"""Measures the paper's findings in the town: each has a claim, figures with 95 % intervals, a picture and a verdict.

    python -m lab.findings                      lists them, with what each costs in minutes on two cores
    python -m lab.findings ladder toxicity      runs some
    python -m lab.findings --all                runs all that have no result yet, in two hours
    python -m lab.findings --confirm --seed 30  runs those that claims.md has confirmed on this seed
    python -m lab.findings --claims             writes claims.md, the list of claims and bounds, beside this file

Findings share the models that they train. After a stop or a kill, the same command continues.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from lab.provenance import CLAIMS
from minirlhf.support.config import Text, check_fields, command, require_choice
from minirlhf.support.errors import InputError, require, reraise
from minirlhf.support.files import read_json, write_atomically
from minirlhf.support.folder import lock_output

from . import claims, page
from .lab import MINUTES, Lab
from .measuring import known, measure

WHICH = ("names", "all", "confirm", "claims")  # flags that may differ between two commands for one folder


@dataclass(frozen=True)
class Config:
    names: tuple[str, ...] = ()  # findings to run, also if they have a result
    all: bool = False  # run all findings that have no result yet
    confirm: bool = False  # run the findings that claims.md has confirmed on --seed
    seed: int = 0  # random seed
    out: str | None = None  # output folder; default runs/findings, and runs/findings-SEED for a seed that is not 0
    judge_on: Text = "test"  # prompts that models are judged on: test, or validation to try a recipe
    tiny: bool = False  # do a hundredth of the work, to see that it runs; the figures mean nothing
    claims: bool = False  # write claims.md; this comes before the runs that confirm a claim

    def __post_init__(self):
        check_fields(self)
        require_choice(self, "judge_on", ("test", "validation"))
        if not self.out:
            usual = "runs/findings" + ("-tiny" if self.tiny else "") + (f"-{self.seed}" if self.seed else "")
            object.__setattr__(self, "out", usual)


def main(config):
    findings, out = known(), config.out
    for name in config.names:
        if name not in findings:
            raise InputError(f"{name}: not a finding; choose from {', '.join(findings)}")
    if config.claims:
        return write_atomically(CLAIMS, claims.text(findings).encode())
    names = config.names
    if config.confirm:
        names = tuple(name for name, finding in findings.items() if config.seed in claims.seeds_of(finding))
        require(names, f"--seed {config.seed} confirms no claim; {CLAIMS.name} has the seeds that do")
    if not names and not config.all:
        return list_findings(findings)
    lock_output(config, ignore=WHICH)
    lab = Lab(out, config.seed, config.tiny, config.judge_on)
    missing = [name for name in names or findings if not Path(f"{out}/{name}.json").exists()]
    chosen = config.names or missing
    for i, name in enumerate(chosen):
        kept = [size for size in MINUTES if Path(f"{out}/{size}/ppo_ptx/model.pt").exists()]
        left = "" if config.tiny else f", about {math.ceil(cost([findings[n] for n in chosen[i:]], kept))} min left"
        print(f"== {name} ({i + 1} of {len(chosen)}{left})", flush=True)
        measure(findings[name](), lab)
    results = [(finding(), read_json(f"{out}/{name}.json")) for name, finding in findings.items()
               if Path(f"{out}/{name}.json").exists()]  # fmt: skip
    for finding, result in results:
        with reraise(f"{out}/{finding.name()}.json: not this version's figures; remove it, and it is measured again"):
            list(finding.claims(result["figures"]))
    changed = vars(config).items() - vars(Config(names=config.names, all=config.all, confirm=config.confirm)).items()
    flags = "".join(f" --{name}" + ("" if name == "tiny" else f" {value}") for name, value in sorted(changed))
    page.write(out, results, f"seed {config.seed}, judged on {config.judge_on} prompts, in {out}", flags)
    print(f"{out}/findings.html shows {len(results)} of {len(findings)} findings")


def cost(findings, kept=()):
    """Minutes of findings on two cores, with the training of the models that they share and that are not kept yet."""
    missing = {size for finding in findings for size in finding.sizes if size not in kept}
    return sum(finding.minutes for finding in findings) + sum(MINUTES[size] for size in missing)


def list_findings(findings):
    for name, finding in findings.items():
        claim = finding.claim().split(". ")[0].split("; ")[0].split(": ")[0]
        print(f"{name:<24}{finding.minutes:>4g} min  {claim}")
    models = ", ".join(f"{size} {minutes}" for size, minutes in MINUTES.items())
    print(f"{'together':<24}{cost(findings.values()):>4.0f} min, with the models that they share: {models}")


if __name__ == "__main__":
    command(main, Config, "names")
