"""The town as files: JSON lines, one record each."""

import json
import os
from pathlib import Path

from .demonstrations import demonstrations
from .prompts import prompts
from .web import documents


def write_lines(path, records):
    """All or nothing: a reader never meets half a file."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write(out, seed=0, web=25_000, web_held_out=1_000, demonstration=1_500, demonstration_validation=200,
          prompt_train=6_000, prompt_validation=500, prompt_test=2_000):
    """The town's files in folder `out`; the other arguments are numbers of records. Returns {name: path}.

    Demonstrations are on train and validation prompts of their own, not on those of the prompt files.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    demonstrated = {split: prompts(split, n, seed + 1) for split, n in
                    (("train", demonstration), ("validation", demonstration_validation))}
    files = {
        "web": documents(web, seed),
        "web_held_out": documents(web_held_out, seed, held_out=True),
        "demonstrations": demonstrations(demonstrated["train"], seed),
        "demonstrations_validation": demonstrations(demonstrated["validation"], seed + 1),
        "prompts_train": prompts("train", prompt_train, seed),
        "prompts_validation": prompts("validation", prompt_validation, seed),
        "prompts_test": prompts("test", prompt_test, seed),
    }
    paths = {name: out / f"{name}.jsonl" for name in files}
    for name, records in files.items():
        write_lines(paths[name], records)
    return paths
