"""guidellm: a load of streams of texts, and one of chats."""

import json
import os

from tests.clients import serving

PACKAGES = ["guidellm==0.8.1"]
REQUESTS = 64


def load(folder, environment, server, tokenizer, path):
    output = os.path.join(folder, path.strip("/").replace("/", "-") + ".json")
    serving.run(
        [environment + "/bin/guidellm", "run", "--disable-console-interactive", "--backend",
         "kind=openai_http,target=http://127.0.0.1:%d,request_format=%s" % (server.http_port, path),
         "--profile", "kind=concurrent,streams=8", "--constraint", "kind=max_requests,count=%d" % REQUESTS,
         "--data", "kind=synthetic_text,prompt_tokens=64,output_tokens=32", "--tokenizer",
         "kind=huggingface_auto,model=" + tokenizer, "--output", "kind=json,path=" + output],
        HF_HUB_OFFLINE="1", HOME=folder)
    with open(output, encoding="utf-8") as file:
        metrics = json.load(file)["benchmarks"][0]["metrics"]
    counts = metrics["request_totals"]
    assert (counts["successful"], counts["errored"]) == (REQUESTS, 0), counts
    assert serving.answered(server, path) >= REQUESTS, path
    return "%s: %d requests, %.1f tokens/s, first token after %.0f ms (median)" % (
        path, REQUESTS, metrics["output_tokens_per_second"]["successful"]["mean"],
        metrics["time_to_first_token_ms"]["successful"]["median"])


def run(folder, environment):
    tokenizer = serving.tokenizer_folder(folder)
    with serving.start(serving.chat_model(folder)) as server:
        return "; ".join(load(folder, environment, server, tokenizer, path)
                         for path in ("/v1/completions", "/v1/chat/completions"))
