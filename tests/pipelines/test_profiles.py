"""Cluster profiles: what is refused, and what becomes of the rest in the compiled pipelines.

``python tests/pipelines/test_profiles.py`` writes the golden copies of what the profiles of mec add.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp import components, dsl, kubernetes
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig

from mec.config import parse_config
from mec.errors import ConfigError
from pipelines.compiling import PIPELINES, check_pipeline, cluster_yaml, compile_pipelines, read_profile, read_yaml
from pipelines.profiles import BUILT_IN, ClusterProfile, Retries, cores, load_profile, num_bytes
from pipelines.profiles_applied import pipeline_steps, with_devices
from pipelines.titles import TITLES

GOLDEN = Path(__file__).parents[1] / "golden"
IMAGE = "registry.example/mec@sha256:" + "0" * 64
NAMES = ("cpu", "gpu", "spot")
TRAINERS = {"pretrain", "train", "reference", "refresh_pretrain", "bakeoff_cell"}
ON_VOLUME = {"store": "/mnt/mec", "data": {"path": "/mnt/mec/a.parquet", "categorical": ["user"]}}


@pytest.fixture(scope="module")
def compiled() -> dict[str, dict[str, list]]:
    """Profile -> pipeline -> its documents."""
    texts = {name: cluster_yaml(IMAGE, None, read_profile(name)) for name in NAMES}
    return {name: {pipeline: read_yaml(text) for pipeline, text in of.items()} for name, of in texts.items()}


def additions(documents: dict[str, list]) -> dict:
    """What a profile adds, by step: the same in every pipeline, or it would not be a profile."""
    steps: dict = {}
    for spec, platform in documents.values():
        executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        retries = {
            spec["components"][task["componentRef"]["name"]].get("executorLabel"): task.get("retryPolicy")
            for component in (spec["root"], *spec["components"].values())
            for task in component.get("dag", {}).get("tasks", {}).values()
        }
        for label, step in pipeline_steps(spec).items():
            container = spec["deploymentSpec"]["executors"][label]["container"]
            added = {key: container[key] for key in ("resources", "env") if key in container}
            added |= {"kubernetes": executors[label], "retryPolicy": retries[label]}
            assert steps.setdefault(step, added) == added
    return steps


def grouped(steps: dict) -> dict:
    """Steps that get the same, under one key."""
    groups: dict[str, list[str]] = {}
    for step, added in sorted(steps.items()):
        groups.setdefault(json.dumps(added, sort_keys=True), []).append(step)
    return {", ".join(names): json.loads(added) for added, names in groups.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_golden_copies_are_what_the_profiles_add(compiled, name):
    golden = yaml.load((GOLDEN / f"profile-{name}.yaml").read_text("utf-8"), yaml.CSafeLoader)
    assert grouped(additions(compiled[name])) == golden, "if meant: python tests/pipelines/test_profiles.py"


@pytest.mark.parametrize("name", NAMES)
def test_every_step_of_every_pipeline_has_what_it_needs(compiled, name):
    steps = additions(compiled[name])
    assert set(steps) == set(TITLES)
    for step, added in steps.items():
        config = json_format.ParseDict(added["kubernetes"], KubernetesExecutorConfig())
        assert added["resources"]["resourceMemoryLimit"]
        assert added["retryPolicy"]["maxRetryCount"] >= 2
        assert config.active_deadline_seconds > 0
        assert [(mount.constant, mount.mount_path) for mount in config.pvc_mount] == [("mec", "/mnt/mec")]
        shm = [mount for mount in config.empty_dir_mounts if mount.mount_path == "/dev/shm"]
        assert [mount.medium for mount in shm] == (["Memory"] if step in TRAINERS else [])
        on_gpu = name == "gpu" and step in TRAINERS
        assert ("accelerator" in added["resources"]) is on_gpu
        assert bool(config.node_selector.labels) is (name == "spot" and step in SPOT)


SPOT = TRAINERS | {"count", "encode", "quantize", "recode", "evaluate", "refresh_evaluate"}


def test_an_executor_is_as_kfp_itself_compiles_it(tmp_path):
    @dsl.component(base_image="mec")
    def train():
        pass

    @dsl.pipeline
    def one_step():
        task = train().set_cpu_request("4").set_cpu_limit("8000m").set_memory_request("16Gi").set_memory_limit("32G")
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(2).set_env_variable("HOME", "/tmp")
        task.set_retry(2, "30s", 1.5, "1111s")
        kubernetes.set_timeout(task, 500)

    from kfp import compiler

    compiler.Compiler().compile(one_step, str(tmp_path / "one.yaml"))
    spec, platform = read_yaml((tmp_path / "one.yaml").read_text("utf-8"))
    profile = {
        "env": {"HOME": "/tmp"},
        "steps": {
            "train": {
                "cpu": {"request": "4", "limit": "8000m"},
                "memory": {"request": "16Gi", "limit": "32G"},
                "accelerator": {"count": 2},
                "retries": {"attempts": 2, "backoff_s": 30, "factor": 1.5},
                "timeout_s": 500,
            }
        },
    }
    ours = cluster_yaml(IMAGE, None, ClusterProfile.model_validate(profile), only="train")["train"]
    our_spec, our_platform = read_yaml(ours)
    theirs = spec["deploymentSpec"]["executors"]["exec-train"]["container"]
    container = our_spec["deploymentSpec"]["executors"]["exec-train"]["container"]
    assert {key: container[key] for key in ("resources", "env")} == {key: theirs[key] for key in ("resources", "env")}
    policies = [each["root"]["dag"]["tasks"]["train"]["retryPolicy"] for each in (our_spec, spec)]
    assert policies[0] | {"backoffMaxDuration": "1111s"} == policies[1]
    of_train = [each["platforms"]["kubernetes"]["deploymentSpec"]["executors"] for each in (our_platform, platform)]
    assert of_train[0]["exec-train"] == of_train[1]["exec-train"]


def test_all_attempts_fit_into_the_longest_duration(compiled):
    policy = additions(compiled["spot"])["pretrain"]["retryPolicy"]
    waits = [60 * 1.5**attempt for attempt in range(10)]
    assert int(policy["backoffMaxDuration"][:-1]) >= 11 * 86_400 + sum(waits)
    assert Retries(attempts=3, backoff_s=10, factor=3).waits_s == 10 + 30 + 90


def test_branches_of_a_loop_get_their_retries(compiled):
    spec = compiled["cpu"]["train_backbones"][0]
    inner = next(
        each["dag"]["tasks"] for each in spec["components"].values() if "train" in each.get("dag", {}).get("tasks", {})
    )
    assert inner["train"]["retryPolicy"]["maxRetryCount"] == 2


def test_what_all_steps_share_and_the_pipeline_root(tmp_path):
    file = tmp_path / "mine.yaml"
    shared = {
        "pipeline_root": "s3://bucket/mec",
        "service_account": "runner",
        "secrets": [{"name": "db", "env": {"PASSWORD": "pw"}}],
        "image_pull_secrets": ["registry"],
        "labels": {"team": "ads"},
        "annotations": {"note": "x: y"},
    }
    file.write_text(yaml.safe_dump(shared))
    config = parse_config(ON_VOLUME | {"tracking": {"enabled": False}})
    (path,) = compile_pipelines(IMAGE, tmp_path, config, str(file))
    spec, platform = read_yaml(path.read_text("utf-8"))
    assert spec["defaultPipelineRoot"] == "s3://bucket/mec"
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == set(spec["deploymentSpec"]["executors"])
    for executor in executors.values():
        read = json_format.ParseDict(executor, KubernetesExecutorConfig())
        assert (read.secret_as_env[0].secret_name, read.secret_as_env[0].key_to_env[0].env_var) == ("db", "PASSWORD")
        assert read.image_pull_secret[0].secret_name == "registry"
        assert (dict(read.pod_metadata.labels), read.pod_metadata.annotations["note"]) == ({"team": "ads"}, "x: y")


def test_the_gpu_profile_sets_devices_and_checkpoints(compiled):
    def defaults(pipeline: str) -> dict:
        parameters = compiled["gpu"][pipeline][0]["root"]["inputDefinitions"]["parameters"]
        return {name: spec.get("defaultValue") for name, spec in parameters.items()}

    assert json.loads(defaults("train")["train"])["device"] == "cuda"
    assert json.loads(defaults("train")["pretrain"])["device"] == "cuda"
    assert json.loads(defaults("train")["evaluate"])["full"]["device"] == "cuda"
    assert json.loads(defaults("refresh")["pretrain"])["device"] == "cuda"
    assert defaults("refresh")["evaluate"] == defaults("train")["quantize"] == "{}"
    assert {defaults(pipeline)["work_dir"] for pipeline in PIPELINES} == {"/mnt/mec/checkpoints"}


def test_each_of_several_backbones_gets_the_device():
    config = parse_config(ON_VOLUME | {"train": {"model": ["lr", "fm"]}})
    spec = read_yaml(cluster_yaml(IMAGE, config, read_profile("gpu"))["train_backbones"])[0]
    items = spec["root"]["inputDefinitions"]["parameters"]["backbones"]["defaultValue"]
    assert [json.loads(item["train"])["device"] for item in items] == ["cuda", "cuda"]


def gpu_for(*steps: str) -> ClusterProfile:
    return ClusterProfile.model_validate({"steps": {step: {"accelerator": {}} for step in steps}})


@pytest.mark.parametrize(
    ("settings", "steps", "message"),
    [
        ({"train": {"device": "cpu"}}, ["train"], "train.device leaves the accelerator of step train idle"),
        (
            {"pretrain": {"device": "cuda:1"}},
            [],
            "pretrain.device asks for a GPU, but .* step pretrain none; found: cuda:1",
        ),
        ({}, ["count"], "uses no accelerator; found: count"),
        (
            {"quantize": {"device": "cpu"}},
            ["quantize"],
            "quantize.device leaves the accelerator of step quantize idle",
        ),
    ],
)
def test_devices_that_contradict_the_profile_are_refused(settings, steps, message):
    with pytest.raises(ConfigError, match=message):
        with_devices(parse_config(settings), gpu_for(*steps), {"pretrain", "train", "count", "quantize"})


@pytest.mark.parametrize("only", ["pretrain", "refresh_pretrain"])
def test_steps_of_one_device_setting_both_get_an_accelerator_or_none(only):
    with pytest.raises(ConfigError, match=r"only one of them has an accelerator; found: pretrain\.device"):
        with_devices(parse_config({}), gpu_for(only), {"pretrain", "refresh_pretrain"})


def test_a_refresh_that_does_not_train_asks_nothing_for_training():
    profile = read_profile("cpu").model_copy(update={"steps": gpu_for("refresh_pretrain").steps})
    config = parse_config(ON_VOLUME)
    assert cluster_yaml(IMAGE, config, profile, "refresh")
    with pytest.raises(ConfigError, match="only one of them has an accelerator"):
        cluster_yaml(IMAGE, parse_config(ON_VOLUME | {"refresh": {"on_escalation": "train"}}), profile, "refresh")


def test_a_device_that_is_named_stays_and_others_are_set():
    config = parse_config({"train": {"device": "cuda:1"}})
    changed = with_devices(config, gpu_for("train", "quantize"), {"pretrain", "train", "quantize"})
    assert (changed.train.device, changed.quantize.device, changed.pretrain.device) == ("cuda:1", "cuda", "cpu")
    assert changed.quantize.model_copy(update={"device": "cpu"}) == config.quantize


@pytest.mark.parametrize("key", ["store", "data.path", "publish.feature_repo"])
def test_paths_off_the_volumes_are_refused(key):
    raw = json.loads(json.dumps(ON_VOLUME)) | {"publish": {"feature_repo": "/mnt/mec/repo"}}
    node = raw
    for part in key.split(".")[:-1]:
        node = node[part]
    node[key.split(".")[-1]] = "/mnt/mecca/x"
    with pytest.raises(ConfigError, match=f"^{key} is on none of the profile's volumes; found: /mnt/mecca/x"):
        cluster_yaml(IMAGE, parse_config(raw), read_profile("cpu"))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            "steps: {pretrian: {}}",
            "no pipeline has such a step; found: pretrian; fix: use one of arrivals, bakeoff_cell, champion",
        ),
        ("step: {}", "step: unknown key; .*use one of pipeline_root"),
        (
            "steps: {train: {gpu: 1}}",
            r"steps.train.gpu: unknown key; found: 1; fix: use one of cpu, memory, accelerator",
        ),
        (
            "steps: {train: {cpu: {requests: '1', limit: '2'}}}",
            "cpu.requests: unknown key; .*use one of request, limit",
        ),
        ("defaults: {cpu: {request: '4', limit: 500m}}", "cpu request=4 is more than limit=500m"),
        ("defaults: {memory: {request: 1Gi, limit: 1G}}", "memory request=1Gi is more than limit=1G"),
        ("defaults: {memory: {request: 1.5Gi, limit: 2Gi}}", "defaults.memory.request"),
        ("defaults: {accelerator: {}}", "an accelerator goes to single steps"),
        ("defaults: {tolerations: [{key: a, operator: Equal}]}", "a value with operator Equal"),
        ("{defaults: {memory: {request: 1Gi, limit: 2Gi}}, steps: {train: {shared_memory: 2Gi}}}", "counts towards"),
        ("work_dir: /mnt/mec/checkpoints", "work_dir=/mnt/mec/checkpoints is on none of the volumes"),
        ("volumes: [{claim: a, path: /x}, {claim: b, path: /x}]", "two volumes have the same path"),
        ("{env: {A: b}, secrets: [{name: s, env: {A: k}}]}", "environment variables are set twice; found: A"),
        ("secrets: [{name: s, env: {A: k, B: k}}]", "each key of a Secret to one variable"),
        ("labels: {team: 'a b'}", "labels.team"),
        ("pipeline_root: /mnt/mec", "pipeline_root"),
        ("steps: [", "cannot read the profile"),
    ],
)
def test_bad_profiles_are_refused_by_name(tmp_path, raw, message):
    file = tmp_path / "mine.yaml"
    file.write_text(raw)
    with pytest.raises(ConfigError, match=message):
        load_profile(str(file), set(TITLES))


def test_an_unknown_profile_lists_the_known(tmp_path):
    for name in ("tpu", str(tmp_path / "none.yaml")):
        with pytest.raises(ConfigError, match=f"no such profile; found: {name}; fix: use one of cpu, gpu, spot"):
            load_profile(name, set(TITLES))


def test_a_step_takes_from_the_defaults_what_it_leaves_out():
    raw = {
        "defaults": {"timeout_s": 5, "retries": {"attempts": 1}},
        "steps": {"train": {"timeout_s": 9, "retries": None}},
    }
    profile = ClusterProfile.model_validate(raw)
    assert (profile.step("train").timeout_s, profile.step("train").retries) == (9, None)
    assert (profile.step("count").timeout_s, profile.step("count").retries.attempts) == (5, 1)


def test_quantities():
    assert [cores(text) for text in ("2", "0.5", "250m")] == [2, 0.5, 0.25]
    assert [num_bytes(text) for text in ("7", "3K", "3Ki", "2M", "2Mi", "1G", "1Gi", "1Ti", "1P", "1Ei")] == [
        7, 3000, 3072, 2 * 10**6, 2 * 2**20, 10**9, 2**30, 2**40, 10**15, 2**60,
    ]  # fmt: skip


def test_a_platform_setting_for_no_executor_is_found(compiled):
    documents = json.loads(json.dumps(compiled["cpu"]["train"]))
    check_pipeline(yaml.safe_dump_all(documents), IMAGE)
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors["exec-trian"] = executors.pop("exec-train")
    with pytest.raises(ValueError, match="platform settings of exec-trian are for none of the executors"):
        check_pipeline(yaml.safe_dump_all(documents), IMAGE)


def test_the_yaml_loads_back_with_its_platform(compiled):
    loaded = components.load_component_from_text(yaml.safe_dump_all(compiled["gpu"]["train"]))
    assert set(loaded.platform_spec.platforms) == {"kubernetes"}


RUN = """
import sys, warnings
from kfp import components, local
from pipelines.compiling import cluster_yaml, read_profile
from mec.config import parse_config
warnings.simplefilter("ignore")
config = parse_config({"data": {"synthetic": {"num_rows": 3000, "field_sizes": [60, 5]}}, "pretrain": {"max_epochs": 1},
    "train": {"model": "lr", "max_epochs": 1}, "publish": {"enabled": False}, "tracking": {"enabled": False},
    "evaluate": {"latency_rows": 0}})
text = cluster_yaml("mec@sha256:" + "0" * 64, config, read_profile("cpu"))["train"]
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[1], workspace_root=sys.argv[1] + "w")
task = components.load_component_from_text(text)(data_version="1", store=sys.argv[1], work_dir="")
print("made", task.outputs["registration"].path)
"""


@pytest.mark.slow
def test_what_is_compiled_for_a_cluster_runs_here(tmp_path):
    command = [sys.executable, "-c", RUN, str(tmp_path / "root")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    made = Path(done.stdout.split("made ")[-1].strip())
    assert (made / "manifest.json").is_file()


if __name__ == "__main__":
    for built_in in BUILT_IN.glob("*.yaml"):
        found = {key: read_yaml(text) for key, text in cluster_yaml(IMAGE, None, read_profile(built_in.stem)).items()}
        text = yaml.safe_dump(grouped(additions(found)), width=120)
        (GOLDEN / f"profile-{built_in.stem}.yaml").write_text(text, encoding="utf-8")
