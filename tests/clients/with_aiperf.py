"""aiperf: a load of streams of texts, and one of chats."""

import json
import os

from tests.clients import serving

PACKAGES = ["aiperf==0.13.0"]
REQUESTS = 64
PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}  # By its names for them.


def load(folder, environment, server, tokenizer, endpoint):
    output = os.path.join(folder, endpoint)
    serving.run(
        [environment + "/bin/aiperf", "profile", "--model", serving.CHAT, "--url",
         "http://127.0.0.1:%d" % server.http_port, "--endpoint-type", endpoint, "--streaming",
         "--tokenizer", tokenizer, "--concurrency", "8", "--request-count", str(REQUESTS),
         "--synthetic-input-tokens-mean", "64", "--output-tokens-mean", "32", "--extra-inputs",
         "ignore_eos:true", "--artifact-dir", output, "--ui", "simple"], HOME=folder)
    path, = serving.files(output, "profile_export_aiperf.json")
    with open(path, encoding="utf-8") as file:
        said = json.load(file)
    assert said["request_count"]["avg"] == REQUESTS, said["request_count"]
    assert not said.get("error_request_count", {}).get("avg"), said["error_request_count"]
    assert serving.answered(server, PATHS[endpoint]) >= REQUESTS, endpoint
    return "%s: %d requests, %.1f tokens/s, first token after %.0f ms (median)" % (
        PATHS[endpoint], REQUESTS, said["output_token_throughput"]["avg"], said["time_to_first_token"]["p50"])


def run(folder, environment):
    tokenizer = serving.tokenizer_folder(folder)
    with serving.start(serving.chat_model(folder)) as server:
        return "; ".join(load(folder, environment, server, tokenizer, endpoint) for endpoint in PATHS)
