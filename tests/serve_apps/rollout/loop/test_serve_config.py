from __future__ import annotations

import copy

import pytest

from cluster.errors import ConflictError, NotFoundError
from cluster.refs import VersionRef
from serve_apps.rollout.loop import serve_config
from tests.serve_apps.rollout.loop.serving import CONTROLLER, GATEWAY, version_block

V1, V2 = (VersionRef(model="tiny", version=label) for label in ("v1", "v2"))


def config(*applications):
    return {"http_options": {"port": 8123}, "applications": [GATEWAY, *applications]}


def test_the_new_application_differs_in_its_version_alone():
    before = config(version_block("v1"))
    untouched = copy.deepcopy(before)
    after = serve_config.with_version(before, V2, like=V1)
    assert after["applications"] == [GATEWAY, version_block("v1"), version_block("v2")]
    assert after["http_options"] == {"port": 8123}
    assert before == untouched


def test_one_that_is_there_is_left_as_it_is():
    found = config(version_block("v1"), version_block("v2", name="mine", deployments=[]))
    assert serve_config.with_version(found, V2, like=V1) == found


def test_a_deployment_of_another_name_keeps_it_and_adapters_stay_behind():
    block = version_block("v1")
    block["deployments"] = [
        {"name": "other", "num_replicas": 1},
        {"name": "tiny-v1", "user_config": {"adapters": ["tiny:a"], "kept": 1}},
    ]
    made = serve_config.with_version(config(block), V2, like=V1)["applications"][-1]
    assert made["deployments"] == [
        {"name": "other", "num_replicas": 1},
        {"name": "tiny-v2", "user_config": {"kept": 1}},
    ]
    assert block["deployments"][1]["user_config"]["adapters"] == ["tiny:a"]


def test_without_an_application_of_stable_there_is_none_to_copy():
    with pytest.raises(NotFoundError) as caught:
        serve_config.with_version(config(version_block("v3")), V2, like=V1)
    assert caught.value.code == "loop.no_stable_application"
    assert "tiny:v3" in caught.value.hint


def test_a_name_that_something_else_has_is_refused():
    taken = config(version_block("v1"), {**GATEWAY, "name": "tiny-v2"})
    with pytest.raises(ConflictError, match="tiny-v2"):
        serve_config.with_version(taken, V2, like=V1)


def test_the_controller_is_added_once():
    once = serve_config.with_controller(config(), "http://127.0.0.1:8123")
    assert once["applications"] == [GATEWAY, CONTROLLER]
    assert serve_config.with_controller(once, "http://elsewhere") == once


def test_what_serve_says_of_itself_becomes_what_it_was_given():
    details = {
        "controller_info": {"node_id": "n"},
        "proxy_location": "EveryNode",
        "http_options": {"host": "127.0.0.1", "port": 8123},
        "grpc_options": None,
        "target_capacity": None,
        "applications": {
            "gateway": {"status": "RUNNING", "deployed_app_config": GATEWAY},
            "tiny-v1": {"status": "RUNNING", "deployed_app_config": version_block("v1")},
            "by-hand": {"status": "RUNNING", "deployed_app_config": None},
            "going": {"status": "DELETING"},
        },
    }
    assert serve_config.of_details(details) == {
        "proxy_location": "EveryNode",
        "http_options": {"host": "127.0.0.1", "port": 8123},
        "applications": [GATEWAY, version_block("v1")],
    }


def test_serve_accepts_what_is_made():
    from ray.serve.schema import ServeDeploySchema

    made = serve_config.with_version(config(version_block("v1")), V2, like=V1)
    ServeDeploySchema.model_validate(serve_config.with_controller(made, "http://127.0.0.1:8123"))
