"""Traces of requests, told to OpenTelemetry where that is configured."""
