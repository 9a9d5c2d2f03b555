import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cluster.errors import EnvironmentSetupError, NotFoundError
from cluster.refs import parse_version_ref
from cluster.store.sources import SourceKind, fetch, recognise


def test_a_built_in_wins_over_a_path_of_the_same_name(tmp_path, monkeypatch):
    (tmp_path / "smollm2").mkdir()
    monkeypatch.chdir(tmp_path)

    assert recognise("smollm2").kind is SourceKind.BUILT_IN
    assert recognise("./smollm2").kind is SourceKind.PATH


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("tiny.gguf", "tiny"),
        ("My Model (2)", "My-Model-2"),
        ("llama-3.2-1b", "llama-3.2-1b"),
        ("_hidden_", "hidden"),
        ("模型", "model"),
    ],
)
def test_a_path_gets_a_model_name_that_is_allowed(tmp_path, name, model):
    (tmp_path / name).mkdir()

    found = recognise(str(tmp_path / name))

    assert (found.kind, found.model) == (SourceKind.PATH, model)
    assert parse_version_ref(f"{found.model}:v1").model == model


def test_a_hub_id_is_one_only_where_there_is_no_such_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recognise("org/Model-1.5B").model_dump() == {
        "text": "org/Model-1.5B",
        "kind": SourceKind.HUB,
        "model": "Model-1.5B",
    }

    (tmp_path / "org" / "Model-1.5B").mkdir(parents=True)
    assert recognise("org/Model-1.5B").kind is SourceKind.PATH


@pytest.mark.parametrize("text", ["smolm2", "./nothing", "a/b/c", "dir/none.gguf", "/nothing", ""])
def test_what_is_nothing_says_what_is_accepted(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError) as caught:
        recognise(text)
    assert "smollm2 (built in)" in caught.value.hint


def test_a_near_miss_of_a_built_in_is_suggested():
    with pytest.raises(NotFoundError, match="Did you mean `smollm2`"):
        recognise("smolm2")


def test_a_hub_out_of_reach_is_said_plainly(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(EnvironmentSetupError) as caught:
        fetch(recognise("org/name"), tmp_path)

    assert caught.value.code == "models.hub_unreachable"
    assert caught.value.retryable


@pytest.fixture
def refusing_hub(monkeypatch):
    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Refuses)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("refusing_hub")
def test_a_repository_that_the_hub_does_not_give_out_is_not_found(tmp_path):
    with pytest.raises(NotFoundError) as caught:
        fetch(recognise("org/name"), tmp_path)
    assert caught.value.code == "models.hub_refused"
