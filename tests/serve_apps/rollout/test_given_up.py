from __future__ import annotations

import inspect

import pytest

from serve_apps.rollout.given_up import short

SERVES = """The deployment failed to start 3 times in a row. This may be due to its constructor.
See controller logs for details. Error:
Traceback (most recent call last):
  File "x.py", line 1, in check_ready
ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.
"""


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            SERVES,
            "The deployment failed to start 3 times in a row: "
            "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.",
        ),
        ("It failed. See the logs.", "It failed"),
        ("", "it does not say why"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_a_message_is_told_by_its_first_sentence_and_its_last_line(message, told):
    assert short(message) == told


def test_serve_still_tells_of_each_deployment_of_an_application():
    from ray.serve.schema import ApplicationStatusOverview, DeploymentStatus, DeploymentStatusOverview

    assert DeploymentStatus.DEPLOY_FAILED == "DEPLOY_FAILED"
    assert {"deployments", "last_deployed_time_s"} <= set(inspect.get_annotations(ApplicationStatusOverview))
    assert {"status", "message"} <= set(inspect.get_annotations(DeploymentStatusOverview))
