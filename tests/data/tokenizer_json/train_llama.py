"""Trains a tokenizer as Llama's and Mistral's are made: byte pairs of SentencePiece over characters,
with bytes to fall back to. Needs the Python packages `sentencepiece` and `transformers` (5).

    python3 tests/data/tokenizer_json/train_llama.py TEXT.xz

Writes llama.model, and llama.json, which is what `transformers` makes of it: 800 pieces.
"""

import itertools
import json
import lzma
import os
import sys
import tempfile

import sentencepiece
from transformers import LlamaTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
LINES = 20000
OTHER = ["Привет, мир! Как дела?", "你好世界", "Straße naïve élan garçon", "1234567890 2024 3.14"] * 200


def main():
    model = os.path.join(HERE, "llama.model")
    with lzma.open(sys.argv[1], "rt", encoding="utf-8") as f:
        lines = [line.rstrip("\n") for line in itertools.islice(f, LINES)] + OTHER
    with open(model, "wb") as out:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=out, model_type="bpe", vocab_size=800,
            byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
            split_digits=True, allow_whitespace_only_pieces=True, minloglevel=2)
    with tempfile.TemporaryDirectory() as folder:
        with open(model, "rb") as f, open(os.path.join(folder, "tokenizer.model"), "wb") as copy:
            copy.write(f.read())
        LlamaTokenizer.from_pretrained(folder).save_pretrained(folder)
        with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as f:
            data = json.load(f)
    with open(os.path.join(HERE, "llama.json"), "w", encoding="utf-8") as f:
        json.dump(data, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
