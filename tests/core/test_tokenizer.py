"""The tokenizer learns the merges one would by hand, loses no byte, and reads no text as a command."""

import random
import re
from collections import Counter

import pytest
import tiktoken.load

import tiny
from minirlhf.support import tokenizer as tokenizers
from minirlhf.support.checkpoint import load_tokenizer
from minirlhf.support.errors import InputError
from minirlhf.support.tokenizer import PATTERN, Tokenizer, train_bpe
from tools import train_tokenizer

AWKWARD = [
    "",
    " ",
    "a\x00b",
    "\x00\x00",
    "naïve café",
    "你好，世界",
    "👩‍👩‍👧 🎈",
    "tab\tand\r\nline  \n\n",
    "I'll _do_ 12,000.5",
]


def naive_bpe(texts, vocab_size):
    """The textbook's loop: count every pair anew, merge the most frequent everywhere. Returns the tokens in
    order and each word's segmentation."""
    counts = Counter(word for text in texts for word in re.findall(PATTERN, text))
    words = {word: [bytes([b]) for b in word.encode()] for word in counts}
    tokens = [bytes([b]) for b in range(256)]
    while len(tokens) < vocab_size - 1:
        pairs = Counter()
        for word, parts in words.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if b"".join(best) not in tokens:
            tokens.append(b"".join(best))
        for parts in words.values():
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == best:
                    parts[i : i + 2] = [b"".join(best)]
                i += 1
    return tokens, words


# --- training -----------------------------------------------------------------------------------------------


def test_runs_without_a_words_end_cost_a_bounded_time(capsys):
    """DNA, or Chinese without a space: only so much of it is learned from, and that is printed."""
    dna = "".join(random.Random(0).choices("ACGT", k=300_000))
    assert len(train_bpe([dna, "the cat " * 9], 270)) == 269
    assert "learned from 50,000 of 300,000 characters" in capsys.readouterr().out


def test_merges_by_hand():
    """ "abab abab": ab occurs 4 times, abab 2, and " abab" once."""
    ranks = train_bpe(["abab abab"], 300)
    assert [token for token in sorted(ranks, key=ranks.get)][256:] == [b"ab", b"abab", b" abab"]


def test_a_tie_goes_to_the_smaller_pair():
    assert list(train_bpe(["cd ab"], 258))[256:] == [b" a"]


def test_no_merge_crosses_a_words_edge():
    ranks = train_bpe(["the end the end the end"] * 3, 300)
    assert not any(b" " in token[1:] for token in ranks)


def test_the_vocabulary_has_the_size_asked_for(tokenizer):
    assert tokenizer.n_vocab == 290
    assert tiny.make_tokenizer(vocab_size=257).n_vocab == 257


def test_the_trainer_equals_the_textbooks_loop():
    texts = [*tiny.TEXTS, "aaaa aaa aa banana bananas", "ひらがな ひら"]
    tokens, _ = naive_bpe(texts, 330)
    assert list(train_bpe(texts, 330)) == tokens


def test_tiktoken_cuts_words_as_the_trainer_did():
    tokenizer = tiny.make_tokenizer()
    for word, parts in naive_bpe(tiny.TEXTS, 290)[1].items():
        assert [tokenizer.encoding.decode_single_token_bytes(i) for i in tokenizer.encode(word)] == parts


def test_the_same_texts_give_the_same_ranks():
    assert list(train_bpe(tiny.TEXTS, 280).items()) == list(train_bpe(iter(tiny.TEXTS), 280).items())


# --- encoding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", AWKWARD)
def test_any_str_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_end_of_text_written_in_a_text_is_text(tokenizer):
    ids = tokenizer.encode("a<|endoftext|>b")
    assert tokenizer.eos not in ids
    assert tokenizer.decode(ids) == "a<|endoftext|>b"


def test_end_of_text_is_the_vocabularys_last_id_and_padding_is_outside_it(tokenizer):
    assert tokenizer.eos == tokenizer.n_vocab - 1 == len(tokenizer.ranks)
    assert tokenizer.pad == tokenizer.n_vocab


def test_half_a_character_decodes_to_a_replacement(tokenizer):
    assert tokenizer.decode([tokenizer.ranks["é".encode()[:1]]]) == "\ufffd"


# --- on disk ------------------------------------------------------------------------------------------------


def test_a_saved_tokenizer_is_the_same_after_loading(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = tokenizers.load(tmp_path)
    assert loaded.hash == tokenizer.hash
    assert loaded.encode(tiny.TEXTS[0]) == tokenizer.encode(tiny.TEXTS[0])


def test_tiktokens_own_loader_reads_the_file(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    ranks = tiktoken.load.load_tiktoken_bpe(str(tmp_path / "tokenizer.tiktoken"))
    assert ranks == tokenizer.ranks


def test_the_hash_tells_tokenizers_apart(tokenizer):
    """One more merge, two ranks exchanged, another pattern: each changes what an id means."""
    exchanged = dict(tokenizer.ranks)
    exchanged[b"a"], exchanged[b"b"] = exchanged[b"b"], exchanged[b"a"]
    others = [
        tiny.make_tokenizer(vocab_size=291),
        Tokenizer(exchanged),
        Tokenizer(tokenizer.ranks, r"\s+|\S+"),
    ]
    assert len({tokenizer.hash, *(other.hash for other in others)}) == 4
    assert Tokenizer(dict(tokenizer.ranks)).hash == tokenizer.hash


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"YQ== 0\nnot base64 at all\n", "t.tiktoken:2: not a line of a ranks file"),
        (b"YQ== 0\nYg==", "t.tiktoken:2: not a line of a ranks file"),
        (b"YQ== 0\nYg== 1\n", "cut off"),
        (b"", "cut off"),
    ],
)
def test_a_broken_ranks_file_is_named(tmp_path, content, says):
    (tmp_path / "t.tiktoken").write_bytes(content)
    with pytest.raises(InputError, match=says):
        tokenizers.load(tmp_path / "t.tiktoken")


def test_a_ranks_file_with_a_gap_is_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    lines = (tmp_path / "tokenizer.tiktoken").read_text().splitlines(keepends=True)
    (tmp_path / "tokenizer.tiktoken").write_text("".join(lines[:270] + lines[271:]))
    with pytest.raises(InputError, match="no gap"):
        tokenizers.load(tmp_path)


def test_a_broken_description_is_named(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"pattern": ')
    with pytest.raises(InputError, match="tokenizer.json"):
        tokenizers.load(tmp_path)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}: no tokenizer there"):
        tokenizers.load(tmp_path)


def test_a_checkpoints_tokenizer_lies_beside_it(world, tokenizer):
    assert load_tokenizer(world.gpt).hash == tokenizer.hash
    assert load_tokenizer(f"{world.gpt}/model.pt").hash == tokenizer.hash


def test_the_command_line_trains_on_every_text_of_a_file(world, tmp_path):
    """Documents, prompts, demonstrations and each response of a ranking."""
    path = tiny.write_lines(tmp_path / "r.jsonl", [{"prompt": "a", "responses": ["zqzqzq", "xw"], "ranks": [1, 2]}])
    tiny.run(train_tokenizer, ["--data", path, world.documents, "--vocab_size", "400", "--out", str(tmp_path / "t")])
    ranks = tokenizers.load(tmp_path / "t").ranks
    assert {b"zqzqzq", b"xw", b" the"} <= ranks.keys()


# --- GPT-2's ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpt2(real_data):
    return tokenizers.load(real_data / "gpt2.tiktoken")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [15496, 995]),
        ("Hello, world!", [15496, 11, 995, 0]),
        ("tiktoken is great!", [83, 1134, 30001, 318, 1049, 0]),
    ],
)
def test_gpt2s_ids_are_gpt2s(gpt2, text, ids):
    assert gpt2.encode(text) == ids


def test_gpt2_has_50257_ids_of_which_end_of_text_is_the_last(gpt2):
    assert (gpt2.n_vocab, gpt2.eos) == (50257, 50256)


@pytest.mark.parametrize("text", AWKWARD)
def test_any_str_comes_back_from_gpt2s_ids(gpt2, text):
    assert gpt2.decode(gpt2.encode(text)) == text
