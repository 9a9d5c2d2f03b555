import socket
from importlib.metadata import version

import pytest
from ray.serve.config import HTTPOptions
from ray.serve.schema import Target, TargetGroup

from cluster.errors import EnvironmentSetupError
from serve_apps.gateway import serve_directory
from serve_apps.gateway.serve_directory import (
    ServeReplicaDirectory,
    addresses,
    applications,
    build_table,
    refuse_ssl,
)


def test_the_long_poll_holds_for_the_installed_ray():
    assert version("ray").startswith(serve_directory.HOLDS_FOR + ".")


def group(prefix, *targets, protocol="HTTP", app="app"):
    return TargetGroup(targets=list(targets), route_prefix=prefix, protocol=protocol, app_name=app)


def replica(name, ip="10.0.0.7", port=30001):
    return Target(ip=ip, port=port, instance_id="", name=f"SERVE_REPLICA::{name}")


PROXY = Target(ip="10.0.0.7", port=8000, instance_id="", name="SERVE_PROXY_ACTOR-abc")


def test_replicas_are_found_below_their_versions_prefix():
    table = build_table(
        [group("/", PROXY), group("/_versions/m/v1", replica("a"), replica("b", port=30002))], own_ip=""
    )
    assert [r.base_url for r in table["m"]["v1"]] == [
        "http://10.0.0.7:30001/_versions/m/v1",
        "http://10.0.0.7:30002/_versions/m/v1",
    ]


def test_a_replica_of_this_host_is_called_on_loopback():
    table = build_table(
        [group("/_versions/m/v1", replica("a"), replica("b", ip="10.0.0.8"))], own_ip="10.0.0.7"
    )
    assert [r.base_url.split("/")[2] for r in table["m"]["v1"]] == ["127.0.0.1:30001", "10.0.0.8:30001"]


def test_a_proxy_in_the_place_of_replicas_is_no_replica():
    table = build_table([group("/_versions/m/v1", PROXY)], own_ip="")
    assert table == {"m": {"v1": ()}}


def test_grpc_and_foreign_applications_are_left_out():
    groups = [group("/_versions/m/v1", replica("a"), protocol="gRPC"), group("/other", replica("b"))]
    assert build_table(groups, own_ip="") == {}


def test_each_version_has_an_application():
    groups = [
        group("/_versions/m/v1", replica("a"), app="one"),
        group("/_versions/m/v2", PROXY, app="two"),
        group("/_versions/m/v2", PROXY, protocol="gRPC", app="three"),
        group("/", replica("g"), app="gateway"),
    ]
    assert applications(groups) == {("m", "v1"): "one", ("m", "v2"): "two"}


def test_an_update_replaces_what_was_known():
    directory = ServeReplicaDirectory()
    assert not directory.ready()
    directory.update([group("/_versions/m/v1", replica("a")), group("/_versions/m/v2", replica("b"))])
    assert directory.versions("m") == ["v1", "v2"]
    directory.update([group("/_versions/m/v2", replica("b"))])
    assert directory.ready()
    assert directory.versions("m") == ["v2"]
    assert directory.replicas("m", "v1") == ()


def test_the_gateways_beside_are_the_running_replicas_of_the_same_application():
    groups = [
        group("/", replica("a"), replica("b", ip="10.0.0.8"), PROXY, app="gateway"),
        group("/", replica("a", port=40001), app="gateway", protocol="gRPC"),
        group("/_versions/m/v1", replica("c", port=30002), app="m-v1"),
    ]
    assert addresses(groups, app="gateway", own_ip="10.0.0.9") == ("10.0.0.7:30001", "10.0.0.8:30001")
    directory = ServeReplicaDirectory()
    assert directory.gateways() == ()
    directory._own_app = "gateway"
    directory.update(groups)
    assert directory.gateways() == ("10.0.0.7:30001", "10.0.0.8:30001")


def test_a_gateway_on_this_host_is_named_by_the_address_that_it_listens_on():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        on_loopback = [group("/", replica("a", ip="127.0.0.2", port=port), app="gateway")]
        assert addresses(on_loopback, app="gateway", own_ip="127.0.0.2") == (f"127.0.0.1:{port}",)
        everywhere = [group("/", replica("a", ip="127.0.0.1", port=port), app="gateway")]
        assert addresses(everywhere, app="gateway", own_ip="127.0.0.1") == (f"127.0.0.1:{port}",)


def test_certificates_in_the_http_options_are_refused_with_the_way_that_works():
    refuse_ssl(HTTPOptions())
    with pytest.raises(EnvironmentSetupError) as caught:
        refuse_ssl(HTTPOptions(ssl_certfile="c.pem", ssl_keyfile="k.pem"))
    assert "linnet up --ssl-certfile" in caught.value.hint
