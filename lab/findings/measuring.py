"""Which findings there are, and how one is measured: its figures, its picture, its claims and its verdict."""

import importlib
import pkgutil
import time
from pathlib import Path

from lab.provenance import CLAIMS, made_by
from lab.shown import with_interval
from minirlhf.support.errors import InputError
from minirlhf.support.files import write_json

from . import page, pictures
from .finding import Finding, verdict


def known():
    """{name: Finding}: the subclasses in this folder's files, file by file."""
    files = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.name != "__main__"]
    modules = [importlib.import_module(f"lab.findings.{name}").__name__ for name in files]
    return {f.name(): f for module in modules for f in Finding.__subclasses__() if f.__module__ == module}


def measure(finding, lab, claims=CLAIMS):
    """Measures a finding, writes its figures and its picture, and prints its claims and its verdict. claims: the file
    that has its claims."""
    began = time.perf_counter()
    try:
        figures = finding.measure(lab)
    except ImportError as error:
        raise InputError(f'{finding.name()}: {error}; pip install "minirlhf[all]"') from None
    claimed = list(finding.claims(figures))
    result = {"verdict": verdict(claimed), "figures": figures, "seconds": round(time.perf_counter() - began, 1)}
    result |= {"seed": lab.seed, "made by": made_by(claims)}
    write_json(f"{lab.out}/{finding.name()}.json", result)
    pictures.write(finding, figures, f"{lab.out}/{finding.name()}.png")
    for one in claimed:
        print(f"   {page.MARKS[one.holds]}: {one.text}: {with_interval(one.value)}")
    print(f"   {result['verdict']}, {result['seconds']:.0f} s", flush=True)
