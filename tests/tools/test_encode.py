"""Encoded folders hold what the scripts would encode, also after kills, and what is wrong with one is named."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import pretrain
import tiny
import train_ppo
import train_rm
import train_sft
from forked import PYTHON, kill
from minirlhf.support import files, records, rows, tokens
from minirlhf.support.checkpoint import load_tokenizer
from minirlhf.support.errors import InputError
from minirlhf.support.folder import named
from tools import encode

LIMIT = 60
LOAD = {"document": records.load_documents, "demonstration": records.load_demonstrations,
        "ranking": records.load_rankings}  # fmt: skip


@pytest.fixture
def encoded(world, tmp_path):
    """Encodes a file of the world, and returns the folder."""

    def make(kind, data=None, name="out.tokens", **flags):
        data = data or getattr(world, f"{kind}s")
        limit = None if kind == "document" else LIMIT
        own = dict(data=(str(data),), kind=kind, tokenizer=world.gpt, limit=limit, processes=1)
        encode.main(encode.Config(**own | flags, out=str(tmp_path / name)))
        return str(tmp_path / name)

    return make


def load(kind, paths, tokenizer):
    if kind == "prompt":
        return records.load_prompts(paths, tokenizer, LIMIT + 4, 4)
    return LOAD[kind](paths, tokenizer, 7 if kind == "document" else LIMIT)


def flat(item):
    """An item as lists."""
    if isinstance(item, tokens.Ranking):
        return [flat(sequence) for sequence in item.sequences], list(item.ranks)
    return item if isinstance(item, list) else (item.tokens.tolist(), item.start)


@pytest.mark.parametrize("kind", ["document", "demonstration", "ranking", "prompt"])
def test_a_folders_items_are_those_of_the_file(encoded, world, kind):
    """Also where file and folder stand beside each other: documents go over from one to the other."""
    tokenizer, file = load_tokenizer(world.gpt), getattr(world, f"{kind}s")
    folder = encoded(kind)
    for paths in ([folder], [file, folder, folder], [folder, file, folder]):
        found, wanted = load(kind, paths, tokenizer), load(kind, [file] * len(paths), tokenizer)
        assert [*map(flat, found)] == [*map(flat, wanted)] and len(found) == len(wanted) > 3
        assert found.lengths.tolist() == [len(w) if kind == "prompt" else w.length for w in wanted]
        assert flat(found[-1]) == flat(wanted[-1]) and [*map(flat, found[1:3])] == [*map(flat, wanted[1:3])]
        with pytest.raises(IndexError):
            found[len(found)]


def test_ids_are_little_endian_of_two_bytes_and_documents_lie_end_to_end(encoded, world):
    tokenizer = load_tokenizer(world.gpt)
    stream = [i for text in tiny.TEXTS for i in [*tokenizer.encode(text), tokenizer.eos]]
    folder = Path(encoded("document"))
    assert np.frombuffer((folder / "tokens.bin").read_bytes(), "<u2").tolist() == stream
    about = json.loads((folder / "about.json").read_text())
    assert about["sizes"] == {"tokens": len(stream)} and about["records"] == len(tiny.TEXTS)
    big = type("Tokenizer", (), {"n_vocab": 65_537})
    assert tokens.id_type(big) == np.dtype("<u4") and tokens.id_type(tokenizer) == np.dtype("<u2")


def test_what_does_not_fit_is_counted_as_by_the_scripts(encoded, world, tmp_path, capsys):
    talk = "".join(f"\n\nHuman: the cat {i}\n\nAssistant: a dog {i}" for i in range(9)) + "\n\nHuman: a\n\nAssistant:"
    rows = [*tiny.DEMONSTRATIONS, {"prompt": "x" * 99, "response": "y"}, {"prompt": talk, "response": " b"}]
    file = tiny.write_lines(tmp_path / "d.jsonl", rows)
    folder, tokenizer = encoded("demonstration", file), load_tokenizer(world.gpt)
    said = capsys.readouterr().out
    assert f"dropped 1 of {len(rows)} demonstrations, longer than 60 tokens" in said
    assert f"1 of {len(rows)} demonstrations lost their oldest turns" in said
    assert [*map(flat, load("demonstration", [folder], tokenizer))] == [
        *map(flat, load("demonstration", [file], tokenizer))
    ]


def test_several_processes_write_the_same_bytes(encoded, world, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "RECORDS", 3)
    many = tiny.write_lines(tmp_path / "many.jsonl", tiny.DEMONSTRATIONS * 9)
    one, two = (encoded("demonstration", many, f"{n}.tokens", processes=n) for n in (1, 2))
    assert content(one) == content(two)


@pytest.mark.parametrize("after", [0.0, 0.2, 0.5])
def test_a_process_that_is_killed_is_a_line(world, tmp_path, after):
    """Whatever it was doing: texts are long, so that results do not fit into a pipe's buffer."""
    many = tiny.write_lines(tmp_path / "many.jsonl", [{"text": f"page {i} of the cat " * 40} for i in range(99_000)])
    words = ["--data", many, "--tokenizer", world.gpt, "--processes", "3", "--out", tmp_path / "out"]
    process = subprocess.Popen([sys.executable, "-m", "tools.encode", *words], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out" / "tokens.bin").exists() or not (tmp_path / "out" / "tokens.bin").stat().st_size:
        time.sleep(0.01)
        assert process.poll() is None
    time.sleep(after)
    process.send_signal(signal.SIGSTOP)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(workers[-1]), signal.SIGKILL)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and said.count("\n") == 1
    assert "a process that encodes was killed; take fewer --processes if memory was short" in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_an_error_in_a_process_is_raised_in_the_first_one(world, tmp_path):
    config = encode.Config(data=("x",), tokenizer=world.gpt, out=str(tmp_path / "out"), processes=2)
    with pytest.raises(KeyError, match="text"):
        list(encode.in_order(config, [([{"text": "a cat"}], "1"), ([{}], "2")]))


def content(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.bin")}


@pytest.mark.parametrize("kind", ["document", "ranking"])
@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_run_that_was_stopped_anywhere_goes_on_to_the_same_bytes(encoded, world, tmp_path, monkeypatch, kind, after):
    monkeypatch.setattr(encode, "RECORDS", 2)
    given = {"document": tiny.DOCUMENTS, "ranking": tiny.RANKINGS}[kind] * 5
    many = tiny.write_lines(tmp_path / "many.jsonl", given)
    whole, append, calls = content(encoded(kind, many, "whole.tokens")), encode.Encoded.append, []

    def stop(self, *args):
        append(self, *args)
        calls.append(self)
        if len(calls) % 3 == 1:
            self.save()
        if len(calls) == after:  # as a kill does it: some of what was written since is on the disk, and not noted
            for file in self.files.values():
                file.flush()
            raise KeyboardInterrupt

    monkeypatch.setattr(encode.Encoded, "append", stop)
    with pytest.raises(KeyboardInterrupt):
        encoded(kind, many)
    with pytest.raises(InputError, match="not finished; the same command of tools.encode goes on"):
        load(kind, [str(tmp_path / "out.tokens")], load_tokenizer(world.gpt))
    monkeypatch.setattr(encode.Encoded, "append", append)
    assert content(encoded(kind, many)) == whole
    assert not (tmp_path / "out.tokens" / encode.STATE).exists()


def test_killed_ten_times_it_leaves_the_same_bytes(world, tmp_path):
    many = tiny.write_lines(tmp_path / "many.jsonl", [{"text": f"page {i} of the cat"} for i in range(30_000)])
    words = ["--data", many, "--tokenizer", world.gpt, "--processes", "1", "--out"]
    assert subprocess.run([*PYTHON, "-m", "tools.encode", *words, tmp_path / "a"], capture_output=True).returncode == 0
    again = [*PYTHON, "-m", "tools.encode", *words, tmp_path / "b"]
    for i in range(10):
        process = subprocess.Popen(again, stdout=subprocess.DEVNULL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1 + 0.1 * i)
        kill(process)
    assert subprocess.run(again, capture_output=True).returncode == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")


@pytest.mark.parametrize("script", ["pretrain", "train_sft", "train_rm", "train_ppo"])
def test_a_training_takes_a_folder_and_leaves_the_same_model(encoded, world, tmp_path, no_pictures, script):
    room = dict(limit=64)  # the tiny world's context
    common = dict(batch_size=4, seed=3)
    files = {
        pretrain: dict(init=world.gpt, data=world.documents, epochs=2),
        train_sft: dict(init=world.gpt, data=world.demonstrations, documents=world.documents, epochs=2),
        train_rm: dict(init=world.gpt, data=world.rankings),
        train_ppo: dict(policy=world.gpt, reward_model=world.rm, prompts=world.prompts, documents=world.documents,
                        episodes=8, minibatch_size=4, documents_per_episode=0.5, max_response=8),
    }  # fmt: skip
    module = {"pretrain": pretrain, "train_sft": train_sft, "train_rm": train_rm, "train_ppo": train_ppo}[script]
    flags = files[module]
    kinds = {"data": {pretrain: "document", train_sft: "demonstration", train_rm: "ranking"}.get(module),
             "documents": "document", "prompts": "prompt"}  # fmt: skip
    folders = {}
    for name in kinds.keys() & flags.keys():
        limit = {"document": {}, "prompt": dict(limit=64 - 8)}.get(kinds[name], room)
        folders[name] = encoded(kinds[name], flags[name], f"{name}.tokens", **limit)
    for out, own in (("files", flags), ("folders", flags | folders)):
        tiny.run(module, tiny.to_flags(common | own | dict(out=str(tmp_path / out))))
    one, other = (torch.load(tmp_path / out / "model.pt")["model"] for out in ("files", "folders"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_folder_is_known_by_its_description(encoded, tmp_path):
    folder = encoded("document")
    assert named(folder) == [f"{folder}/about.json"]
    about = json.loads(Path(folder, "about.json").read_text())
    other = tiny.write_lines(tmp_path / "other.jsonl", [{"text": "a dog"}])
    assert about["sha256"] != json.loads(Path(encoded("document", other, "b"), "about.json").read_text())["sha256"]


# --- long texts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 5, 11])
def test_a_long_text_in_pieces_has_the_tokens_of_the_whole(tmp_path, tokenizer, monkeypatch, piece):
    text = "the cat\nsat  \non\n\nthe mat.\n  a dog\nand 12\n\n\nkites: le\u0301\nx\n" * 3
    for own in (text, text + "<|endoftext|>\n" + text + "\n<|endoftext|>" + text[:9]):
        path = tmp_path / "corpus.txt"
        path.write_text(own)
        whole = records.load_documents([str(path)], tokenizer, 10_000)[0].tokens.tolist()
        with monkeypatch.context() as patch:
            patch.setattr(rows, "PIECE", piece)
            parts = list(rows.documents(str(path)))
            assert len(parts) > 6 and sum(rows.MORE not in row for _, row in parts) == own.count("<|endoftext|>") + 1
            assert records.load_documents([str(path)], tokenizer, 10_000)[0].tokens.tolist() == whole


# --- bad input -------------------------------------------------------------------------------------------------------


def spoil(folder, name, change):
    path = Path(folder) / name
    path.write_bytes(change(path.read_bytes()))


def with_about(folder, **changed):
    about = json.loads(Path(folder, "about.json").read_text()) | changed
    Path(folder, "about.json").write_text(json.dumps(about))


def sampled(folder):
    """Puts the files' sample into the description, as if they had been encoded so."""
    with_about(folder, sample=tokens.sample_of(tokens.paths_of(folder, "document")))


def without_size(folder, name):
    sizes = json.loads(Path(folder, "about.json").read_text())["sizes"]
    del sizes[name]
    with_about(folder, sizes=sizes)


def fewer(folder, name):
    """One entry less of a file, and in the description."""
    spoil(folder, f"{name}.bin", lambda own: own[:-4])
    sizes = json.loads(Path(folder, "about.json").read_text())["sizes"]
    with_about(folder, sizes=sizes | {name: sizes[name] - 1})


@pytest.mark.parametrize(("kind", "harm", "fault"), [
    ("document", lambda f: spoil(f, "tokens.bin", lambda b: b[:-2]), "tokens.bin: has .* bytes, and about.json says"),
    ("document", lambda f: spoil(f, "tokens.bin", lambda b: b[:-1]), "tokens.bin: has .* bytes, and about.json says"),
    ("document", lambda f: spoil(f, "tokens.bin", lambda b: b[:8] + b"\7\0" + b[10:]), "its files are not those that"),
    ("document", lambda f: (spoil(f, "tokens.bin", lambda b: b[:8] + b"\xff\xff" + b[10:]), sampled(f)),
     "the id 65535, in a vocabulary"),
    ("document", lambda f: with_about(f, tokenizer="other"), "was encoded by another tokenizer"),
    ("document", lambda f: Path(f, "about.json").unlink(), "not finished; the same command of tools.encode goes on"),
    ("document", lambda f: Path(f, "about.json").write_text("{}"), "no description of encoded data"),
    ("document", lambda f: Path(f, "about.json").write_text("no"), "about.json: missing or not a JSON object"),
    ("document", lambda f: with_about(f, kind=["document"]), "no description of encoded data"),
    ("document", lambda f: with_about(f, sizes={"tokens": 9, "cuts": 3}), "no description of encoded data"),
    ("ranking", lambda f: without_size(f, "ranks"), "no description of encoded data"),
    ("ranking", lambda f: without_size(f, "firsts"), "no description of encoded data"),
    ("ranking", lambda f: fewer(f, "ranks"), "ranks.bin: does not fit the other files"),
    ("ranking", lambda f: spoil(f, "firsts.bin", lambda b: b[:8] + b[:8] + b[16:]), "firsts.bin: does not fit"),
    ("document", lambda f: with_about(f, sizes={"tokens": -1}), "no description of encoded data"),
    ("ranking", lambda f: with_about(f, limit=99), "was encoded for at most 99 tokens, and 60 are needed"),
    ("ranking", lambda f: Path(f, "cuts.bin").unlink(), "cuts.bin: missing"),
    ("ranking", lambda f: spoil(f, "cuts.bin", lambda b: b[8:16] + b[8:]), "cuts.bin: does not fit the other files"),
    ("ranking", lambda f: spoil(f, "firsts.bin", lambda b: b[:-8] + b[:8]), "firsts.bin: does not fit the other"),
])  # fmt: skip
def test_a_folder_that_is_not_whole_is_named(encoded, world, kind, harm, fault):
    folder = encoded(kind)
    harm(folder)
    with pytest.raises(InputError, match=fault) as error:
        list(load(kind, [folder], load_tokenizer(world.gpt)))
    assert folder in str(error.value)


@pytest.mark.parametrize(("flags", "fault"), [
    (dict(kind="ranking"), "--limit: is needed: the model's context"),
    (dict(limit=9), "--limit: documents are cut by the training"),
    (dict(kind="page"), "--kind page"),
    (dict(tokenizer="nowhere"), "nowhere"),
    (dict(data="nowhere.jsonl"), "nowhere.jsonl: no such file"),
])  # fmt: skip
def test_bad_flags_end_in_one_line(world, tmp_path, flags, fault):
    own = dict(data=world.documents, tokenizer=world.gpt, processes=1, out=str(tmp_path / "out")) | flags
    words = [*PYTHON, "-m", "tools.encode", *tiny.to_flags(own)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2 and fault in done.stderr and done.stderr.count("\n") == 1


def test_a_full_disk_is_a_line_and_the_same_command_goes_on(encoded, world, tmp_path, monkeypatch):
    whole, write = content(encoded("document", name="whole")), encode.Encoded.append

    def full(self, *args):
        self.files["tokens"].write = lambda data: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        write(self, *args)

    monkeypatch.setattr(encode.Encoded, "append", full)
    with pytest.raises(InputError, match="tokens.bin: cannot be written .*make room, and give the same command again"):
        encoded("document")
    monkeypatch.setattr(encode.Encoded, "append", write)
    assert content(encoded("document")) == whole


# --- what has changed, and what is mended ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["document", "demonstration", "ranking", "prompt"])
def test_fields_of_other_kinds_may_hold_anything(encoded, world, tmp_path, kind):
    """As in a table that has columns for several kinds of record, which are null in some rows."""
    foreign = {"text": 5, "prompt": None, "response": 3, "responses": None, "ranks": "none", "<|more|>": None}
    own = {"document": tiny.DOCUMENTS, "demonstration": tiny.DEMONSTRATIONS, "ranking": tiny.RANKINGS,
           "prompt": [{"prompt": "the cat\n"}]}[kind]  # fmt: skip
    files = [tiny.write_lines(tmp_path / name, rows) for name, rows in
             (("own.jsonl", own), ("both.jsonl", [foreign | row for row in own]))]  # fmt: skip
    assert content(encoded(kind, files[0], "own")) == content(encoded(kind, files[1], "both"))


def test_a_folder_that_was_damaged_is_encoded_again_by_the_same_command(encoded, capsys):
    whole = content(folder := encoded("ranking"))
    for harm in (lambda: spoil(folder, "tokens.bin", lambda b: b[:-3]), lambda: with_about(folder, sample=""),
                 lambda: spoil(folder, "ranks.bin", lambda b: b[:4] + b[:4] + b[8:]),
                 lambda: Path(folder, "about.json").write_text("{}")):  # fmt: skip
        harm()
        encoded("ranking")
        assert content(folder) == whole and "is encoded again" in capsys.readouterr().out
    encoded("ranking")
    assert "finished already" in capsys.readouterr().out


def test_a_note_that_a_kill_has_left_does_not_make_a_damaged_folder_whole(encoded, monkeypatch, capsys):
    note, unlink = [], Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **_: note.append((path, path.read_bytes())))
    whole = content(folder := encoded("document"))
    monkeypatch.setattr(Path, "unlink", unlink)
    ((path, text),) = [one for one in note if one[0].name == encode.STATE]
    path.write_bytes(text)
    spoil(folder, "tokens.bin", lambda own: own[:4] + b"\7\0" + own[6:])
    encoded("document")
    assert content(folder) == whole and "is encoded again" in capsys.readouterr().out


def test_a_damaged_folder_is_left_alone_if_it_cannot_be_encoded_again(encoded, world, tmp_path):
    file = tiny.write_lines(tmp_path / "d.jsonl", tiny.DOCUMENTS)
    folder = encoded("document", file)
    spoil(folder, "tokens.bin", lambda own: own[:4] + b"\7\0" + own[6:])
    harmed = content(folder)
    Path(file).unlink()
    with pytest.raises(InputError, match="d.jsonl: no such file"):
        encoded("document", file)
    tiny.write_lines(file, tiny.DOCUMENTS[:1])
    with pytest.raises(InputError, match="d.jsonl.* has changed since --out|was changed while it was read"):
        encoded("document", file)
    assert content(folder) == harmed and Path(folder, "about.json").exists()


def test_a_file_that_comes_while_a_folder_is_read_is_noticed(encoded, world, tmp_path, monkeypatch):
    (tmp_path / "pages").mkdir()
    tiny.write_lines(tmp_path / "pages" / "1.jsonl", tiny.DOCUMENTS)
    append = encode.Encoded.append
    late = lambda *_: tiny.write_lines(tmp_path / "pages" / "2.jsonl", tiny.DOCUMENTS)  # noqa: E731
    monkeypatch.setattr(encode.Encoded, "append", lambda *args: (append(*args), late()))
    with pytest.raises(InputError, match="has other files than at the start; run the command again"):
        encoded("document", tmp_path / "pages")
    monkeypatch.setattr(encode.Encoded, "append", append)
    about = json.loads(Path(encoded("document", tmp_path / "pages"), "about.json").read_text())
    assert about["records"] == 2 * len(tiny.DOCUMENTS)


def test_a_byte_that_the_sample_misses_is_found_by_the_same_command(encoded, world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tokens, "BLOCK", 2)
    many = tiny.write_lines(tmp_path / "many.jsonl", tiny.DOCUMENTS * 20)
    whole = content(folder := encoded("document", many))
    size, sample = len(whole["tokens.bin"]), tokens.sample_of([f"{folder}/tokens.bin"])
    seen = {(size - 2) * i // 99 + j for i in range(100) for j in (0, 1)}
    place = next(i for i in range(0, size, 2) if i not in seen and i + 1 not in seen)
    spoil(folder, "tokens.bin", lambda own: own[:place] + b"\7\0" + own[place + 2 :])
    assert tokens.sample_of([f"{folder}/tokens.bin"]) == sample and content(folder) != whole
    encoded("document", many)
    assert content(folder) == whole and "is encoded again" in capsys.readouterr().out


def test_a_copy_of_which_a_part_is_missing_is_noticed(tmp_path):
    """Of the right size, as copies are made by programs that ask for the room first: a fiftieth of it is zeros."""
    path = tmp_path / "tokens.bin"
    path.write_bytes(whole := np.random.default_rng(0).bytes(20_000_000))
    sample = tokens.sample_of([path])
    for begin in (0, 7_300_000, 19_600_000):
        path.write_bytes(whole[:begin] + bytes(400_000) + whole[begin + 400_000 :])
        assert tokens.sample_of([path]) != sample
    path.write_bytes(whole)
    assert tokens.sample_of([path]) == sample


def test_data_that_have_changed_since_are_named(encoded, world, tmp_path, monkeypatch):
    file = tiny.write_lines(tmp_path / "d.jsonl", tiny.DOCUMENTS)
    encoded("document", file)
    monkeypatch.setattr(files, "_seen", {})  # as in another process
    tiny.write_lines(tmp_path / "d.jsonl", [*tiny.DOCUMENTS, {"text": "more"}])
    with pytest.raises(InputError, match="d.jsonl has changed since --out .* was encoded; choose another --out"):
        encoded("document", file)


@pytest.mark.parametrize("processes", [1, 2])
def test_after_a_line_is_mended_the_same_command_goes_on(encoded, world, tmp_path, monkeypatch, capsys, processes):
    monkeypatch.setattr(encode, "RECORDS", 2)
    monkeypatch.setattr(encode, "SECONDS", 0)
    rows = tiny.DEMONSTRATIONS * 20
    whole = content(encoded("demonstration", tiny.write_lines(tmp_path / "whole.jsonl", rows), "whole"))
    cut, place = tmp_path / "cut.jsonl", 3 * len(rows) // 4
    lines = [json.dumps(row) + "\n" for row in rows]
    cut.write_text("".join([*lines[:place], lines[place][:9] + "\n", *lines[place + 1 :]]))
    with pytest.raises(InputError, match=f"cut.jsonl:{place + 1}: not JSON"):
        encoded("demonstration", str(cut), processes=processes)
    done = json.loads((tmp_path / "out.tokens" / encode.STATE).read_text())["records"]
    assert 0 < done <= place
    cut.write_text("".join(lines))
    capsys.readouterr()
    assert content(encoded("demonstration", str(cut), processes=processes)) == whole
    assert f"goes on after {done} demonstrations" in capsys.readouterr().out


def test_records_that_are_encoded_and_have_changed_are_not_gone_on_from(encoded, world, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "RECORDS", 2)
    monkeypatch.setattr(encode, "SECONDS", 0)
    file = tmp_path / "d.jsonl"
    lines = [json.dumps(row) for row in tiny.DEMONSTRATIONS * 5]
    file.write_text("\n".join([*lines, "{"]))
    with pytest.raises(InputError, match="not JSON"):
        encoded("demonstration", str(file))
    file.write_text("\n".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(
        InputError, match="the first .* demonstrations of --data .*d.jsonl have changed .*; put them back"
    ):
        encoded("demonstration", str(file))


@pytest.mark.parametrize("note", ["{}", '{"records": 1, "content": "", "fits": {}, "sizes": {}}', "no"])
def test_a_note_that_is_damaged_is_named(encoded, tmp_path, monkeypatch, note):
    monkeypatch.setattr(encode.Encoded, "finish", lambda *_: None)
    encoded("document")
    (tmp_path / "out.tokens" / encode.STATE).write_text(note)
    with pytest.raises(InputError, match="encoded.json: (damaged; remove|missing or not a JSON object)"):
        encoded("document")


def test_data_that_change_while_they_are_read_are_named(encoded, world, tmp_path, monkeypatch):
    file, append = tiny.write_lines(tmp_path / "d.jsonl", tiny.DOCUMENTS), encode.Encoded.append

    def grow(self, *args):
        append(self, *args)
        with open(file, "a") as end:
            end.write('{"text": "added"}\n')

    monkeypatch.setattr(encode.Encoded, "append", grow)
    with pytest.raises(InputError, match="d.jsonl: was changed while it was read; run the command again"):
        encoded("document", file)
    monkeypatch.setattr(encode.Encoded, "append", append)
    folder = encoded("document", file)
    assert json.loads(Path(folder, "about.json").read_text())["records"] == len(tiny.DOCUMENTS) + 1


def test_progress_has_the_share_and_the_time_left(encoded, world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encode, "RECORDS", 20)
    clock = iter(range(0, 10_000, 11))
    monkeypatch.setattr(encode.time, "perf_counter", lambda: next(clock))
    rows = [{"text": f"page {i} of the cat"} for i in range(1_990)]
    files = tuple(tiny.write_lines(tmp_path / f"{n}.jsonl", rows) for n in (1, 2))
    folder = tmp_path / "out.tokens"
    encode.main(encode.Config(data=files, tokenizer=world.gpt, out=str(folder), processes=1))
    told = re.findall(
        r"out.tokens: ([\d,]+) documents, (\d+)%, ([\d,]+)/s(?:, ([\d,]+) s left)?", capsys.readouterr().out
    )
    shares = [int(share) for _, share, *_ in told]
    assert len(told) == 199 and shares == sorted(shares) and shares[99] in range(45, 60) and shares[-1] == 100
    assert told[-1][0] == "3,980" and told[-1][3] == "0"


def test_a_folder_of_another_kind_is_named(encoded, world):
    with pytest.raises(InputError, match="holds rankings, and documents are needed here"):
        load("document", [encoded("ranking")], load_tokenizer(world.gpt))


def test_token_ids_are_no_text(encoded, world):
    folder = encoded("document")
    for read in (lambda: records.read(folder, "document"), lambda: list(records.texts(folder))):
        with pytest.raises(
            InputError, match="holds token ids, and text is needed here; give the file it was made from"
        ):
            read()
