"""What Ray Serve does with a changed `user_config`, and what the gateway does with it."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest

from cluster.errors import ConfigError
from serve_apps import lean_process
from serve_apps.gateway import deployment
from serve_apps.gateway.tasks import TaskTable
from serve_apps.serve_settings import HOOK_VARIABLE

TASKS = {"tasks": {"m": {"chat": {"system": "Be kind."}}}}


def schema(args, user_config):
    from ray.serve.schema import ServeApplicationSchema

    return ServeApplicationSchema.model_validate(
        {
            "name": "gateway",
            "import_path": "serve_apps.app:gateway",
            "args": args,
            "deployments": [{"name": "gateway", "user_config": user_config}],
        }
    )


def test_serve_restarts_a_gateway_for_its_args_and_not_for_its_user_config():
    from ray.serve._private.config import DeploymentConfig
    from ray.serve._private.deploy_utils import get_app_code_version
    from ray.serve._private.version import DeploymentVersion

    codes = [
        get_app_code_version(schema(args, config))
        for args, config in (({"model": "m"}, {}), ({"model": "m"}, TASKS), ({"model": "n"}, TASKS))
    ]
    assert codes[0] == codes[1] != codes[2]
    before, after = (
        DeploymentVersion(codes[0], DeploymentConfig(user_config=config), {"num_cpus": 0})
        for config in ({}, TASKS)
    )
    assert before != after
    assert not before.requires_actor_restart(after)
    assert before.requires_actor_reconfigure(after)


def test_a_user_config_that_is_taken_out_again_is_an_empty_one():
    application = deployment.build({"model": "m"})
    assert application._bound_deployment._deployment_config.user_config == {}


def test_its_process_is_a_lean_one():
    options = deployment.build({"model": "m"})._bound_deployment.ray_actor_options
    assert options["runtime_env"]["env_vars"][HOOK_VARIABLE] == lean_process.HOOK


def test_a_replica_refuses_to_start_with_a_bad_one_and_goes_on_after_one():
    replica = SimpleNamespace(_tasks=TaskTable(["m"]))
    reconfigure = partial(deployment.Gateway.reconfigure, replica)
    with pytest.raises(ConfigError, match="`task` is not a key"):
        reconfigure({"task": {}})
    reconfigure(TASKS)
    reconfigure({"task": {}})
    assert replica._tasks.of("m") == ["m/chat"]
    reconfigure({})
    assert replica._tasks.of("m") == []
