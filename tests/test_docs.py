"""What the documentation says is checked against the code: commands, files, tables, links."""

import ast
import enum
import importlib
import inspect
import re
import shlex
import subprocess
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
import yaml
from pydantic import TypeAdapter

from cluster import extensions, head
from cluster.cli.main import SUMMARIES
from cluster.config import Settings, StrictModel, validate
from cluster.errors import ExitCode
from cluster.keys import Limits
from cluster.recovery.classes import FailureClass
from cluster.recovery.situation import Strategy
from cluster.refs import parse_version_ref
from serve_apps.access_log import files
from serve_apps.adapters.spec import read_adapters
from serve_apps.gateway import task_body
from serve_apps.gateway.config import Auth, GatewayConfig
from serve_apps.gateway.limits import Meter
from serve_apps.gateway.metrics import GatewayMetrics
from serve_apps.gateway.observation import Observation
from serve_apps.gateway.openai_errors import REASONS
from serve_apps.gateway.task_spec import read_user_config
from serve_apps.gateway.tokens import ASSUMED_ANSWER
from serve_apps.rollout.deployment import ControllerArgs
from serve_apps.rollout.states import Phase, Reason
from serve_apps.rollout.units import Duration
from serve_apps.scaling import LoadPolicy
from serve_apps.version_args import VersionArgs, route_prefix
from tests.support.markdown import CHECKOUT, Block, anchors, blocks, code, links, pages, tables
from train_jobs.data.formats import NEEDED_COLUMNS
from train_jobs.spec import TrainSpec
from train_jobs.spec_files import load_spec

DOCS = CHECKOUT / "docs"
SHELL = blocks("shell")


def linnet_lines(block: Block) -> list[str]:
    joined = block.text.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.startswith("linnet ")]


def parse(line: str) -> None:
    """Parse a command line as `linnet` would, without running it."""
    _, noun, *rest = shlex.split(line, comments=True)
    command = typer.main.get_command(extensions.load(extensions.NOUNS, noun))
    context = command.make_context(f"linnet {noun}", rest)
    while hasattr(command, "commands") and (rest := [*context._protected_args, *context.args]):
        name, command, remaining = command.resolve_command(context, rest)
        context = command.make_context(name, remaining, parent=context)


@pytest.mark.parametrize("line", [line for block in SHELL for line in linnet_lines(block)])
def test_each_linnet_command_parses(line):
    parse(line)


@pytest.mark.parametrize(
    "line",
    [
        "linnet models lst",
        "linnet train run FILE --epochs 3",
        "linnet rollout start smollm2:v2 --weigth 10",
        "linnet serve keys create ada --request-per-minute 5",
        "linnet shop",
    ],
)
def test_a_wrong_command_would_not_parse(line):
    with pytest.raises(Exception, match=r"lst|epochs|weigth|shop|request-per"):
        parse(line)


def test_commands_within_sentences_name_nouns_and_verbs_that_exist():
    spans = {span for page in pages() for span in re.findall(r"`(linnet [a-z][^`]*)`", page.read_text())}
    for span in spans:
        noun, *rest = span.split()[1:]
        command = typer.main.get_command(extensions.load(extensions.NOUNS, noun))
        verb = next(iter(rest), "")
        assert not re.fullmatch(r"[a-z-]+", verb) or verb in command.commands, span


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_blocks_are_shell_and_make_what_the_makefile_has(block):
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    targets = re.findall(r"^make ([a-z-]+)", block.text, re.MULTILINE)
    assert set(targets) <= set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_blocks_compile(block):
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_relative_links_and_named_files_are_there(page):
    for link in links(page):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link
    named = re.findall(r"(?:cluster|serve_apps|train_jobs|tests)/[\w./-]+\.(?:py|yaml)", page.read_text())
    assert [name for name in named if not (CHECKOUT / name).exists()] == []


def test_the_readme_begins_with_a_sentence_a_picture_and_the_two_commands():
    first_screen = (CHECKOUT / "README.md").read_text().splitlines()[:14]
    assert [line.split()[1] for line in first_screen if line.startswith("make ")] == ["demo", "test"]
    assert any(line.startswith("![") for line in first_screen)


def test_the_picture_stands_alone_and_has_colours_for_a_dark_page():
    text = (DOCS / "linnet.svg").read_text()
    ElementTree.fromstring(text)
    assert "prefers-color-scheme: dark" in text
    assert re.findall(r"(?:href|src)=|https?://(?!www\.w3\.org/2000/svg)", text) == []


def serve_trees() -> list[tuple[str, dict]]:
    shown = [(str(block), yaml.safe_load(block.text)) for block in blocks("yaml")]
    shipped = [
        (file.name, yaml.safe_load(file.read_text())) for file in (CHECKOUT / "serve_apps").glob("*.yaml")
    ]
    return [(name, tree) for name, tree in [*shown, *shipped] if "applications" in tree]


@pytest.mark.parametrize(("name", "tree"), serve_trees())
def test_serve_yaml_fits_ray_and_us(name, tree):
    from ray.serve.schema import DeploymentSchema, ServeDeploySchema

    ServeDeploySchema.model_validate(tree)
    assert tree.keys() <= ServeDeploySchema.model_fields.keys()
    for application in tree["applications"]:
        module, _, builder = application["import_path"].partition(":")
        assert module == "serve_apps.app"
        assert builder in {"gateway", "version", "rollouts"}
        if builder == "rollouts":
            validate(application["args"], ControllerArgs, source=name)
            assert application["route_prefix"] is None
            continue
        if builder == "gateway":
            served = validate(application["args"], GatewayConfig, source=name).models
            for deployment in application.get("deployments", []):
                read_user_config(deployment.get("user_config", {}), served)
            continue
        args = validate(application["args"], VersionArgs, source=name)
        assert application["route_prefix"] == route_prefix(parse_version_ref(args.version))
        for deployment in application.get("deployments", []):
            read_adapters(deployment.get("user_config", {}), args.ref)
            assert deployment["name"] == f"{args.ref.model}-{args.ref.version}"
        DeploymentSchema.model_validate({"name": "version", **args.deployment_config})
        assert args.deployment_config.keys() <= DeploymentSchema.model_fields.keys()


def test_training_yaml_fits_the_spec(tmp_path, monkeypatch):
    monkeypatch.setenv("LINNET_HOME", str(tmp_path))
    shown = [block for block in blocks("yaml") if block.text.startswith("run:")]
    assert shown
    for block in shown:
        validate(yaml.safe_load(block.text), TrainSpec, source=str(block))
    for file in (CHECKOUT / "train_jobs").glob("*.yaml"):
        load_spec(file)


def test_every_yaml_block_is_checked_by_one_of_the_two_tests_above_or_its_pages_own():
    own = {"docs/rollouts/outside.md", "docs/rollouts/following.md"}
    checked = [
        b
        for b in blocks("yaml")
        if b.file in own or b.text.startswith("run:") or "applications" in yaml.safe_load(b.text)
    ]
    assert checked == blocks("yaml")


def field_tables() -> list[tuple[str, list[list[str]]]]:
    return [table for page in sorted(DOCS.rglob("*.md")) for table in tables(page, "fields")]


def model_of(path: str) -> type[StrictModel]:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def plain(value):
    """A default as YAML would show it."""
    if isinstance(value, timedelta):
        return TypeAdapter(Duration).dump_python(value)
    if isinstance(value, enum.Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(("path", "rows"), field_tables(), ids=[path for path, _ in field_tables()])
def test_tables_of_keys_list_the_models_fields_with_their_defaults(path, rows):
    fields = {field.alias or name: field for name, field in model_of(path).model_fields.items()}
    assert [code(row[0])[0] for row in rows] == list(fields)
    for key, default, _ in rows:
        field = fields[code(key)[0]]
        if default == "required":
            assert field.is_required(), key
        elif code(default):
            assert yaml.safe_load(code(default)[0]) == plain(field.get_default(call_default_factory=True)), (
                key
            )
        else:
            assert not field.is_required(), key


def test_every_key_that_people_write_has_its_table():
    models = {path for path, _ in field_tables()}
    spec = "train_jobs.spec"
    assert models == {
        *(f"{spec}:{name}Spec" for name in ("Train", "Data", "Peft", "Quantization", "Dpo", "Workers")),
        *(f"{spec}:{name}Spec" for name in ("Failures", "Publish")),
        "train_jobs.parallel:ParallelSpec",
        "serve_apps.version_args:VersionArgs",
        "serve_apps.adapters.spec:BaseUserConfig",
        "serve_apps.gateway.config:GatewayConfig",
        "serve_apps.gateway.routing:RoutingConfig",
        "serve_apps.gateway.task_spec:Task",
        "serve_apps.gateway.task_spec:Output",
        "serve_apps.access_log.config:AccessLogConfig",
        "serve_apps.tracing.config:TracesConfig",
        "cluster.manifest:VersionManifest",
        "cluster.keys:Grant",
        "cluster.keys:Limits",
        *(f"serve_apps.rollout.outside.config:{name}" for name in ("Webhook", "Slack", "JudgeModel")),
        "serve_apps.rollout.outside.config:PrometheusGate",
        "serve_apps.rollout.outside.config:PrometheusQuery",
        *(f"serve_apps.rollout.spec:{name}" for name in ("RolloutSpec", "Step")),
        "serve_apps.rollout.gate_spec:Gate",
        *(f"cluster.judging:{name}" for name in ("Match", "Shadow", "TextChecks")),
    }


def only_table(page: str, marker: str) -> list[list[str]]:
    [(_, rows)] = tables(DOCS / page, marker)
    return rows


def test_the_table_of_nouns_is_what_the_command_has():
    listed = {code(noun)[0]: code(verbs) for noun, verbs in only_table("cli.md", "nouns")}
    assert list(listed) == list(SUMMARIES)
    for noun, verbs in listed.items():
        command = typer.main.get_command(extensions.load(extensions.NOUNS, noun))
        assert verbs == list(getattr(command, "commands", {}))


def test_the_table_of_exit_codes_is_complete():
    listed = [(int(number), code(name)[0]) for number, name, _ in only_table("cli.md", "exit-codes")]
    assert listed == [(int(member), member.name) for member in ExitCode]


def test_the_table_of_settings_names_what_the_settings_read(monkeypatch, tmp_path):
    names = [code(row[0])[0] for row in only_table("cli.md", "settings")]
    for name in names:
        monkeypatch.setenv(name, str(tmp_path / name))
    settings = Settings.load()
    assert [str(value) for value in settings.model_dump().values()] == [
        str(tmp_path / name) for name in names
    ]


def test_the_table_of_gateway_errors_is_complete():
    listed = {(status, code(name)[0]) for status, name, _ in only_table("serving.md", "gateway-errors")}
    source = ast.parse((CHECKOUT / "serve_apps" / "gateway" / "openai_errors.py").read_text())
    calls = [
        node
        for node in ast.walk(source)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Refusal"
    ]
    made = {(call.args[0], ast.literal_eval(call.args[3])) for call in calls}
    statuses = {(str(s.value) if isinstance(s, ast.Constant) else "as it came", name) for s, name in made}
    assert listed == statuses


def test_the_table_of_metrics_is_complete():
    listed = {
        (code(name)[0].removesuffix("_total"), kind, tuple(filter(None, labels.split(", "))))
        for name, kind, labels, _ in only_table("serving.md", "gateway-metrics")
    }
    collectors = GatewayMetrics().registry._collector_to_names
    assert listed == {(c._name, c._type, tuple(c._labelnames)) for c in collectors}


def test_the_table_of_the_access_logs_columns_is_complete():
    names = [code(row[0])[0] for row in only_table("serving.md", "access-log-columns")]
    assert names == list(Observation.__struct_fields__) == files.SCHEMA.names


def test_the_tables_of_auth_and_of_refusals_are_complete():
    listed = {code(value)[0] for value, _ in only_table("serving.md", "auth")}
    assert listed == {member.value for member in Auth}
    rows = only_table("serving.md", "refusal-reasons")
    assert {name: code(reason)[0] for reason, names in rows for name in code(names)} == REASONS


def test_the_table_of_what_tasks_do_to_parameters_is_complete():
    rows = [code(names) for names, _ in only_table("serving.md", "task-parameters")]
    ours = (task_body.FIXED, task_body.MAXIMA, task_body.CLOSED_BY_PROMPT, task_body.CLOSED_BY_OUTPUT)
    assert rows == [list(names) for names in ours]


def test_the_page_on_limits_names_the_numbers_of_the_code():
    text = (DOCS / "serving.md").read_text()
    assert f"or {ASSUMED_ANSWER:,} where it names no maximum" in text
    headers = {
        f"x-ratelimit-{name}-{what}"
        for name in ("limit", "remaining", "reset")
        for what in ("requests", "tokens")
    }
    assert set(re.findall(r"`(x-ratelimit-\w+-\w+)`", text)) == headers
    limits = Limits(requests_per_minute=1, tokens_per_minute=1)
    assert {name.decode() for name, _ in Meter(limits).headers()} == headers


def test_the_table_of_the_scaling_policys_settings_is_complete():
    rows = [(code(name)[0], code(default)[0]) for name, default, _ in only_table("serving.md", "scaling")]
    parameters = inspect.signature(LoadPolicy).parameters.values()
    assert rows == [(parameter.name, repr(parameter.default)) for parameter in parameters]


def test_the_table_of_phases_is_complete():
    rows = only_table("rollouts.md", "phases")
    assert {code(row[0])[0] for row in rows} == {phase.value for phase in Phase}
    assert {reason for row in rows for reason in code(row[1])} == {reason.value for reason in Reason}


def test_the_table_of_formats_is_complete():
    rows = only_table("training.md", "formats")
    assert [code(row[0])[0] for row in rows] == [found.value for found in NEEDED_COLUMNS]
    for row, needed in zip(rows, NEEDED_COLUMNS.values(), strict=True):
        assert set(needed) <= set(code(row[1]))


def test_the_table_of_failure_classes_is_complete_and_names_what_is_done():
    rows = only_table("training.md", "failure-classes")
    assert [code(row[0])[0] for row in rows] == [found.value for found in FailureClass]
    done = {word for row in rows for word in code(row[2]) if ":" not in word}
    assert done <= {strategy.value for strategy in Strategy}


@pytest.fixture(scope="module")
def cluster_yaml() -> dict:
    return yaml.safe_load((CHECKOUT / "cluster.yaml").read_text())


def test_cluster_yaml_fits_what_ray_up_takes(cluster_yaml):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cluster_yaml)
    validate_config(prepared)
    workers = prepared["available_node_types"]["local.cluster.node"]
    assert workers["min_workers"] == workers["max_workers"] == len(cluster_yaml["provider"]["worker_ips"])
    with pytest.raises(Exception, match="worker_setup_comands"):
        validate_config({**prepared, "worker_setup_comands": []})


def test_cluster_yaml_gives_every_ray_process_what_the_endpoint_needs(cluster_yaml, tmp_path):
    environment = environment_after(cluster_yaml["setup_commands"][0], tmp_path)
    assert head.SERVE_ENVIRONMENT.items() <= environment.items()
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["LINNET_STATE_URL"].startswith("postgresql")
    assert environment["LINNET_ROOT"] == "/mnt/linnet"
    starts = [cluster_yaml["head_start_ray_commands"][-1], cluster_yaml["worker_start_ray_commands"][-1]]
    assert all(start.startswith(". ~/linnet.env && ") for start in starts)
    assert "~/.ray/auth_token" in cluster_yaml["file_mounts"]


def environment_after(set_up: str, home: Path) -> dict[str, str]:
    """The environment that `~/linnet.env` leaves, once the first set-up command has written it."""
    done = subprocess.run(
        ["bash", "-c", f"{set_up}\n. ~/linnet.env && env"],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def test_cluster_yaml_explains_each_of_its_keys(cluster_yaml):
    lines = (CHECKOUT / "cluster.yaml").read_text().splitlines()
    for key in cluster_yaml:
        number = next(index for index, line in enumerate(lines) if line.startswith(f"{key}:"))
        near = [*lines[max(0, number - 2) : number], *lines[number + 1 : number + 2]]
        assert any(line.lstrip().startswith("#") for line in near), key
