from __future__ import annotations

import ray
from ray.serve._private.config import DeploymentConfig
from ray.serve.config import AutoscalingConfig

from serve_apps.gateway.serve_plans import ServePlans

FIXED = DeploymentConfig(num_replicas=3)
SCALED = DeploymentConfig(num_replicas=3, autoscaling_config=AutoscalingConfig(max_replicas=4))


class Client:
    def __init__(self, place, app):
        self.place, self.app, self.running = place, app, True

    def stop(self):
        self.running = False


def plans():
    made = []
    found = ServePlans()
    found._subscribe = lambda place, app: made.append(Client(place, app)) or made[-1]
    return found, made


def test_the_private_long_poll_is_that_of_this_ray():
    from ray.serve._private.common import DeploymentID
    from ray.serve._private.long_poll import LongPollClient, LongPollNamespace

    assert ray.__version__.startswith("2.60.")
    assert LongPollNamespace.DEPLOYMENT_CONFIG
    assert callable(LongPollClient)
    assert DeploymentID(name="m-v1", app_name="app") == DeploymentID("m-v1", "app")


def test_only_a_fixed_number_is_told_and_only_once_it_was_heard():
    found, _ = plans()
    assert found.fixed("m", "v1") is None
    found.update(("m", "v1"), FIXED)
    found.update(("m", "v2"), SCALED)
    assert found.fixed("m", "v1") == 3
    assert found.fixed("m", "v2") is None


def test_each_version_is_followed_once_and_forgotten_with_its_application():
    found, made = plans()
    found.follow({("m", "v1"): "one"})
    found.follow({("m", "v1"): "one", ("m", "v2"): "two"})
    assert [(client.place, client.app) for client in made] == [(("m", "v1"), "one"), (("m", "v2"), "two")]
    found.update(("m", "v1"), FIXED)
    found.follow({("m", "v1"): "other", ("m", "v2"): "two"})
    assert found.fixed("m", "v1") is None
    assert [client.running for client in made] == [False, True, True]
    found.stop()
    assert [client.running for client in made] == [False, False, False]


def test_only_serves_own_word_says_that_a_version_may_sleep():
    found, _ = plans()
    assert not found.may_sleep("m", "v1")
    found.update(("m", "v1"), DeploymentConfig(autoscaling_config=AutoscalingConfig(min_replicas=0)))
    found.update(("m", "v2"), SCALED)
    found.update(("m", "v3"), FIXED)
    assert [found.may_sleep("m", version) for version in ("v1", "v2", "v3")] == [True, False, False]
