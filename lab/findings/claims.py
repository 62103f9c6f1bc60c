"""The file of claims, claims.md: each finding's claims, their bounds, and the seeds on which they are confirmed.

The file is written and committed before those runs. Each result holds its hash, so that nobody can exchange a claim
afterwards without a trace.
"""

from .page import bound

TOY_SEEDS = (30, 31, 32, 33, 34)
MEDIUM_SEEDS = (30, 31)  # training the largest models takes more than an hour
RUN_SEEDS = range(30, 40)  # of reproduce.py

HEAD = f"""# Claims

Written by `python -m lab.findings --claims` and committed before the runs that confirm them. No claim has been measured
with seeds {RUN_SEEDS[0]} to {RUN_SEEDS[-1]} before, nor was anything chosen with them. A claim holds if the whole 95 %
interval of its figure is within the bounds. The interval is over runs and prompts (`seeds.py`); with two seeds it holds
the intervals of both, and the claim is one about these two runs. A finding is reproduced if all its claims hold, not
reproduced if one does not, and inconclusive otherwise.

| finding | claim | figure | bound | measured on | seeds |
|---|---|---|---|---|---|
"""


def seeds_of(finding):
    """The seeds on which a finding is confirmed."""
    return finding.seeds or (MEDIUM_SEEDS if "medium" in finding.sizes else TOY_SEEDS)


def text(findings, head=HEAD):
    """claims.md of {name: Finding}."""
    rows = []
    for name, finding in findings.items():
        seeds = seeds_of(finding)
        for said, figure, bounds in finding.hypotheses:
            what = bound(**bounds)
            rows.append(f"| `{name}` | {said} | {figure} | {what} | {finding.sample} | {seeds[0]} to {seeds[-1]} |")
    return head + "\n".join(rows) + "\n"
