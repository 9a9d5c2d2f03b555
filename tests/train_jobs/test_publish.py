import json

import pytest
import torch

from cluster.errors import ConflictError, IntegrityError, StorageError
from cluster.manifest import Lineage, VersionKind
from tests.support.disks import small_disks
from tests.train_jobs.conftest import BASE
from train_jobs import checkpoint, publish, state
from train_jobs.layout import Whole
from train_jobs.model import build, load_base, trainable
from train_jobs.optimizers import make_optimizer
from train_jobs.spec import DataSpec, PublishSpec, QuantizationSpec


@pytest.fixture
def spec(spec, data_file):
    return spec.model_copy(
        update={
            "publish": PublishSpec(version="v2", adapter_version="v2-adapter"),
            "data": DataSpec(train=str(data_file), validation=str(data_file)),
        }
    )


def commit_trained(files, spec, directory, step=8, metrics=None):
    """A committed step whose weights differ from the base's; returns the model."""
    model = build(spec, directory, str(BASE))
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.add_(0.05)
    at = state.Position(
        step=step,
        samples_seen=8 * step,
        seed=42,
        learning_rate=0.0,
        data_fingerprint="f",
        base_sha256="b",
        spec_sha256=spec.sha256,
    )
    optimizer = make_optimizer(spec, trainable(model))
    with state.Snapshots(Whole(model, optimizer)).take() as snapshot:
        contents = state.encode(snapshot, at, [state.rng()])
        checkpoint.commit(files, contents, step=step, attempt=1, world_size=2, metrics=metrics or {})
    return model


@pytest.fixture
def trained(files, spec, tiny_dir):
    return commit_trained(files, spec, tiny_dir)


def test_a_run_becomes_an_adapter_and_a_merged_version_that_say_where_they_come_from(
    settings, store, spec, trained
):
    assert publish.publish_run(settings, spec, BASE) == ["tiny:v2-adapter", "tiny:v2"]
    for target in publish.targets(spec, BASE):
        manifest = store.manifest(target.ref)
        assert manifest.kind is target.kind
        assert manifest.parent == "tiny:v1"
        assert manifest.lineage == Lineage(run="run-1", step=8)
        assert store.verify(target.ref) == []
        prompts = [answer.prompt for answer in manifest.golden.answers]
        assert len(prompts) > 4
        assert "Is 0 even?" in prompts
    adapter, merged = (store.manifest(target.ref).golden for target in publish.targets(spec, BASE))
    assert [a.answer_token_ids for a in adapter.answers] == [a.answer_token_ids for a in merged.answers]
    assert list((settings.home / "tmp").iterdir()) == []


def test_the_merged_weights_are_the_base_plus_the_adapter_and_its_tokenizer_the_bases(
    settings, store, spec, trained
):
    publish.publish_run(settings, spec, BASE)
    merged_ref = publish.targets(spec, BASE)[1].ref
    merged = load_base(store.local_dir(merged_ref)).state_dict()
    expected = trained.merge_and_unload().state_dict()
    assert merged.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(merged[name], tensor, atol=1e-6), name
    base, full = store.manifest(BASE), store.manifest(merged_ref)
    assert full.tokenizer_sha256 == base.tokenizer_sha256
    assert full.chat_template_sha256 == base.chat_template_sha256
    assert full.dtype == base.dtype


def test_publishing_again_does_nothing_and_publishes_only_what_is_missing(settings, store, spec, trained):
    adapter_only = spec.model_copy(update={"publish": PublishSpec(adapter_version="v2-adapter", merge=False)})
    publish.publish_run(settings, adapter_only, BASE)
    first = store.manifest(publish.targets(spec, BASE)[0].ref)
    assert [t.kind for t in publish.missing(store, spec, BASE)] == [VersionKind.MERGED]
    assert publish.publish_run(settings, spec, BASE) == ["tiny:v2-adapter", "tiny:v2"]
    assert store.manifest(publish.targets(spec, BASE)[0].ref) == first
    assert publish.missing(store, spec, BASE) == []


def test_a_name_that_something_else_holds_is_refused(store, spec):
    taken = spec.model_copy(update={"publish": PublishSpec(version="v1")})
    with pytest.raises(ConflictError, match="tiny:v1"):
        publish.missing(store, taken, BASE)


def test_without_a_good_last_checkpoint_nothing_is_published(settings, store, spec, trained, files):
    files.storage.delete_file(f"{files.checkpoints}/step_8/adapter_model.safetensors")
    with pytest.raises(IntegrityError, match=r"last step.*step_8"):
        publish.publish_run(settings, spec, BASE)
    assert store.labels("tiny") == ["v1"]


@pytest.mark.parametrize("size", ["16k", "128k"])
def test_a_disk_that_fills_up_on_the_way_is_told_and_leaves_nothing(
    settings, store, spec, trained, tmp_path, size
):
    with small_disks(tmp_path) as mount:
        cramped = settings.model_copy(update={"home": mount(f"size={size}")})
        with pytest.raises(StorageError) as caught:
            publish.publish_run(cramped, spec, BASE)
        assert caught.value.code == "storage.full"
        assert "v2" not in store.labels("tiny")
        assert list((cramped.home / "tmp").iterdir()) == []
    assert publish.publish_run(settings, spec, BASE) == ["tiny:v2-adapter", "tiny:v2"]


def test_full_training_becomes_a_full_version_without_an_adapter(settings, store, files, spec, tiny_dir):
    full = spec.model_copy(update={"peft": None, "publish": PublishSpec(version="v2")})
    model = commit_trained(files, full, tiny_dir)
    assert publish.publish_run(settings, full, BASE) == ["tiny:v2"]
    (target,) = publish.targets(full, BASE)
    manifest, base = store.manifest(target.ref), store.manifest(BASE)
    assert manifest.kind is VersionKind.MERGED
    assert manifest.lineage == Lineage(run="run-1", step=8)
    assert (manifest.dtype, manifest.parameters) == (base.dtype, base.parameters)
    assert manifest.tokenizer_sha256 == base.tokenizer_sha256
    published = load_base(store.local_dir(target.ref)).state_dict()
    assert published.keys() == model.state_dict().keys()
    assert all(torch.equal(published[name], tensor) for name, tensor in model.state_dict().items())
    assert len(manifest.golden.answers) > 4


def test_an_adapter_of_a_quantized_base_is_merged_into_the_base_as_stored(
    settings, store, files, spec, tiny_dir
):
    quantized = spec.model_copy(update={"quantization": QuantizationSpec(load_in_4bit=True)})
    model = commit_trained(files, quantized, tiny_dir)
    publish.publish_run(settings, quantized, BASE)
    merged = load_base(store.local_dir(publish.targets(quantized, BASE)[1].ref))
    name = "model.layers.1.mlp.down_proj"
    lora = model.get_base_model().get_submodule(name)
    exact = load_base(tiny_dir).get_submodule(name).weight
    expected = exact + lora.get_delta_weight("default")
    assert torch.allclose(merged.get_submodule(name).weight, expected, atol=1e-6)
    assert not hasattr(merged.config, "quantization_config")


def test_a_run_that_stopped_early_is_published_at_the_step_where_it_did(
    settings, store, files, spec, tiny_dir
):
    early = spec.model_copy(update={"early_stopping_patience": 1})
    commit_trained(files, early, tiny_dir, step=6)
    with pytest.raises(IntegrityError, match="last step"):
        publish.publish_run(settings, spec, BASE)
    publish.publish_run(settings, early, BASE)
    assert {store.manifest(t.ref).lineage.step for t in publish.targets(early, BASE)} == {6}
    assert publish.missing(store, early, BASE) == []


def test_the_best_checkpoint_is_published_where_that_is_wanted(settings, store, files, spec, tiny_dir):
    best = spec.model_copy(update={"eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True})
    for step, loss in ((2, 0.5), (4, 0.3), (6, 0.4)):
        commit_trained(files, best, tiny_dir, step=step, metrics={"eval_loss": loss})
    with pytest.raises(IntegrityError, match="last step"):
        publish.publish_run(settings, best, BASE)
    commit_trained(files, best, tiny_dir, step=8, metrics={"eval_loss": 0.6})
    publish.publish_run(settings, best, BASE)
    measured = Lineage(run="run-1", step=4, metrics={"eval_loss": 0.3})
    assert [store.manifest(t.ref).lineage for t in publish.targets(best, BASE)] == [measured, measured]
    assert publish.missing(store, best, BASE) == []


def test_a_best_checkpoint_that_is_damaged_is_named_and_not_replaced_by_another(
    settings, store, files, spec, tiny_dir
):
    best = spec.model_copy(update={"load_best_model_at_end": True})
    commit_trained(files, best, tiny_dir, step=4, metrics={"eval_loss": 0.3})
    commit_trained(files, best, tiny_dir, step=8, metrics={"eval_loss": 0.6})
    weights = files.storage.local_path(f"{files.checkpoints}/step_4/adapter_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="step_4"):
        publish.publish_run(settings, best, BASE)
    assert store.labels("tiny") == ["v1"]


def test_task_prompts_are_read_no_further_than_needed(tmp_path):
    path = tmp_path / "long.jsonl"
    rows = [{"prompt": f"q{number}", "completion": "a"} for number in range(3000)]
    # What comes after would end whoever reads it.
    path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode() + b"\xff" * 10_000_000)
    assert publish.task_prompts(str(path)) == ["q0", "q64", "q128", "q192"]


def test_task_prompts_are_few_and_spread_over_the_file(data_file):
    prompts = publish.task_prompts(str(data_file))
    assert len(prompts) == 4
    assert prompts[0].startswith("Is 0 even")
    assert prompts[-1].startswith("Is 48 even")
