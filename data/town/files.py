"""The town's files: their names and contents."""

import random

from .demonstrations import STYLES, demonstrations, respond
from .dialogues import dialogues
from .labelers import TRAINING_LABELERS, rank
from .prompts import prompts
from .web import documents
from .world import states_fact


def files(seed, web, web_held_out, demonstration, demonstration_validation, prompt_train, prompt_validation,
          prompt_test, dialogue=0):  # fmt: skip
    """{name: records}, with so many records each. Demonstrations have prompts of their own, not those of the prompt
    files."""
    demonstrated = prompts("train", demonstration, seed + 1)
    demonstrated_validation = prompts("validation", demonstration_validation, seed + 1)
    made = {
        "web": documents(web, seed),
        "web_held_out": documents(web_held_out, seed, held_out=True),
        "demonstrations": demonstrations(demonstrated, seed),
        "demonstrations_validation": demonstrations(demonstrated_validation, seed + 1),
        "prompts_train": prompts("train", prompt_train, seed),
        "prompts_validation": prompts("validation", prompt_validation, seed),
        "prompts_test": prompts("test", prompt_test, seed),
    }
    if dialogue:
        made["dialogues"] = dialogues("train", dialogue, seed)
        for split in ("train", "test"):
            made[f"dialogue_prompts_{split}"] = dialogues(split, dialogue, seed + 1, answered=False)
    return made


def samples():
    """{name: 50 records} for data/*.jsonl: of the training split, with only the fields of their format. To write them:

    python -c "from data.town import samples; from minirlhf.support.files import write_lines
    for name, records in samples().items(): write_lines(f'data/{name}.jsonl', records)"
    """
    rng, any_split = random.Random("samples"), ("story", "reading", "dictionary")  # kinds of pages about anything
    pages = [page for page in documents(600, 0) if page["kind"] not in any_split]
    pages = [page for page in pages if not any(states_fact(page["text"], split) for split in ("validation", "test"))]
    records = list({record["prompt"]: record for record in prompts("train", 300, 0)}.values())
    rankings = []
    for record in records[50:100]:
        responses = list(dict.fromkeys(respond(record, style, rng) for style in rng.sample(tuple(STYLES), 4)))
        rankings.append(rank(record, responses, rng.choice(TRAINING_LABELERS), rng))
    made = {
        "documents": (pages, ["text"]),
        "demonstrations": (demonstrations(records[:50], 0), ["prompt", "response"]),
        "rankings": (rankings, ["prompt", "responses", "ranks"]),
        "prompts": (records[100:], ["prompt"]),
    }
    return {name: [{f: r[f] for f in fields} for r in found[:50]] for name, (found, fields) in made.items()}
