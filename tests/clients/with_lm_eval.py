"""lm-eval, whose log-likelihoods of a task of our own must be the scores of Packrat."""

import json
import os

from packrat_client import Client
from tests.clients import serving

PACKAGES = ["lm-eval[api]==0.4.13", "transformers"]
# Each has the answers that may follow; the first is right.
QUESTIONS = [("The little dog was very", [" happy.", " blue seventeen.", " of."]),
             ("Once upon a", [" time", " spoon", " because"]),
             ("The sun was shining and the sky was", [" blue", " angry at", " spoon"]),
             ("Tom and Sue went to the", [" park", " seventeen", " of"])]
TASK = """
task: packrat_stories
dataset_path: json
dataset_kwargs:
  data_files:
    test: %s
output_type: multiple_choice
test_split: test
doc_to_text: "{{text}}"
doc_to_choice: "{{choices}}"
doc_to_target: 0
target_delimiter: ""
metric_list:
  - metric: acc
"""


def run(folder, environment):
    data = os.path.join(folder, "stories.jsonl")
    with open(data, "w", encoding="utf-8") as file:
        for text, choices in QUESTIONS:
            file.write(json.dumps({"text": text, "choices": choices}) + "\n")
    with open(os.path.join(folder, "stories.yaml"), "w", encoding="utf-8") as file:
        file.write(TASK % data)
    tokenizer = serving.tokenizer_folder(folder)
    output = os.path.join(folder, "lm-eval")
    with serving.start(serving.DEMO) as server, Client(server.address) as client:
        name = client.model_info().name
        serving.run(
            [environment + "/bin/lm_eval", "run", "--model", "local-completions", "--tasks", "packrat_stories",
             "--include_path", folder, "--output_path", output, "--log_samples", "--model_args",
             "model=%s,base_url=http://127.0.0.1:%d/v1/completions,tokenizer=%s,tokenizer_backend=huggingface,"
             "num_concurrent=4,max_length=512,add_bos_token=True" % (name, server.http_port, tokenizer)],
            HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_CACHE=folder + "/datasets", HF_HOME=folder)
        samples = [json.loads(line) for path in serving.files(output, "samples_") for line in open(
            path, encoding="utf-8")]
        compared, worst = 0, 0.0
        for sample in samples:
            text, choices = sample["doc"]["text"], sample["doc"]["choices"]
            scored = client.score(text, choices)
            for (said, greedy), ours in zip((r[0] for r in sample["resps"]), scored):
                score = ours.finished.score
                worst = max(worst, abs(float(said) - score.logprob))
                assert (str(greedy) == "True") == score.greedy, (text, said, greedy, score)
                compared += 1
    assert compared == sum(len(choices) for _, choices in QUESTIONS), compared
    # Sums of the same float32 values; JSON has them in decimals.
    assert worst < 1e-4, worst
    return "%d log-likelihoods, the largest difference to Score %.1e" % (compared, worst)
