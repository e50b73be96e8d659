"""What the messages of a stream come to."""
from __future__ import annotations

import dataclasses
from typing import Dict, List

from packrat_client.proto import inference_pb2


@dataclasses.dataclass
class Choice:
    """One continuation of a prompt, or one candidate that was scored."""
    text: str = ""
    token_ids: List[int] = dataclasses.field(default_factory=list)
    # One for each token, where num_logprobs was given.
    logprobs: List[inference_pb2.TokenLogprobs] = dataclasses.field(default_factory=list)
    # Of the prompt (echo_prompt) or of the candidate.
    scores: List[inference_pb2.TokenScore] = dataclasses.field(default_factory=list)
    # Usage, timings, seed, request_id and, of a candidate, the sum of its scores.
    finished: inference_pb2.Finished = dataclasses.field(default_factory=inference_pb2.Finished)

    @property
    def reason(self) -> str:
        """Why the text ended: "length", "eos", "stop_id" or "stop_string"."""
        name = inference_pb2.FinishReason.Name(self.finished.reason)
        return name[len("FINISH_REASON_"):].lower()


@dataclasses.dataclass
class Completion:
    """All continuations of a prompt. What one alone has is that of the first."""
    choices: List[Choice]

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def token_ids(self) -> List[int]:
        return self.choices[0].token_ids

    @property
    def reason(self) -> str:
        return self.choices[0].reason

    @property
    def usage(self) -> inference_pb2.Usage:
        return self.choices[0].finished.usage

    @property
    def seed(self) -> int:
        return self.choices[0].finished.seed

    @property
    def request_id(self) -> str:
        return self.choices[0].finished.request_id


class Collector:
    """Adds up messages."""

    def __init__(self) -> None:
        self._texts: Dict[int, List[str]] = {}
        self._choices: Dict[int, Choice] = {}

    def add(self, message: inference_pb2.GenerateResponse) -> None:
        choice = self._choices.setdefault(message.choice, Choice())
        self._texts.setdefault(message.choice, []).append(message.text)
        choice.token_ids.extend(message.token_ids)
        choice.logprobs.extend(message.logprobs)
        choice.scores.extend(message.scores)
        if message.HasField("finished"):
            choice.finished = message.finished

    def choices(self) -> List[Choice]:
        for number, choice in self._choices.items():
            choice.text = "".join(self._texts[number])
        return [self._choices[number] for number in sorted(self._choices)]
