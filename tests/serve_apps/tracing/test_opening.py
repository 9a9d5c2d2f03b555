from __future__ import annotations

import subprocess
import sys

from serve_apps.gateway.trace import UNTRACED
from serve_apps.tracing.config import TracesConfig
from serve_apps.tracing.opening import open_tracer

PROGRAM = (
    "import sys\n"
    "from serve_apps.gateway import app\n"
    "from serve_apps.tracing.opening import open_tracer\n"
    "open_tracer(app.GatewayConfig(model='m').traces).begin([], '/v1/completions').waits().end()\n"
    "print([name for name in sys.modules if name.startswith(('opentelemetry', 'grpc'))])\n"
)


def test_nothing_of_opentelemetry_is_imported_without_configuration():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_with_configuration_requests_are_traced():
    tracer = open_tracer(TracesConfig(endpoint="http://collector:4317"))
    try:
        assert tracer.begin([], "/v1/completions") is not UNTRACED
    finally:
        tracer.stop()
