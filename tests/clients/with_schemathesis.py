"""schemathesis: requests made from the OpenAPI description, good and bad; answers must be as it says."""

import json
import os
import re

from tests.clients import serving

PACKAGES = ["schemathesis==4.32.5"]
# Fields that exclude one another, or that most values of their type are wrong for: with all of them hardly a request
# is so good that there is an answer.
PICKY = {"model", "session", "previous_response_id", "conversation", "best_of", "stream_options", "solver", "include",
         "logit_bias", "allowed_token_ids", "banned_token_ids", "stop_token_ids", "grammar", "regex", "json_schema",
         "guided_grammar", "guided_regex", "guided_json", "structured_outputs", "response_format", "text", "tools",
         "add_special_tokens", "max_tokens", "min_tokens", "top_k"}


def simple_description(folder, description):
    """A file with the description less these fields; the messages of a chat are described well."""
    message = {"type": "object", "required": ["role", "content"], "additionalProperties": False,
               "properties": {"role": {"type": "string"}, "content": {"type": "string"}}}
    for methods in description["paths"].values():
        as_json = methods.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json")
        if as_json is not None:  # And no bytes.
            fields = as_json["schema"].get("properties", {})
            for name in PICKY & set(fields):
                del fields[name]
            for name in {"messages", "input"} & set(fields):
                fields[name] = {"type": "array", "minItems": 1, "maxItems": 4, "items": message}
    path = os.path.join(folder, "openapi.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(description, file)
    return path


def play(environment, folder, url, description):
    """How many requests were made."""
    said = serving.run(
        [environment + "/bin/schemathesis", "--no-color", "run", description, "--url", url,
         "--phases", "examples,coverage,fuzzing", "--max-examples", os.environ.get("PACKRAT_EXAMPLES", "50"),
         # What fields say together, and what depends on the model, is in no schema.
         "--exclude-checks", "positive_data_acceptance", "--seed", "1", "--generation-database", "none",
         "--request-timeout", "60"], timeout=1200, cwd=folder)
    return int(re.search(r"(\d+) generated", said).group(1))


def run(folder, environment):
    with serving.start(serving.chat_model(folder), "--max_context=64") as server:
        url = "http://127.0.0.1:%d" % server.http_port
        made = play(environment, folder, url, url + "/openapi.json")
        simple = simple_description(folder, json.loads(server.get("/openapi.json")))
        made += play(environment, folder, url, simple)
        answered = server.metric('packrat_calls_total{model="%s",call="Generate",status="OK"}' % serving.CHAT)
        status, log = server.stop()
    assert status == 0, log[-5:]
    assert answered > 100, answered
    return "%d requests, %d of them answered with a text" % (made, answered)
