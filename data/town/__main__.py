"""python -m data.town --out DIR: write the town's files."""

import argparse
import inspect

from .files import write

parser = argparse.ArgumentParser(prog="python -m data.town",
                                 description="Write the town's files as JSON lines.")
parser.add_argument("--out", required=True, help="folder to write into")
for name, parameter in list(inspect.signature(write).parameters.items())[1:]:
    parser.add_argument("--" + name.replace("_", "-"), type=int, default=parameter.default,
                        help=f"({parameter.default})")

if __name__ == "__main__":
    for name, path in write(**vars(parser.parse_args())).items():
        print(f"{name:26s}{path}")
