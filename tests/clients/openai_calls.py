"""What users of OpenAI's Python package do, with that package. Run by with_openai.py, in its environment:

  PACKRAT_HTTP: of a server with a chat template; PACKRAT_SMALL: of one that runs one request, lets one wait and
  wants the key PACKRAT_KEY.
"""

import asyncio
import json
import os
import time
import unittest
import urllib.request
from concurrent import futures

import openai

PROMPT = "The little dog"
LONG = {"max_tokens": 3500, "extra_body": {"ignore_eos": True}}


def client(address="PACKRAT_HTTP", key="none", make=openai.OpenAI, **more):
    return make(base_url=os.environ[address] + "/v1", api_key=key, **more)


class Calls(unittest.TestCase):

    def setUp(self):
        self.client = client()
        self.addCleanup(self.client.close)
        self.model = self.client.models.list().data[0].id

    def complete(self, prompt=PROMPT, **options):
        return self.client.completions.create(model=self.model, prompt=prompt, **options)

    def stream(self, prompt=PROMPT, **options):
        return list(self.complete(prompt, stream=True, **options))


class CompletionsTest(Calls):

    def test_models(self):
        self.assertEqual(self.client.models.retrieve(self.model).id, self.model)
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("another")
        with self.assertRaises(openai.NotFoundError):
            self.client.completions.create(model="another", prompt=PROMPT)

    def test_text(self):
        made = self.complete(max_tokens=12, temperature=0)
        self.assertEqual((len(made.choices), made.choices[0].finish_reason), (1, "length"))
        self.assertEqual(made.usage.completion_tokens, 12)
        self.assertEqual(made.usage.total_tokens, made.usage.prompt_tokens + 12)
        self.assertEqual(self.complete(max_tokens=12, temperature=0).choices[0].text, made.choices[0].text)
        self.assertEqual(self.complete(max_tokens=60, temperature=0, stop=["."]).choices[0].finish_reason, "stop")

    def test_a_seed_gives_the_same_text_streamed_or_not(self):
        whole = self.complete(max_tokens=40, seed=7, temperature=0.9)
        events = self.stream(max_tokens=40, seed=7, temperature=0.9, stream_options={"include_usage": True})
        self.assertEqual("".join(e.choices[0].text for e in events if e.choices), whole.choices[0].text)
        self.assertGreater(len(events), 3)
        self.assertEqual(events[-1].choices, [])
        self.assertEqual(events[-1].usage.completion_tokens, whole.usage.completion_tokens)
        self.assertEqual(len({event.id for event in events}), 1)
        self.assertEqual([e.choices[0].finish_reason for e in events if e.choices][-1],
                         whole.choices[0].finish_reason)

    def test_several_prompts_and_choices(self):
        made = self.complete(["The dog", "The cat"], n=2, max_tokens=6, seed=1)
        self.assertEqual([choice.index for choice in made.choices], [0, 1, 2, 3])
        alone = self.complete("The cat", n=2, max_tokens=6, seed=1)
        self.assertEqual([c.text for c in made.choices[2:]], [c.text for c in alone.choices])
        best = self.complete(n=1, best_of=4, max_tokens=6, seed=1)
        self.assertEqual(len(best.choices), 1)

    def test_log_probabilities(self):
        made = self.complete(max_tokens=5, temperature=0, logprobs=3).choices[0].logprobs
        self.assertEqual([len(made.tokens), len(made.token_logprobs), len(made.top_logprobs)], [5, 5, 5])
        self.assertEqual("".join(made.tokens), self.complete(max_tokens=5, temperature=0).choices[0].text)
        for token, value, top in zip(made.tokens, made.token_logprobs, made.top_logprobs):
            self.assertEqual(max(top.values()), value, token)

    def test_echo(self):
        made = self.complete(max_tokens=0, echo=True, logprobs=1).choices[0]
        self.assertEqual(made.text, PROMPT)
        self.assertIsNone(made.logprobs.token_logprobs[0])
        self.assertLess(max(made.logprobs.token_logprobs[1:]), 0)
        both = self.complete(max_tokens=4, temperature=0, echo=True).choices[0].text
        self.assertEqual(both, PROMPT + self.complete(max_tokens=4, temperature=0).choices[0].text)

    def test_our_own_options(self):
        for options in ({"top_k": 1}, {"min_p": 0.999}):
            self.assertEqual(self.complete(max_tokens=8, seed=3, extra_body=options).choices[0].text,
                             self.complete(max_tokens=8, temperature=0).choices[0].text)

    def test_errors_name_the_field(self):
        for options, field in (({"top_p": 2}, "top_p"), ({"max_tokens": -1}, "max_tokens"),
                               ({"suffix": "end"}, "suffix"), ({"n": 1000}, "n")):
            with self.assertRaises(openai.BadRequestError) as caught:
                self.complete(**options)
            self.assertEqual(caught.exception.param, field)
            self.assertIn(field, caught.exception.message)
            self.assertEqual(caught.exception.type, "invalid_request_error")
        with self.assertRaises(openai.BadRequestError):
            self.complete("long " * 20000)
        with self.assertRaises((openai.BadRequestError, openai.NotFoundError)):
            self.client.embeddings.create(model=self.model, input="text")

    def test_many_streams_at_once(self):
        async def one(many, seed):
            events = await many.completions.create(model=self.model, prompt=PROMPT, max_tokens=20, seed=seed,
                                                   stream=True)
            return "".join([event.choices[0].text async for event in events if event.choices])

        async def main():
            async with client(make=openai.AsyncOpenAI) as many:
                return await asyncio.gather(*(one(many, seed % 4) for seed in range(32)))
        texts = asyncio.run(main())
        self.assertEqual(texts[:4] * 8, texts)
        self.assertEqual(len(set(texts)), 4)


class ChatTest(Calls):

    MESSAGES = [{"role": "system", "content": "Tell a story."}, {"role": "user", "content": "About a dog"}]

    def chat(self, **options):
        return self.client.chat.completions.create(model=self.model, messages=self.MESSAGES, **options)

    def test_chat(self):
        made = self.chat(max_completion_tokens=16, temperature=0, logprobs=True, top_logprobs=2)
        choice = made.choices[0]
        self.assertEqual((choice.message.role, choice.finish_reason), ("assistant", "length"))
        self.assertEqual("".join(token.token for token in choice.logprobs.content), choice.message.content)
        self.assertEqual(len(choice.logprobs.content[0].top_logprobs), 2)
        # The prompt is what the template makes of the messages.
        text = "system: Tell a story.\nuser: About a dog\nassistant:"
        same = self.complete(text, max_tokens=16, temperature=0)
        self.assertEqual(choice.message.content, same.choices[0].text)
        self.assertEqual(made.usage.prompt_tokens, same.usage.prompt_tokens)

    def test_streamed(self):
        whole = self.chat(max_tokens=30, seed=5, n=2)
        texts = ["", ""]
        for event in self.chat(max_tokens=30, seed=5, n=2, stream=True):
            for choice in event.choices:
                texts[choice.index] += choice.delta.content or ""
        self.assertEqual(texts, [choice.message.content for choice in whole.choices])
        with self.client.chat.completions.stream(model=self.model, messages=self.MESSAGES, max_tokens=10,
                                                 seed=5) as stream:
            text = "".join(event.delta for event in stream if event.type == "content.delta")
        self.assertEqual(text, self.chat(max_tokens=10, seed=5).choices[0].message.content)

    def test_parts_of_text(self):
        parts = [{"role": "user", "content": [{"type": "text", "text": "About"},
                                              {"type": "text", "text": " a dog"}]}]
        made = self.client.chat.completions.create(model=self.model, messages=parts, max_tokens=4)
        self.assertTrue(made.choices[0].message.content)
        parts[0]["content"].append({"type": "image_url", "image_url": {"url": "http://example.com/a.png"}})
        with self.assertRaises(openai.BadRequestError):
            self.client.chat.completions.create(model=self.model, messages=parts, max_tokens=4)

    def test_responses(self):
        made = self.client.responses.create(model=self.model, input="About a dog", max_output_tokens=16,
                                            temperature=0)
        self.assertTrue(made.output_text)
        self.assertEqual(made.usage.output_tokens, 16)
        text, kinds = "", []
        for event in self.client.responses.create(model=self.model, input="About a dog", max_output_tokens=16,
                                                  temperature=0, stream=True):
            kinds.append(event.type)
            text += event.delta if event.type == "response.output_text.delta" else ""
        self.assertEqual(text, made.output_text)
        self.assertEqual(kinds[0], "response.created")
        self.assertIn(kinds[-1], ("response.completed", "response.incomplete"))


class ToolsTest(Calls):
    """Calls that are forced, since the bundled model would make none."""

    WEATHER = {"name": "weather", "description": "Of a city.", "parameters": {
        "type": "object", "required": ["city", "days"], "additionalProperties": False,
        "properties": {"city": {"type": "string", "maxLength": 8},
                       "days": {"type": "integer", "minimum": 1, "maximum": 9}}}}
    STOP = {"name": "stop"}
    NAMED = {"type": "function", "name": "weather"}

    def ask(self, choice, messages=({"role": "user", "content": "Rain?"},), **options):
        return self.client.chat.completions.create(
            model=self.model, messages=list(messages), tool_choice=choice, seed=3, max_tokens=300,
            tools=[{"type": "function", "function": tool} for tool in (self.WEATHER, self.STOP)], **options)

    def check(self, name, arguments):
        self.assertIn(name, ("weather", "stop"))
        arguments = json.loads(arguments)
        if name == "weather":
            self.assertEqual(sorted(arguments), ["city", "days"])
            self.assertIn(arguments["days"], range(1, 10))
        else:
            self.assertEqual(arguments, {})

    def test_one_call_is_made_streamed_or_not(self):
        for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
            made = self.ask(choice).choices[0]
            self.assertEqual((made.finish_reason, made.message.content), ("tool_calls", None))
            (call,) = made.message.tool_calls
            self.check(call.function.name, call.function.arguments)
            if choice != "required":
                self.assertEqual(call.function.name, "weather")
            name, arguments, ids, reasons = "", "", set(), []
            for event in self.ask(choice, stream=True):
                self.assertFalse(event.choices[0].delta.content)
                reasons.append(event.choices[0].finish_reason)
                for delta in event.choices[0].delta.tool_calls or ():
                    self.assertEqual(delta.index, 0)
                    name += delta.function.name or ""
                    arguments += delta.function.arguments or ""
                    ids.add(delta.id)
            self.assertEqual((name, arguments), (call.function.name, call.function.arguments))
            self.assertEqual(len(ids - {None}), 1)
            self.assertEqual(reasons[-1], "tool_calls")
            # The client sends it back with what came of it.
            answer = self.ask("none", messages=[
                {"role": "user", "content": "Rain?"}, made.message,
                {"role": "tool", "tool_call_id": call.id, "content": "No."}])
            self.assertTrue(answer.choices[0].message.content)

    def test_what_cannot_be_forced_is_refused(self):
        with self.assertRaises(openai.BadRequestError) as refused:
            self.ask({"type": "function", "function": {"name": "fly"}})
        self.assertEqual(refused.exception.param, "tool_choice")

    def test_responses(self):
        options = {"model": self.model, "tools": [{"type": "function", "strict": True, **self.WEATHER}],
                   "tool_choice": self.NAMED, "max_output_tokens": 300, "temperature": 0}
        made = self.client.responses.create(input="Rain?", **options)
        (call,) = made.output
        self.assertEqual(call.type, "function_call")
        self.check(call.name, call.arguments)
        kinds, arguments = [], ""
        for event in self.client.responses.create(input="Rain?", stream=True, **options):
            kinds.append(event.type)
            arguments += event.delta if event.type == "response.function_call_arguments.delta" else ""
        self.assertEqual(arguments, call.arguments)
        self.assertEqual(kinds[-2:], ["response.output_item.done", "response.completed"])
        options["tool_choice"] = "none"
        answer = self.client.responses.create(input=[
            {"role": "user", "content": "Rain?"}, call,
            {"type": "function_call_output", "call_id": call.call_id, "output": "No."}], **options)
        self.assertTrue(answer.output_text)


class SmallServerTest(unittest.TestCase):
    """Keys, a full queue, and clients that go away."""

    def small(self, **more):
        made = client("PACKRAT_SMALL", os.environ["PACKRAT_KEY"], **more)
        self.addCleanup(made.close)
        return made

    def complete(self, which, **options):
        return which.completions.create(model=which.models.list().data[0].id, prompt=PROMPT, **options)

    def test_keys(self):
        with client("PACKRAT_SMALL", "guessed") as stranger:
            with self.assertRaises(openai.AuthenticationError):
                stranger.completions.create(model="any", prompt=PROMPT)
        self.assertTrue(self.complete(self.small(), max_tokens=2).choices[0].text)

    def test_a_full_queue_is_a_429_that_the_package_waits_for(self):
        running = self.complete(self.small(), stream=True, **LONG)
        next(iter(running))
        with futures.ThreadPoolExecutor(3) as pool:
            # Of two that come now one waits, and there is no room for the other.
            calls = {pool.submit(self.complete, self.small(max_retries=0), max_tokens=2) for _ in range(2)}
            (refused,), waiting = futures.wait(calls, return_when=futures.FIRST_COMPLETED)
            self.assertIsInstance(refused.exception(), openai.RateLimitError)
            self.assertGreater(float(refused.exception().response.headers["retry-after-ms"]), 0)
            patient = pool.submit(self.complete, self.small(max_retries=50), max_tokens=2)
            time.sleep(0.5)
            running.close()
            for call in (*waiting, patient):
                self.assertTrue(call.result().choices[0].text)

    def generated(self):
        page = urllib.request.Request(os.environ["PACKRAT_SMALL"] + "/metrics",
                                      headers={"Authorization": "Bearer " + os.environ["PACKRAT_KEY"]})
        with urllib.request.urlopen(page) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("packrat_generated_tokens_total"))

    def test_a_stream_that_is_closed_frees_its_place(self):
        before = self.generated()
        for _ in range(4):
            running = self.complete(self.small(), stream=True, **LONG)
            next(iter(running))
            running.close()
        self.assertTrue(self.complete(self.small(), max_tokens=2).choices[0].text)
        # It waited for the others' ends.
        made = self.generated() - before
        self.assertGreater(made, 0)
        self.assertLess(made, 4 * LONG["max_tokens"])

    def test_deadline(self):
        with self.assertRaises(openai.APITimeoutError):
            self.complete(self.small(max_retries=0, timeout=0.5), **LONG)
        self.assertTrue(self.complete(self.small(), max_tokens=2).choices[0].text)
