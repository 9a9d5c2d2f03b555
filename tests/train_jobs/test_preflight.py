"""What does not fit is refused, and every way out that is named does fit."""

import re

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cluster.errors import ConfigError
from train_jobs.base_config import BaseConfig
from train_jobs.memory import memory_estimate
from train_jobs.parallel import ParallelSpec, Strategy
from train_jobs.preflight import Node, check_base, check_batch, check_fits
from train_jobs.spec import TrainSpec, WorkersSpec
from train_jobs.spec_files import load_spec

GIB = 2**30
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def applied(tmp_path):
    """The spec with overrides applied as the command line applies them."""

    def _applied(spec: TrainSpec, overrides: str) -> TrainSpec:
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=spec.peft is not None)))
        return load_spec(path, overrides.split(" "))

    return _applied


def refused(check, *arguments) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        check(*arguments)
    return caught.value


def ways(error: ConfigError) -> list[str]:
    return re.findall(r"`([^`]+)`", error.hint)


def changed(spec, **changes):
    return TrainSpec.model_validate({**spec.model_dump(), **changes})


def flat(_spec):
    return GIB


def by_rows(spec):
    return GIB + GIB * spec.per_device_train_batch_size


def test_what_fits_exactly_is_taken(spec):
    check_fits(changed(spec, num_workers=2, threads_per_worker=2, standby=1), [Node(6, 3 * GIB)], flat)
    check_batch(spec, spec.global_batch_size)


def test_too_few_cpus_names_both_numbers_and_the_nearest(spec):
    error = refused(check_fits, changed(spec, num_workers=3, standby=1), [Node(2, 64 * GIB)], flat)
    assert error.code == "train.too_few_cpus"
    assert "3 workers and 1 on standby of 1 thread need 4 CPUs; the cluster has 2 CPUs" in error.message
    assert ways(error) == ["standby=0 num_workers=2"]


def test_a_standby_goes_before_a_worker(spec):
    error = refused(check_fits, changed(spec, num_workers=2, standby=2), [Node(3, 64 * GIB)], flat)
    assert ways(error)[0] == "standby=1"


def test_a_worker_is_not_split_over_nodes(spec):
    nodes = [Node(3, 64 * GIB), Node(3, 64 * GIB)]
    error = refused(check_fits, changed(spec, num_workers=3, threads_per_worker=2), nodes, flat)
    assert "has 6 CPUs on 2 nodes, room for 2 of the 3" in error.message
    assert ways(error) == ["num_workers=2", "threads_per_worker=1"]


def test_an_elastic_group_needs_room_for_its_least(spec):
    elastic = changed(spec, num_workers=1, workers=WorkersSpec(min=2, max=4))
    check_fits(elastic, [Node(2, 64 * GIB)], flat)
    assert ways(refused(check_fits, elastic, [Node(1, 64 * GIB)], flat)) == ["workers.min=1 workers.max=1"]


def test_memory_is_counted_for_each_node(spec):
    nodes = [Node(8, int(1.9 * GIB)), Node(8, int(1.9 * GIB))]
    check_fits(changed(spec, num_workers=2), nodes, flat)
    error = refused(check_fits, changed(spec, num_workers=3), nodes, flat)
    assert error.code == "train.too_little_memory"
    assert "3 workers need about 1.0 GiB each; the nodes have room for 2 of the 3" in error.message
    assert ways(error) == ["num_workers=2"]


def test_the_largest_batch_that_fits_is_named_with_the_accumulation_that_keeps_the_step(spec):
    wide = changed(spec, num_workers=1, per_device_train_batch_size=8)
    error = refused(check_fits, wide, [Node(1, 6 * GIB)], by_rows)
    assert ways(error)[0] == "per_device_train_batch_size=4 gradient_accumulation_steps=2"


def test_full_training_that_is_too_large_is_pointed_at_lora(spec):
    full = changed(spec, peft=None, num_workers=1, per_device_train_batch_size=1, gradient_checkpointing=True)
    estimate = lambda given: memory_estimate(given, 1_000_000_000)  # noqa: E731
    assert ways(refused(check_fits, full, [Node(1, 12 * GIB)], estimate)) == ["peft={}"]


def test_shorter_rows_are_a_way_whose_price_is_told(spec, applied):
    wide = changed(spec, num_workers=1, per_device_train_batch_size=1, gradient_checkpointing=True)
    by_length = lambda given: GIB * given.max_length // 100  # noqa: E731
    error = refused(check_fits, wide, [Node(1, 3 * GIB)], by_length)
    assert ways(error) == ["max_length=256 data.on_bad_rows=skip"]
    check_fits(applied(wide, ways(error)[0]), [Node(1, 3 * GIB)], by_length)


def test_each_kind_of_way_is_named_once(spec):
    wide = changed(spec, num_workers=1, per_device_train_batch_size=8)

    def cheap(given):
        return by_rows(given) * given.max_length // (4096 if given.gradient_checkpointing else 1024)

    assert ways(refused(check_fits, wide, [Node(1, 6 * GIB)], cheap)) == [
        "per_device_train_batch_size=4 gradient_accumulation_steps=2",
        "gradient_checkpointing=true",
        "max_length=512 data.on_bad_rows=skip",
    ]


def test_rows_may_be_as_long_as_the_base_knows_positions_for(spec):
    for context in (1024, 4096, None):
        check_base(spec, "bfloat16", BaseConfig(context=context))
    error = refused(check_base, spec, "bfloat16", BaseConfig(context=512))
    assert error.code == "train.context"
    assert "`max_length` is 1024" in error.message
    assert ways(error) == ["max_length=512"]


def test_a_version_that_could_not_be_stored_is_refused_before_it_is_trained(spec):
    merged = changed(spec, publish={"version": "v2"})
    check_base(changed(spec, publish={"adapter_version": "a", "merge": False}), "int8", BaseConfig())
    check_base(spec, "int8", BaseConfig())
    check_base(merged, "float16", BaseConfig())
    assert refused(check_base, merged, "int8", BaseConfig()).code == "train.merge_dtype"


SHARDED = ParallelSpec(strategy=Strategy.FSDP, size=4)


@pytest.mark.parametrize(
    ("places", "way"),
    [(3, "num_workers=3 parallel.size=3"), (1, "num_workers=1 parallel.size=1 parallel.strategy=ddp")],
)
def test_fewer_workers_share_out_to_as_many(spec, applied, places, way):
    shared = changed(spec, num_workers=4, parallel=SHARDED)
    assert ways(refused(check_fits, shared, [Node(places, 64 * GIB)], flat)) == [way]
    check_fits(applied(shared, way), [Node(places, 64 * GIB)], flat)


def test_a_sharded_base_is_not_pointed_at_fewer_bits(spec):
    shared = changed(spec, num_workers=4, parallel=SHARDED)
    nodes = [Node(1, 5 * GIB)] * 4
    error = refused(check_fits, shared, nodes, lambda given: 6 * GIB - 2 * GIB * bool(given.quantization))
    assert error.hint == "Add nodes with more memory."


def test_nothing_that_fits_leaves_nodes(spec):
    error = refused(check_fits, spec, [Node(8, GIB)], lambda _spec: 100 * GIB)
    assert error.hint == "Add nodes with more memory."
    assert refused(check_fits, spec, [], flat).hint == "Add nodes."


SHAPES = st.fixed_dictionaries(
    {
        "num_workers": st.integers(1, 6),
        "standby": st.integers(0, 2),
        "threads_per_worker": st.integers(1, 4),
        "per_device_train_batch_size": st.integers(1, 12),
        "gradient_accumulation_steps": st.integers(1, 4),
    }
)
NODES = st.lists(st.builds(Node, st.sampled_from([0.5, 1, 2, 3, 8]), st.integers(1, 40).map(GIB.__mul__)))


@SHARED
@given(SHAPES, NODES)
def test_every_way_that_is_named_fits(spec, applied, shape, nodes):
    given_spec = changed(spec, **shape)
    try:
        check_fits(given_spec, nodes, by_rows)
    except ConfigError as error:
        for overrides in ways(error):
            check_fits(applied(given_spec, overrides), nodes, by_rows)


@SHARED
@given(SHAPES, st.integers(1, 100), st.booleans())
def test_a_batch_larger_than_the_data_is_refused_with_one_that_fits(spec, applied, shape, size, elastic):
    if elastic:
        most = shape.pop("num_workers")
        shape |= {"num_workers": 1, "workers": {"min": max(1, most - 1), "max": most}}
    given_spec = changed(spec, **shape)
    assume(given_spec.global_batch_size > size)
    error = refused(check_batch, given_spec, size)
    assert error.code == "train.batch_too_large"
    assert str(size) in error.message
    assert str(given_spec.global_batch_size) in error.message
    (overrides,) = ways(error)
    check_batch(applied(given_spec, overrides), size)


def test_a_batch_without_data_has_no_nearest(spec):
    assert refused(check_batch, spec, 0).hint == "Give more data."
