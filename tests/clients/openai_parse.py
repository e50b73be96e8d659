"""Answers that OpenAI's Python package reads into types: `parse()`, its streams, and arguments of tools. Run by
with_openai.py, as openai_calls.py is."""

import asyncio
import enum
import typing

import openai
import pydantic

from tests.clients import openai_calls


class Kind(enum.Enum):
    DOG = "dog"
    CAT = "cat"


class Toy(pydantic.BaseModel):
    color: typing.Literal["red", "blue"]
    price: float = pydantic.Field(gt=0, le=80)


class Pet(pydantic.BaseModel):
    """Each part has a bound: its JSON has less than 1,500 bytes, all spaces included, and a token has one at least."""

    name: str = pydantic.Field(min_length=1, max_length=8)
    kind: Kind
    age: int = pydantic.Field(ge=1, le=20)
    toys: typing.List[Toy] = pydantic.Field(min_length=1, max_length=2)
    owner: typing.Optional[str] = pydantic.Field(max_length=8)


ENOUGH = 1500
SEEDS = (1, 2, 3)


class ParseTest(openai_calls.Calls):

    def chat(self, seed, **options):
        return {"model": self.model, "messages": [{"role": "user", "content": "A pet."}], "response_format": Pet,
                "seed": seed, "max_tokens": ENOUGH, **options}

    def response(self, seed, **options):
        return {"model": self.model, "input": "A pet.", "text_format": Pet, "max_output_tokens": ENOUGH,
                "extra_body": {"seed": seed}, **options}

    def check_pet(self, pet, text):
        """`pet` is what the text says, in types; the client has checked the bounds where it made one of the other."""
        self.assertIs(type(pet), Pet)
        self.assertIsInstance(pet.kind, Kind)
        self.assertEqual({type(toy) for toy in pet.toys}, {Toy})
        self.assertEqual(pet, Pet.model_validate_json(text, strict=True))

    def check_choice(self, choice):
        """Its text."""
        self.assertEqual(choice.finish_reason, "stop")
        self.assertIn("refusal", choice.message.model_fields_set)
        self.assertIsNone(choice.message.refusal)
        self.assertIsNone(choice.message.tool_calls)
        self.check_pet(choice.message.parsed, choice.message.content)
        return choice.message.content

    def check_response(self, made):
        self.assertEqual((made.status, made.error, made.incomplete_details), ("completed", None, None))
        (message,) = made.output
        (part,) = message.content
        self.assertEqual(part.type, "output_text")  # And not "refusal".
        self.check_pet(part.parsed, part.text)
        self.assertIs(made.output_parsed, part.parsed)
        self.assertEqual(made.output_text, part.text)
        self.assertEqual((made.text.format.type, made.text.format.name, made.text.format.strict),
                         ("json_schema", "Pet", True))
        self.assertEqual(sorted(made.text.format.schema_["properties"]), sorted(Pet.model_fields))
        return part.text

    def test_chats(self):
        texts = set()
        for seed in SEEDS:
            made = self.client.chat.completions.parse(**self.chat(seed, n=2))
            texts |= {self.check_choice(choice) for choice in made.choices}
        self.assertGreater(len(texts), len(SEEDS))

    def test_chats_streamed(self):
        for seed in SEEDS:
            with self.client.chat.completions.stream(**self.chat(seed, n=2)) as stream:
                events = list(stream)
                made = stream.get_final_completion()
            self.assertEqual({event.type for event in events}, {"chunk", "content.delta", "content.done"})
            whole = self.client.chat.completions.parse(**self.chat(seed, n=2))
            for choice, other in zip(made.choices, whole.choices):
                # A stream's snapshot has what its events had, which is no word of a refusal.
                self.assertIsNone(choice.message.refusal)
                self.check_pet(choice.message.parsed, choice.message.content)
                self.assertEqual((choice.finish_reason, choice.message.content),
                                 (other.finish_reason, other.message.content))
            self.assertCountEqual([event.content for event in events if event.type == "content.done"],
                                  [choice.message.content for choice in whole.choices])
            for event in events:
                if event.type == "content.done":
                    self.check_pet(event.parsed, event.content)
            # On the way there is what can be read of the beginning.
            partly = [event.parsed for event in events if event.type == "content.delta" and event.parsed]
            self.assertEqual([pet for pet in partly if not set(pet) <= set(Pet.model_fields)], [])
            self.assertGreater(len({len(pet) for pet in partly}), 2)

    def test_responses(self):
        for seed in SEEDS:
            text = self.check_response(self.client.responses.parse(**self.response(seed)))
            with self.client.responses.stream(**self.response(seed)) as stream:
                events = list(stream)
                made = stream.get_final_response()
            self.assertEqual(self.check_response(made), text)
            (done,) = [event for event in events if event.type == "response.output_text.done"]
            self.check_pet(done.parsed, text)
            deltas = [event for event in events if event.type == "response.output_text.delta"]
            self.assertEqual(("".join(event.delta for event in deltas), deltas[-1].snapshot), (text, text))
            self.assertEqual([event.sequence_number for event in events], list(range(len(events))))

    def test_what_is_cut_is_no_pet(self):
        with self.assertRaises(openai.LengthFinishReasonError) as cut:
            self.client.chat.completions.parse(**self.chat(1, max_tokens=3))
        self.assertEqual(cut.exception.completion.usage.completion_tokens, 3)
        with self.client.chat.completions.stream(**self.chat(1, max_tokens=3)) as stream:
            with self.assertRaises(openai.LengthFinishReasonError):
                stream.until_done()

    def test_arguments_of_tools(self):
        tools = [openai.pydantic_function_tool(Pet)]
        chat = self.chat(1, tools=tools, tool_choice={"type": "function", "function": {"name": "Pet"}})
        del chat["response_format"]
        (call,) = self.client.chat.completions.parse(**chat).choices[0].message.tool_calls
        self.check_pet(call.function.parsed_arguments, call.function.arguments)
        with self.client.chat.completions.stream(**chat) as stream:
            (streamed,) = stream.get_final_completion().choices[0].message.tool_calls
        self.assertEqual(streamed.function.parsed_arguments, call.function.parsed_arguments)
        response = self.response(1, tools=tools, tool_choice={"type": "function", "name": "Pet"})
        del response["text_format"]
        (call,) = self.client.responses.parse(**response).output
        self.check_pet(call.parsed_arguments, call.arguments)

    def test_async(self):
        async def chat(many, seed):
            return (await many.chat.completions.parse(**self.chat(seed))).choices[0]

        async def chat_streamed(many, seed):
            async with many.chat.completions.stream(**self.chat(seed)) as stream:
                return (await stream.get_final_completion()).choices[0]

        async def response(many, seed):
            return await many.responses.parse(**self.response(seed))

        async def response_streamed(many, seed):
            async with many.responses.stream(**self.response(seed)) as stream:
                return await stream.get_final_response()

        async def main():
            async with openai_calls.client(make=openai.AsyncOpenAI) as many:
                return await asyncio.gather(*(ask(many, seed) for ask in (
                    chat, chat_streamed, response, response_streamed) for seed in SEEDS))

        made = asyncio.run(main())
        whole, streamed, responses, responses_streamed = (
            made[i:i + len(SEEDS)] for i in range(0, len(made), len(SEEDS)))
        texts = [self.check_choice(choice) for choice in whole]
        for choice in streamed:
            self.check_pet(choice.message.parsed, choice.message.content)
        self.assertEqual([choice.message.content for choice in streamed], texts)
        self.assertEqual([self.check_response(one) for one in responses],
                         [self.check_response(one) for one in responses_streamed])
