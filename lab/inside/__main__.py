"""python -m lab.inside RUN: the microscope."""

from minirlhf.support.config import command

from .microscope import Config, main

if __name__ == "__main__":
    command(main, Config, "runs")
