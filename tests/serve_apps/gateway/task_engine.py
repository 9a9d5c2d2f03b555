"""An engine that obeys what a task sends it, and callers of tasks."""

from __future__ import annotations

from aiohttp import web

from tests.serve_apps.gateway.servers import begin_stream, chunk

HELLO = [{"role": "user", "content": "Hello?"}]
TASKS = {
    "chat": {"system": "Be kind."},
    "sentiment": {
        "system": "Judge.",
        "max_tokens": 8,
        "temperature": 0,
        "output": {"choices": ["positive", "negative"]},
    },
}


async def obey(request, body):
    """Answers as the grammar says, one character an event; without a grammar with the prompt."""
    choices = body.get("structured_outputs", {}).get("choice")
    text = choices[0] if choices else body["messages"][0]["content"]
    return await say(request, body, text)


async def say(request, body, text):
    if body.get("stream"):
        response = await begin_stream(request)
        for character in text:
            await response.write(chunk(character, "v1"))
        await response.write(b"data: [DONE]\n\n")
        return response
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    return web.json_response({"model": "v1", "choices": [choice], "usage": usage})


def saying(text):
    async def answer(request, body):
        return await say(request, body, text)

    return answer


def start(launch, behaviour=obey, **settings):
    """A gateway with the tasks above before one engine of v1."""
    stack = launch(**settings)
    stack.tasks.change({"tasks": {"m": TASKS}})
    stack.engine("v1", behaviour)
    stack.policy()
    return stack


def ask(stack, model="m/sentiment", **options):
    return stack.client().chat.completions.create(model=model, messages=HELLO, **options)


def text_of(answer):
    return answer.choices[0].message.content


def streamed(stack, model="m/sentiment", **options):
    return "".join(part.choices[0].delta.content or "" for part in ask(stack, model, stream=True, **options))
