"""Settings of Ray Serve that it reads from the environment of a replica."""

ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
"""The application answers on the loop that reads its requests.

Serve otherwise hands every message of a request, so every chunk of a stream, from one thread to
another, which take turns at the interpreter: about a fifth of the throughput of streams.
"""

HOOK_VARIABLE = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
"""Ray 2.60 takes `worker_process_setup_hook` for whole jobs only; this is what it becomes."""
