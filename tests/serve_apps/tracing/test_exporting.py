from __future__ import annotations

import logging
import threading
import time

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serve_apps.tracing import exporting
from serve_apps.tracing.config import TracesConfig
from serve_apps.tracing.exporting import Sending, make_exporter
from tests.serve_apps.gateway.servers import eventually
from tests.serve_apps.tracing.receiver import Receiver


class Stuck(SpanExporter):
    """A collector that takes a batch and says nothing until it is told to fail."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.release = threading.Event()

    def export(self, spans):
        self.begun.set()
        self.release.wait(20)
        return SpanExportResult.FAILURE

    def shutdown(self):
        self.release.set()


class Raises(SpanExporter):
    def export(self, spans):
        raise ValueError("no")

    def shutdown(self):
        """Nothing to end."""


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    made = []

    def start(exporter):
        lost = []
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(Sending(exporter, lost.append))
        made.append(provider)
        return provider, provider.get_tracer("test"), lost

    yield start
    for provider in made:
        provider.shutdown()


def test_ended_spans_reach_the_exporter_and_none_is_lost(make):
    memory = InMemorySpanExporter()
    _, tracer, lost = make(memory)
    for number in range(3):
        tracer.start_span(str(number)).end()
    eventually(lambda: len(memory.get_finished_spans()) == 3, "three spans")
    assert lost == []


def test_a_full_queue_turns_spans_away_counts_them_and_holds_nobody_up(make, monkeypatch):
    monkeypatch.setattr(exporting, "QUEUE", 600)
    stuck = Stuck()
    provider, tracer, lost = make(stuck)
    tracer.start_span("first").end()
    assert stuck.begun.wait(20)
    began = time.monotonic()
    for _ in range(700):
        tracer.start_span("more").end()
    assert time.monotonic() - began < 5
    assert lost == [1] * 100
    stuck.release.set()
    provider.shutdown()
    assert sum(lost) == 701


def test_what_a_collector_refuses_or_chokes_on_is_counted(make):
    _, tracer, lost = make(Raises())
    tracer.start_span("one").end()
    eventually(lambda: lost == [1], "it is counted")


def test_stopping_waits_a_moment_and_no_longer(make, monkeypatch):
    monkeypatch.setattr(exporting, "_STOP_S", 0.1)
    provider, tracer, lost = make(Stuck())
    tracer.start_span("one").end()
    began = time.monotonic()
    provider.shutdown()
    assert time.monotonic() - began < 10
    assert lost == [1]


@pytest.mark.parametrize(
    ("config", "module"),
    [
        ({"endpoint": "http://collector:4317"}, "grpc"),
        ({"endpoint": "http://collector:4318/v1/traces", "protocol": "http/protobuf"}, "http"),
    ],
)
def test_each_protocol_has_its_exporter(config, module):
    exporter = make_exporter(TracesConfig(**config))
    assert type(exporter).__module__ == f"opentelemetry.exporter.otlp.proto.{module}.trace_exporter"
    exporter.shutdown()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_dead_collector_is_told_of_once_a_minute(make, caplog, monkeypatch, protocol):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0.2")
    for name in exporting._EXPORTER_LOGS:
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
    receiver = Receiver()
    receiver.close()
    endpoint = receiver.url if protocol != "grpc" else receiver.url.removesuffix("/v1/traces")
    _, tracer, lost = make(make_exporter(TracesConfig(endpoint=endpoint, protocol=protocol)))
    for number in range(1, 4):
        tracer.start_span("one").end()
        eventually(lambda number=number: sum(lost) == number, "it is lost")
    told = [record for record in caplog.records if record.name in exporting._EXPORTER_LOGS]
    assert len(told) == 1
