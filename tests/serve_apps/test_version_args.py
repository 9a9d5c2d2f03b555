import pytest

from cluster.config import validate
from cluster.errors import ConfigError, UsageError
from serve_apps import warm_worker
from serve_apps.engine_deployment import llm_config_fields
from serve_apps.serve_settings import HOOK_VARIABLE
from serve_apps.version_args import VersionArgs, route_prefix


def test_a_misspelt_key_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"engine_kwarg.*Did you mean `engine_kwargs`"):
        validate({"version": "m:v1", "engine_kwarg": {}}, VersionArgs, source="args")


@pytest.mark.parametrize("version", ["m", "m@stable", "m:", "../m:v1"])
def test_only_an_exact_version_is_served(version):
    with pytest.raises(UsageError):
        validate({"version": version}, VersionArgs, source="args")


def test_the_store_alone_decides_what_is_loaded():
    with pytest.raises(ConfigError, match="model store"):
        validate({"version": "m:v1", "engine_kwargs": {"model": "elsewhere"}}, VersionArgs, source="args")


def test_a_cpu_replica_computes_in_float32_unless_told_otherwise():
    assert llm_config_fields(VersionArgs(version="m:v1"))["engine_kwargs"]["dtype"] == "float32"
    told = VersionArgs(version="m:v1", engine_kwargs={"dtype": "bfloat16", "max_model_len": 64})
    assert llm_config_fields(told)["engine_kwargs"] == {"dtype": "bfloat16", "max_model_len": 64}


def test_an_engine_with_lora_mixes_several_adapters_unless_told_otherwise():
    def given(**engine_kwargs):
        return llm_config_fields(VersionArgs(version="m:v1", engine_kwargs=engine_kwargs))["engine_kwargs"]

    assert given(enable_lora=True)["max_loras"] == 4
    assert given(enable_lora=True, max_loras=1)["max_loras"] == 1
    assert "max_loras" not in given(enable_lora=False)


@pytest.mark.parametrize(
    "hardware",
    [
        {"accelerator_type": "H100"},
        {"placement_group_config": {"bundles": [{"CPU": 1, "GPU": 1}]}},
        {"placement_group_config": {"bundle_per_worker": {"GPU": 1}}},
    ],
)
def test_a_gpu_replica_gets_no_cpu_defaults(hardware):
    fields = llm_config_fields(VersionArgs(version="m:v1", **hardware))
    assert fields["engine_kwargs"] == {}
    assert "VLLM_CPU_KVCACHE_SPACE" not in fields["runtime_env"]["env_vars"]


def test_no_hub_is_reached_and_given_variables_stay():
    args = VersionArgs(version="m:v1", runtime_env={"env_vars": {"VLLM_CPU_KVCACHE_SPACE": "4"}})
    variables = llm_config_fields(args)["runtime_env"]["env_vars"]
    assert variables["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert variables["HF_HUB_OFFLINE"] == "1"


def test_only_cpu_replicas_fork_their_engines():
    def variables(**hardware):
        return llm_config_fields(VersionArgs(version="m:v1", **hardware))["runtime_env"]["env_vars"]

    assert variables()[HOOK_VARIABLE] == warm_worker.HOOK
    assert HOOK_VARIABLE not in variables(accelerator_type="H100")


def test_serve_looks_after_a_replica_each_second_unless_told_otherwise():
    fields = llm_config_fields(VersionArgs(version="m:v1"))
    assert fields["deployment_config"]["health_check_period_s"] == 1.0
    told = VersionArgs(version="m:v1", deployment_config={"health_check_period_s": 7})
    assert llm_config_fields(told)["deployment_config"]["health_check_period_s"] == 7


def autoscaling(config, **engine_kwargs):
    args = VersionArgs(
        version="m:v1", deployment_config={"autoscaling_config": config}, engine_kwargs=engine_kwargs
    )
    found = llm_config_fields(args)["deployment_config"]
    assert "num_replicas" not in found
    return found["autoscaling_config"]


def test_autoscaling_goes_by_the_engines_load_unless_told_otherwise():
    bounds = {"min_replicas": 1, "max_replicas": 3}
    policy = {"policy": {"policy_function": "serve_apps.scaling:LoadPolicy"}}
    assert autoscaling(bounds) == bounds | policy | {"target_ongoing_requests": 179}
    assert autoscaling(bounds, max_num_seqs=16)["target_ongoing_requests"] == 11
    given = bounds | {"target_ongoing_requests": 5, "policy": {"policy_function": "mine:policy"}}
    assert autoscaling(given) == given


def test_a_version_that_may_sleep_proves_itself_at_the_deploy_unless_told_otherwise():
    assert autoscaling({"min_replicas": 0, "max_replicas": 2})["initial_replicas"] == 1
    assert autoscaling({"min_replicas": 0, "initial_replicas": 0})["initial_replicas"] == 0
    assert "initial_replicas" not in autoscaling({"min_replicas": 1, "max_replicas": 2})


def test_a_fixed_number_of_replicas_passes_as_it_stands():
    fields = llm_config_fields(VersionArgs(version="m:v1", deployment_config={"num_replicas": 3}))
    assert fields["deployment_config"]["num_replicas"] == 3


def test_standbys_run_beside_the_replicas_asked_for():
    def replicas(**given):
        return llm_config_fields(VersionArgs(version="m:v1", **given))["deployment_config"]["num_replicas"]

    assert replicas(standby=1) == 2
    assert replicas(standby=2, deployment_config={"num_replicas": 3}) == 5


@pytest.mark.parametrize("config", [{"autoscaling_config": {"min_replicas": 2}}, {"num_replicas": "auto"}])
def test_standbys_need_a_fixed_number(config):
    with pytest.raises(ConfigError, match=r"`standby` needs .*`num_replicas`"):
        validate({"version": "m:v1", "standby": 1, "deployment_config": config}, VersionArgs, source="args")


def test_route_prefix_names_model_and_version():
    assert route_prefix(VersionArgs(version="smollm2:v3").ref) == "/_versions/smollm2/v3"
