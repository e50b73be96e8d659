"""Trains the byte-level tokenizers of this folder; needs the Python package `tokenizers`.

    python3 tests/data/tokenizer_json/train.py TEXT.xz [TEXT.xz ...]

Writes gpt2.json (GPT-2's settings) and llama3.json (Llama 3's: its pattern, its post-processor,
`ignore_merges`, merges as pairs), 4,096 tokens each with their special ones. expect.py writes what
the library makes of texts with them.
"""

import json
import lzma
import os
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

HERE = os.path.dirname(os.path.abspath(__file__))
VOCAB = 4096
BYTES_OF_EACH = 12_000_000
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# Not in the corpus: some tokens of more than one byte for other scripts, and long numbers.
OTHER = ["Привет, мир! Как дела сегодня? Хорошо.", "你好世界，今天天气很好。", "こんにちは世界",
         "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "Straße naïve élan garçon", "안녕하세요 세계",
         "1234567890 2024 1999 3.14159", "😀👍🎉", "I'LL DON'T WE'RE", "\n\n\n\t\t  \r\n\r\n    "] * 400


def lines_of(path):
    with lzma.open(path, "rt", encoding="utf-8", newline="") as f:
        left = BYTES_OF_EACH
        for line in f:
            yield line
            left -= len(line)
            if left < 0:
                return


def train(tokenizer, texts, special):
    trainer = BpeTrainer(vocab_size=VOCAB - len(special), show_progress=False,
                         initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    for name in special:
        tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False)])
    return tokenizer


def gpt2(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return train(tokenizer, texts, ["<|endoftext|>"])


def llama3(texts):
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eot_id|>more"]
    tokenizer = train(tokenizer, texts, special)
    # Not special: found in any text, one of them after the others, on the "normalized" text.
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("<think>\n", normalized=True),
                          AddedToken("über", normalized=True)])
    bos = special[0]
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1",
                                      special_tokens=[(bos, tokenizer.token_to_id(bos))])])
    return tokenizer


def main():
    texts = [line for path in sys.argv[1:] for line in lines_of(path)] + OTHER
    for name, make in (("gpt2", gpt2), ("llama3", llama3)):
        data = json.loads(make(texts).to_str())
        if name == "gpt2":  # The older way of writing merges.
            data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
        with open(os.path.join(HERE, name + ".json"), "w", encoding="utf-8") as f:
            json.dump(data, f, ensure_ascii=False, separators=(",", ":"))
            f.write("\n")


if __name__ == "__main__":
    main()
