"""Trains a BPE tokenizer on files of records or text.

python -m tools.train_tokenizer --data corpus.jsonl --vocab_size 1024 --out runs/tokenizer
"""

from dataclasses import dataclass

from minirlhf.support.config import check_fields, command
from minirlhf.support.errors import InputError, require
from minirlhf.support.folder import lock_output
from minirlhf.support.records import texts
from minirlhf.support.tokenizer import Tokenizer, train_bpe


@dataclass(frozen=True)
class Config:
    data: tuple[str, ...]  # files to train on: .jsonl, .jsonl.gz (any kind of record) or .txt
    out: str  # folder for tokenizer.tiktoken and tokenizer.json
    vocab_size: int = 1024  # number of ids: 256 bytes, the merges, end-of-text (GPT-2 has 50257)

    def __post_init__(self):
        check_fields(self)
        if self.vocab_size < 257:
            raise InputError(f"--vocab_size {self.vocab_size}: 256 bytes and the end-of-text token need at least 257")


def main(config):
    corpus = [text for path in config.data for text in texts(path) if text]
    require(corpus, f"{config.data[0]}: no text to learn from; give records or a .txt file (data/README.md)")
    lock_output(config)
    tokenizer = Tokenizer(train_bpe(corpus, config.vocab_size))
    tokenizer.save(config.out)
    print(f"{config.out}: {tokenizer.n_vocab} tokens, the longest {max(tokenizer.ranks, key=len)}")
    if tokenizer.n_vocab < config.vocab_size:
        print(f"{config.out}: fewer than {config.vocab_size}, since the texts have no more pairs to merge")


if __name__ == "__main__":
    command(main, Config)
