"""Continues prompts with a model folder, for the model card. Same seeds, same texts.

    python3 -m models.train.sample --model models/demo --count 20 [--markdown]
"""

import argparse
import os

import sentencepiece
import torch

from models.reference import mesa_solver
from models.reference.model import load_model
from models.train import files

PROMPTS = [
    "Once upon a time", "Once upon a time, there was a little girl named", "One day, a boy",
    "The cat and the dog", "There was once an old man who", "Tom and Lily were",
    "A long time ago, in a small village,", "The sun was shining and", "Mother said",
    "The little bird wanted to",
]


@torch.no_grad()
def generate(model, tokenizer, prompts, max_tokens, temperature, top_p, seed):
    """Continues all prompts; text i is drawn with seed + i. Recomputes the whole text each step."""
    texts = [[tokenizer.bos_id()] + tokenizer.encode(prompt) for prompt in prompts]
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
    running = set(range(len(texts)))
    for _ in range(max_tokens):
        if not running:
            break
        rows = sorted(running)
        longest = max(len(texts[i]) for i in rows)
        # Padding stands behind a text, where a causal model does not see it.
        batch = torch.tensor([texts[i] + [0] * (longest - len(texts[i])) for i in rows])
        hidden = model.model(batch)
        last = torch.stack([hidden[j, len(texts[i]) - 1] for j, i in enumerate(rows)])
        head = model.model.embeddings if model.lm_head is None else model.lm_head
        logits = last @ head.weight.t()
        for j, i in enumerate(rows):
            token = draw(logits[j], temperature, top_p, generators[i])
            if token == tokenizer.eos_id():
                running.discard(i)
            else:
                texts[i].append(token)
    return [tokenizer.decode(ids[1:]) for ids in texts]


def draw(logits, temperature, top_p, generator):
    """One token of the smallest set whose probability reaches top_p."""
    logits = logits.clone()
    logits[:2] = float("-inf")  # <unk> and <s> are not text
    probabilities, order = torch.softmax(logits / temperature, -1).sort(descending=True)
    keep = probabilities.cumsum(-1) - probabilities < top_p
    chosen = torch.multinomial(probabilities * keep, 1, generator=generator)
    return int(order[chosen])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--max_tokens", type=int, default=160)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--top_p", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prompt", help="instead of the built-in ones")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    model, _ = load_model(args.model)
    mesa_solver.options = mesa_solver.Options(steps=12, block=32)
    tokenizer = sentencepiece.SentencePieceProcessor(
        model_file=os.path.join(args.model, "tokenizer.model"))
    prompts = [args.prompt or PROMPTS[i % len(PROMPTS)] for i in range(args.count)]
    texts = generate(model, tokenizer, prompts, args.max_tokens, args.temperature, args.top_p,
                     args.seed)
    for i, text in enumerate(texts):
        if args.markdown:
            print(f"{i + 1}. " + " / ".join(text.split("\n")))
        else:
            print(f"--- seed {args.seed + i}\n{text}")


if __name__ == "__main__":
    files.run_main(main)
