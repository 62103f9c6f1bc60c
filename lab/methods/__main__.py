"""Compares methods, and PPO with a detail changed, by what is true in the town.

    python -m lab.methods --seed 40              measures both findings with a seed, in 45 minutes on two cores
    python -m lab.methods methods --seed 40      one of them
    python -m lab.methods --search --seed 11     tries each method's learning rate and KL price, on validation content
    python -m lab.methods --claims               writes claims.md, the list of claims and bounds, beside this file

After a stop or a kill, the same command continues.
"""

from dataclasses import dataclass
from pathlib import Path

from lab.findings import claims
from lab.findings.lab import Lab
from lab.findings.measuring import measure
from lab.provenance import made_by
from minirlhf.support.config import Text, check_fields, command, require_choice
from minirlhf.support.errors import InputError
from minirlhf.support.files import write_atomically, write_json
from minirlhf.support.folder import lock_output

from .arms import search
from .findings import CLAIMS, FINDINGS, HEAD

WHICH = ("names", "search", "claims")  # flags that may differ between two commands for one folder


@dataclass(frozen=True)
class Config:
    names: tuple[str, ...] = ()  # methods or details; both unless given
    seed: int = 0  # random seed
    search: bool = False  # try settings, and measure no finding
    out: str | None = None  # output folder; default runs/methods-SEED
    judge_on: Text = "test"  # prompts that models are judged on: test, or validation
    tiny: bool = False  # do a hundredth of the work, to see that it runs; the figures mean nothing
    claims: bool = False  # write claims.md; this comes before the runs that confirm a claim

    def __post_init__(self):
        check_fields(self)
        require_choice(self, "judge_on", ("test", "validation"))
        if not self.out:
            object.__setattr__(self, "out", "runs/methods" + ("-tiny" if self.tiny else "") + f"-{self.seed}")


def main(config):
    for name in config.names:
        if name not in FINDINGS:
            raise InputError(f"{name}: not a finding; choose from {', '.join(FINDINGS)}")
    if config.claims:
        return write_atomically(CLAIMS, claims.text(FINDINGS, HEAD).encode())
    if config.search and config.judge_on == "test":
        raise InputError("--search needs --judge_on validation: settings are not chosen on test content")
    lock_output(config, ignore=WHICH)
    lab = Lab(config.out, config.seed, config.tiny, config.judge_on)
    if config.search:
        found = search(lab)
        write_json(f"{config.out}/search.json", {"tried": found, "seed": config.seed, "made by": made_by(CLAIMS)})
        for one in sorted(found, key=lambda one: -one["true utility"]):
            setting = f"{one['method']}, learning rate {one['lr']:g}, price {one['price']:g}"
            print(f"{setting:<50} true utility {one['true utility']:+.3f}  KL {one['KL']:.2f}")
        return
    for name in config.names or FINDINGS:
        if config.names or not Path(f"{config.out}/{name}.json").exists():
            print(f"== {name}", flush=True)
            measure(FINDINGS[name](), lab, CLAIMS)


if __name__ == "__main__":
    command(main, Config, "names")
