"""curl, as people type it."""

import json

from tests.clients import serving

PACKAGES = []
JSON = ("-H", "Content-Type: application/json")


def curl(server, path, *arguments, body=None):
    """Status, headers by their names in small letters, and the body."""
    if body is not None:
        arguments += JSON + ("-d", body if isinstance(body, str) else json.dumps(body))
    text = serving.run(["curl", "-sS", "-N", "--max-time", "60", "-i", "-H", "Expect:", *arguments,
                        "http://127.0.0.1:%d%s" % (server.http_port, path)])
    head, _, rest = text.replace("\r\n", "\n").partition("\n\n")
    lines = head.splitlines()
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, rest


def expect(condition, *what):
    if not condition:
        raise AssertionError(what)


def run(folder, environment):
    del environment
    with serving.start(serving.chat_model(folder)) as server:
        status, headers, body = curl(server, "/v1/models")
        expect(status == 200 and headers["content-type"].startswith("application/json"), status, headers)
        model = json.loads(body)["data"][0]["id"]
        ask = {"model": model, "prompt": "The little dog", "max_tokens": 8, "temperature": 0}

        status, headers, body = curl(server, "/v1/completions", body=ask)
        expect(status == 200, status, body)
        text = json.loads(body)["choices"][0]["text"]
        grpc = server.json("complete", "The little dog", "--max_tokens=8", "--temperature=0")
        expect(text == grpc["text"], text, grpc)

        status, headers, body = curl(server, "/v1/completions", body={**ask, "stream": True})
        expect(status == 200 and headers["content-type"].startswith("text/event-stream"), headers)
        events = [line[6:] for line in body.splitlines() if line]
        expect(events[-1] == "[DONE]", events)
        streamed = "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])
        expect(streamed == text, streamed, text)

        status, _, body = curl(server, "/v1/chat/completions", body={
            "model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4})
        expect(status == 200 and json.loads(body)["choices"][0]["message"]["content"], status, body)

        refused = 0
        for wrong, code in (("{", 400), ("[]", 400), ('{"model": "%s"}' % model, 400),
                            ("[" * 100000, 400), ('{"model": "%s", "prompt": "\\ud800"}' % model, 400),
                            ({**ask, "temperature": "warm"}, 400), ({**ask, "model": "x"}, 404)):
            status, _, body = curl(server, "/v1/completions", body=wrong)
            expect(status == code, str(wrong)[:80], status, body[:300])
            expect(json.loads(body)["error"]["message"], body)
            refused += 1
        for path, arguments, code in (("/v1/nothing", (), 404), ("/v1/completions", (), 405)):
            status, _, body = curl(server, path, *arguments)
            expect(status == code, path, status, body)
        status, _, body = curl(server, "/openapi.json")
        expect(status == 200 and json.loads(body)["openapi"].startswith("3."), body[:200])
    return "%d refusals as they should be" % refused
