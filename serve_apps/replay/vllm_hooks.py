"""The one place where the telling and the continuing of streams touch vLLM 0.29.

`tests/serve_apps/replay/test_vllm_hooks.py` says which version this holds for and runs it against
a real engine.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.detokenizer import IncrementalDetokenizer
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from serve_apps.replay.telling import Telling, current
from serve_apps.replay.ways import is_sampled, way_of
from serve_apps.replay.wire import End, Resume, Way

HOLDS_FOR = "0.29"

Generate = Callable[..., AsyncGenerator[RequestOutput, None]]


class DivergedError(RuntimeError):
    """The answer, generated again, is not the one that was begun; picklable as it stands."""


def hook(engine_client: Any) -> None:
    """Let `engine_client.generate` tell and continue the streams whose callers ask for it.

    The serving classes of vLLM look the method up on each request, so that setting it on the
    instance is enough.
    """
    original: Generate = engine_client.generate

    def generate(
        prompt: Any, sampling_params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        telling = current.get()
        if telling is None or sampling_params.output_kind is not RequestOutputKind.DELTA:
            return original(prompt, sampling_params, request_id, **options)
        way = way_of(sampling_params) if _token_ids(prompt) else Way.NONE
        if not telling.begin(way, sampled=is_sampled(sampling_params)):
            return original(prompt, sampling_params, request_id, **options)
        if telling.resume is None:
            return _tell(original(prompt, sampling_params, request_id, **options), telling)
        going_on = _Continuation(
            original, prompt, sampling_params, request_id, options, engine_client.tokenizer, telling.resume
        )
        return _tell(going_on.outputs(), telling, told=len(telling.resume.steps))

    engine_client.generate = generate


async def _tell(
    outputs: AsyncGenerator[RequestOutput, None], telling: Telling, told: int = 0
) -> AsyncGenerator[RequestOutput, None]:
    async with aclosing(outputs):
        try:
            async for output in outputs:
                if told > 0:
                    told -= 1
                else:
                    completion = output.outputs[0]
                    telling.add(completion.token_ids, _end(completion))
                yield output
        except (EngineDeadError, EngineGenerateError) as error:
            telling.failed = error
            raise
        except Exception:
            telling.gave_up = True
            raise


def _end(completion: CompletionOutput) -> End | None:
    if completion.finish_reason is None:
        return None
    return End(completion.finish_reason, completion.stop_reason)


def _token_ids(prompt: Any) -> list[int] | None:
    """The prompt's tokens; None for one with images, embeddings or an encoder."""
    if isinstance(prompt, dict) and prompt.get("type", "token") == "token":
        return prompt.get("prompt_token_ids")
    return None


@dataclass(slots=True)
class _Piece:
    """Tokens that have become an output: ids, their logprobs, and the end when they are the last."""

    ids: list[int]
    logprobs: Any = None
    end: End | None = None


@dataclass
class _Continuation:
    """The outputs of a begun answer from its first on, cut as they were told.

    Text is decoded here over all tokens, told and new, since an engine that got the told ones as
    prompt would begin to decode in the middle, perhaps of a character or of a stop string.
    """

    generate: Generate
    prompt: Any
    params: SamplingParams
    request_id: str
    options: dict[str, Any]
    tokenizer: Any
    resume: Resume
    _prompt_logprobs: Any = field(default=None, init=False)

    async def outputs(self) -> AsyncGenerator[RequestOutput, None]:
        """As vLLM's `generate`, in deltas."""
        decoder = self._decoder()
        pieces = self._from_prompt() if self.resume.way is Way.PREFILL else self._again()
        async with aclosing(pieces):
            async for piece in pieces:
                output = self._output(piece, decoder)
                yield output
                if output.finished:
                    return

    def _decoder(self) -> Any:
        request: Any = SimpleNamespace(
            request_id=self.request_id,
            sampling_params=self.params,
            prompt_token_ids=list(_token_ids(self.prompt) or ()),
            prompt_embeds=None,
        )
        return IncrementalDetokenizer.from_new_request(self.tokenizer, request)

    def _output(self, piece: _Piece, decoder: Any) -> RequestOutput:
        by_token = piece.end is not None and piece.end.finish_reason == "stop"
        by_token = by_token and not isinstance(piece.end and piece.end.stop_reason, str)
        stop_string = decoder.update(piece.ids, by_token)
        end = End("stop", stop_string) if stop_string else piece.end
        text = decoder.get_next_output_text(end is not None, True)
        completion = CompletionOutput(
            index=0,
            text=text,
            token_ids=piece.ids,
            cumulative_logprob=None,
            logprobs=piece.logprobs,
            finish_reason=end.finish_reason if end else None,
            stop_reason=end.stop_reason if end else None,
            lora_request=self.options.get("lora_request"),
        )
        prompt_logprobs, self._prompt_logprobs = self._prompt_logprobs, None
        return RequestOutput(
            request_id=self.request_id,
            prompt=None,
            prompt_token_ids=_token_ids(self.prompt),
            prompt_logprobs=prompt_logprobs,
            outputs=[completion],
            finished=end is not None,
            lora_request=self.options.get("lora_request"),
        )

    async def _from_prompt(self) -> AsyncGenerator[_Piece, None]:
        for piece in self._told():
            yield piece
        if self.resume.end is not None:
            return
        told = [token for step in self.resume.steps for token in step]
        prompt = {**self.prompt, "prompt_token_ids": [*(_token_ids(self.prompt) or ()), *told]}
        # The text as it came would be taken for the prompt's: the tokens are what counts.
        prompt.pop("prompt", None)
        params = _shortened(self.params, len(told))
        async with aclosing(self.generate(prompt, params, self.request_id, **self.options)) as outputs:
            async for output in outputs:
                completion = output.outputs[0]
                yield _Piece(list(completion.token_ids), None, _end(completion))

    async def _again(self) -> AsyncGenerator[_Piece, None]:
        made = _Buffer()
        told = self._told()
        awaited: _Piece | None = next(told, None)
        outputs = self.generate(self.prompt, self.params, self.request_id, **self.options)
        async with aclosing(outputs):
            async for output in outputs:
                if output.prompt_logprobs is not None:
                    self._prompt_logprobs = output.prompt_logprobs
                made.add(output.outputs[0])
                while awaited is not None and made.covers(awaited):
                    yield made.cut(awaited)
                    awaited = next(told, None)
                if awaited is None and made.has_any():
                    yield made.rest()
        if awaited is not None:
            raise DivergedError("The answer, generated again, ended before the one that was begun.")

    def _told(self) -> Iterator[_Piece]:
        last = len(self.resume.steps) - 1
        for number, ids in enumerate(self.resume.steps):
            yield _Piece(list(ids), None, self.resume.end if number == last else None)


class _Buffer:
    """Tokens generated again that have not become an output yet."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._logprobs: list[Any] = []
        self._end: End | None = None

    def add(self, completion: CompletionOutput) -> None:
        """One output of the engine."""
        self._ids.extend(completion.token_ids)
        if completion.logprobs is not None:
            self._logprobs.extend(completion.logprobs)
        self._end = _end(completion)

    def has_any(self) -> bool:
        """Whether `rest` would say anything."""
        return bool(self._ids) or self._end is not None

    def covers(self, piece: _Piece) -> bool:
        """Whether all of a told piece has been generated again."""
        return len(self._ids) >= len(piece.ids) and (piece.end is None or self._end is not None)

    def cut(self, told: _Piece) -> _Piece:
        """The tokens of a told piece; raises DivergedError where they are others."""
        count = len(told.ids)
        if self._ids[:count] != told.ids:
            raise DivergedError("The answer, generated again, has other tokens than the one that was begun.")
        again = _Piece(self._ids[:count], self._logprobs[:count] or None, told.end)
        del self._ids[:count], self._logprobs[:count]
        if told.end is not None:
            self._end = None
        return again

    def rest(self) -> _Piece:
        """All that is left."""
        piece = _Piece(self._ids, self._logprobs or None, self._end)
        self._ids, self._logprobs, self._end = [], [], None
        return piece


def _shortened(params: SamplingParams, told: int) -> SamplingParams:
    left = params.clone()
    if left.max_tokens is not None:
        left.max_tokens -= told
    left.min_tokens = max(0, left.min_tokens - told)
    # Stop strings are looked for in the text that is decoded here.
    left.stop = []
    left.output_text_buffer_length = 0
    left.detokenize = False
    return left
