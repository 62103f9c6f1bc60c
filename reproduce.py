"""InstructGPT in miniature: the whole paper on the town, offline, on two CPU cores, in minutes.

    python reproduce.py                     all stages, from nothing to runs/toy/report.html
    python reproduce.py --seed 1 --out runs/toy-1
    python reproduce.py --size small        larger models that have read more, in half an hour; or nano, or medium
    python reproduce.py --stage rm          up to the reward model, and no further

Stopped or killed, it goes on with the same command: finished stages are kept, and training resumes from its newest
state. The stages and their recipe are in lab/stages.py.
"""

from pathlib import Path

from lab import report, stages
from lab.stages import Config
from minirlhf.support.config import command
from minirlhf.support.files import read_json


def main(config):
    stages.run(config)
    results = Path(config.out) / "results.json"
    if config.stage == "report":
        print(report.table(read_json(results)))
        print(f"{config.out}/report.html shows it{'; a tiny run, whose figures mean nothing' if config.tiny else ''}")


if __name__ == "__main__":
    command(main, Config)
