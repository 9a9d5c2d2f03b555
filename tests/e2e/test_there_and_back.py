"""Ways there and back between versions, under as many streams as the machine carries."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from cluster.registry import ModelStore
from tests.e2e.comparison import PROMPTS, ask
from tests.e2e.rolling import version_app
from tests.support.endpoint import MODEL, Endpoint, publish, wait_for
from tests.support.repeating import Repeating
from tests.support.tiny_model import make_tiny_model
from train_jobs import golden

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow]

VERSIONS = {"A": "v1", "B": "v2", "C": "v8"}
WEIGHTS = {"early": 1, "middle": 50, "late": 99}
TOKENS = 8
WARM = 300


@dataclass(kw_only=True)
class Streams(Repeating):
    """Streams by the split, each of which must say what the version that it names says alone."""

    url: str
    expected: dict[str, dict[str, str]]
    """By version and prompt."""
    answered: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    spliced: list[str] = field(default_factory=list)

    def once(self, number: int, count: int) -> None:
        """One stream, and what came of it."""
        prompt = PROMPTS[(number + count) % len(PROMPTS)]
        try:
            version, text = self._ask(prompt, key=f"{number}-{count}")
        except (OSError, AssertionError) as error:
            self.failed.append(repr(error))
            return
        self.answered.append(version)
        if text != self.expected[version][prompt]:
            self.spliced.append(f"{version}, {prompt}: {text!r}, not {self.expected[version][prompt]!r}")

    def _ask(self, prompt: str, *, key: str) -> tuple[str, str]:
        body = {"model": MODEL, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "stream": True}
        request = urllib.request.Request(
            f"{self.url}/v1/completions",
            json.dumps(body | {"ignore_eos": True}).encode(),
            {"content-type": "application/json", "x-linnet-key": key},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            *events, done, end = answer.read().split(b"\n\n")
            assert (done, end) == (b"data: [DONE]", b""), done
            said = [json.loads(event.removeprefix(b"data: "))["choices"][0]["text"] for event in events]
            return answer.headers["x-linnet-version"], "".join(said)


@pytest.fixture(scope="module")
def serving(shared_endpoint, shared_settings, tmp_path_factory) -> Iterator[Endpoint]:
    label = VERSIONS["C"]
    source = make_tiny_model(tmp_path_factory.mktemp("there") / label, seed=8)
    publish(ModelStore.open(shared_settings), source, label, golden.compute(source))
    shared_endpoint.deploy(["v1", "v2"], more=[version_app(MODEL, label)])
    shared_endpoint.wait_until_serving(VERSIONS.values())
    yield shared_endpoint
    shared_endpoint.deploy(["v1", "v2"])


@pytest.fixture(scope="module")
def expected(serving) -> dict[str, dict[str, str]]:
    def alone(version: str, prompt: str) -> str:
        return ask(serving, prompt, stream=False, model=f"{MODEL}:{version}", tokens=TOKENS)

    said = {version: {p: alone(version, p) for p in PROMPTS} for version in VERSIONS.values()}
    # An engine's first batches of each size are slow, and the rates are those of engines that are at work.
    with Streams(url=serving.url, expected=said, callers=8) as streams:
        wait_for(lambda: len(streams.answered) >= WARM, "warm engines", 120)
    assert streams.failed == []
    return said


@pytest.mark.parametrize("when", WEIGHTS)
@pytest.mark.parametrize("there", ["A-B-A", "A-B-A-B", "A-B-A-C"])
def test_there_and_back_under_streams_fails_and_splices_nothing(serving, expected, told, when, there):
    with Streams(url=serving.url, expected=expected, callers=8) as streams:
        began = time.monotonic()
        for letter in there.split("-")[1:]:
            if letter == "A":
                serving.linnet("rollout", "rollback", MODEL, "--yes")
                continue
            version = VERSIONS[letter]
            serving.linnet("rollout", "start", f"{MODEL}:{version}", "--weight", str(WEIGHTS[when]), "--yes")
            wait_for(lambda version=version: version in streams.answered[-200:], "an answer of it", 60)
        if there[-1] != "A":
            serving.linnet("rollout", "promote", MODEL, "--yes")
            serving.linnet("rollout", "rollback", MODEL, "--yes")
        took = time.monotonic() - began
    assert streams.failed == []
    assert streams.spliced == []
    told.append(
        f"{there} at {WEIGHTS[when]}%: {len(streams.answered)} streams, "
        f"{len(streams.answered) / took:.0f} a second, 0 failed or spliced"
    )
