"""The launcher of GKE: the manifest as YAML and Kubernetes read it, and what fails or restarts."""

import os
import pathlib
import re
import shlex
import subprocess

import pytest
import yaml

LAUNCHER = pathlib.Path(__file__).resolve().parents[2] / "launch" / "gke.sh"
OWN = {
    "name": "mistral",
    "image": "us-docker.pkg.dev/p/r/bstar_jax:1",
    "accelerator": "tpu-v5-lite-podslice",
    "topology": "4x4",
    "claim": "runs",
}
XPK = {
    "name": "mistral",
    "image": OWN["image"],
    "cluster": "tpus",
    "device-type": "v5litepod-16",
    "slices": "2",
}
FLAGS = [
    "--config=configs/arithmetic.py:online_rft",
    "--workdir=/runs/a b",
    '--config.task.answer_marker=It\'s $HOME $(HOME) $$ $$(x): `ls` "#" \\ \\n * é & ;',
    "--config.task.path=",
]


@pytest.fixture
def launch(tmp_path):
    """Runs the launcher with a kubectl and an xpk that write down what they get."""
    for name in ("kubectl", "xpk"):
        path = tmp_path / name
        path.write_text(
            "#!/usr/bin/env bash\n"
            f"printf '%s\\0' {name} \"$@\" > {tmp_path}/call\n"
            f"[[ {name} == xpk ]] || cat > {tmp_path}/manifest\n"
            f'exit "$(cat {tmp_path}/code 2>/dev/null || echo 0)"\n'
        )
        path.chmod(0o755)

    def run(own, *flags):
        return subprocess.run(
            [LAUNCHER, *(f"--{name}={value}" for name, value in own.items()), *flags],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=30,
        )

    return run


def manifest(launch, *flags, **own):
    done = launch({**OWN, **own}, "--dry-run", *(flags or FLAGS))
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def job(manifest):
    (replicated,) = manifest["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def pod(manifest):
    return job(manifest)["template"]["spec"]


def expanded(word, variables):
    """A word of a command as Kubernetes passes it on: $(NAME) replaced, $$ for $."""
    return re.sub(
        r"\$\$|\$\(([^()]*)\)",
        lambda found: "$" if found[1] is None else variables.get(found[1], found[0]),
        word,
    )


def after(manifest, code=None):
    """What becomes of the JobSet when a pod ends with an exit code, or is lost without one."""
    for rule in job(manifest)["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes and code is not None:
            assert codes["containerName"] == pod(manifest)["containers"][0]["name"]
            matches = (code in codes["values"]) == (codes["operator"] == "In")
        else:
            matches = "onPodConditions" in rule and code is None
        if matches:
            action = rule["action"]
            break
    assert job(manifest)["backoffLimit"] == 0
    reason = {"FailJob": "PodFailurePolicy", "Count": "BackoffLimitExceeded"}[action]
    policy = manifest["spec"]["failurePolicy"]
    for rule in policy["rules"]:
        if reason in rule["onJobFailureReasons"]:
            return rule["action"]
    return "RestartJobSet" if policy["maxRestarts"] else "failed"


def test_flags_reach_the_command_as_they_are(launch):
    (container,) = pod(manifest(launch))["containers"]
    words = [expanded(word, {"HOME": "wrong", "x": "wrong"}) for word in container["command"]]
    assert words == ["python", "-m", "bstar_jax.main", "--distributed=tpu", *FLAGS]


def test_lines_and_tabs_are_flags_too(launch):
    odd = ["--workdir=/runs/first", "--config.task.answer_marker=a\n\tb: [c]"]
    assert pod(manifest(launch, *odd))["containers"][0]["command"][-2:] == odd


@pytest.mark.parametrize(
    ("topology", "own", "hosts", "chips"),
    [
        ("4x4", {}, 4, 4),
        ("2x2x4", {"accelerator": "tpu-v5p-slice"}, 4, 4),
        ("2x4", {"chips-per-host": "8"}, 1, 8),
        ("2x4", {}, 2, 4),
        ("1x1", {}, 1, 1),
        ("16x16", {}, 64, 4),
    ],
)
def test_a_slice_has_the_pods_of_its_topology(launch, topology, own, hosts, chips):
    made = manifest(launch, topology=topology, **own)
    assert job(made)["parallelism"] == job(made)["completions"] == hosts
    assert job(made)["completionMode"] == "Indexed"
    (container,) = pod(made)["containers"]
    assert container["resources"] == {
        "requests": {"google.com/tpu": chips},
        "limits": {"google.com/tpu": chips},
    }
    assert pod(made)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": own.get("accelerator", OWN["accelerator"]),
        "cloud.google.com/gke-tpu-topology": topology,
    }
    assert ("--distributed=tpu" in container["command"]) == (hosts > 1)


def test_slices_are_replicas_on_node_pools_of_their_own(launch):
    made = manifest(launch, topology="2x2", slices="3")
    assert made["spec"]["replicatedJobs"][0]["replicas"] == 3
    assert "--distributed=tpu" in pod(made)["containers"][0]["command"]
    assert made["metadata"] == {
        "name": "mistral",
        "annotations": {
            "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
        },
    }


def test_exit_code_75_alone_restarts(launch):
    made = manifest(launch)
    assert after(made, 75) == "RestartJobSetAndIgnoreMaxRestarts"
    for code in (1, 2, 3, 74, 76, 137, 143):
        assert after(made, code) == "failed"
    assert after(made, code=None) == "failed"  # a node that is gone
    assert pod(made)["restartPolicy"] == "Never"
    # No pod of the next start comes up beside one that still writes.
    assert made["spec"]["failurePolicy"]["restartStrategy"] == "BlockingRecreate"
    assert job(made)["podReplacementPolicy"] == "Failed"


def test_a_pod_has_time_to_save(launch):
    assert pod(manifest(launch))["terminationGracePeriodSeconds"] == 300
    longer = manifest(launch, **{"grace-seconds": "900"})
    assert pod(longer)["terminationGracePeriodSeconds"] == 900


def test_the_run_directory_lies_on_a_claim(launch):
    made = manifest(launch, claim="shared-runs")
    assert pod(made)["volumes"] == [
        {"name": "runs", "persistentVolumeClaim": {"claimName": "shared-runs"}}
    ]
    assert pod(made)["containers"][0]["volumeMounts"] == [{"name": "runs", "mountPath": "/runs"}]
    assert "metadata" not in job(made)["template"]


def test_or_in_a_bucket(launch):
    own = {name: value for name, value in OWN.items() if name != "claim"}
    own |= {"bucket": "my-bucket", "mount": "/gcs", "service-account": "writer"}
    done = launch(own, "--spot", "--dry-run", "--workdir=/gcs/first")
    made = yaml.safe_load(done.stdout)
    (volume,) = pod(made)["volumes"]
    assert volume["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "my-bucket"
    assert job(made)["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    assert pod(made)["containers"][0]["volumeMounts"] == [{"name": "runs", "mountPath": "/gcs"}]
    assert pod(made)["serviceAccountName"] == "writer"
    assert pod(made)["nodeSelector"]["cloud.google.com/gke-spot"] == "true"


@pytest.mark.parametrize("code", [0, 1, 75])
def test_kubectl_gets_the_manifest_and_its_code_is_passed_on(launch, tmp_path, code):
    (tmp_path / "code").write_text(f"{code}\n")
    done = launch({**OWN, "namespace": "team"}, *FLAGS)
    assert done.returncode == code
    call = (tmp_path / "call").read_text().split("\0")[:-1]
    assert call == ["kubectl", "--namespace=team", "create", "-f", "-"]
    assert yaml.safe_load((tmp_path / "manifest").read_text()) == manifest(launch)


def test_a_dry_run_starts_nothing(launch, tmp_path):
    manifest(launch)
    assert launch(XPK, "--xpk", "--dry-run", *FLAGS).returncode == 0
    assert not (tmp_path / "call").exists()


def test_xpk_gets_the_flags_as_they_are(launch, tmp_path):
    printed = shlex.split(launch(XPK, "--xpk", "--dry-run", *FLAGS).stdout)
    done = launch(XPK, "--xpk", *FLAGS)
    assert done.returncode == 0, done.stderr
    call = (tmp_path / "call").read_text().split("\0")[:-1]
    assert call == printed
    *rest, command = call
    # It stands in a script for bash in the container, as a command of Kubernetes.
    script = expanded(command.removeprefix("--command=exec python"), {"HOME": "wrong"})
    got = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {script}"], capture_output=True, text=True, check=True
    )
    assert got.stdout.split("\0")[:-1] == ["-m", "bstar_jax.main", *FLAGS]
    assert rest == [
        "xpk",
        "workload",
        "create",
        "--workload=mistral",
        "--cluster=tpus",
        "--tpu-type=v5litepod-16",
        "--num-slices=2",
        f"--docker-image={OWN['image']}",
        "--restart-on-exit-codes=75",
        "--max-restarts=50",
        "--termination-grace-period-seconds=300",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "--name is missing; it takes a name for the JobSet"),
        ({"name": "My_Run"}, "--name is 'My_Run'; it takes up to 40 of a-z, 0-9 and -"),
        ({"image": ""}, "--image is missing; it takes a container image"),
        ({"accelerator": "v5e"}, "--accelerator is 'v5e'; it takes the node pool's label"),
        ({"topology": "16"}, "--topology is '16'; it takes the shape of a slice in chips"),
        (
            {"topology": "2x3"},
            "--topology=2x3 has 6 chips, which is no multiple of --chips-per-host=4",
        ),
        ({"slices": "two"}, "--slices is 'two'; it takes a whole number from 1"),
        ({"claim": ""}, "--claim and --bucket are missing"),
        ({"bucket": "b"}, "--claim=runs and --bucket=b are both given; drop one"),
        ({"mount": "/data"}, "--workdir is '/runs/a b'; it must be on the volume"),
        ({"image": "a\x07"}, "$'a\\a' contains a control character"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(launch, tmp_path, change, message):
    done = launch({**OWN, **change}, *FLAGS)
    assert done.returncode == 2
    assert done.stderr.startswith(f"gke.sh: error: {message}") and done.stderr.count("\n") == 1
    assert not (tmp_path / "call").exists()


@pytest.mark.parametrize(
    ("own", "flags", "message"),
    [
        (OWN, [FLAGS[0]], "--workdir is missing; name a run directory on the volume"),
        ({}, ["--name", "x"], "--name needs its value in the same word; write --name=VALUE"),
        (XPK | {"cluster": ""}, ["--xpk", *FLAGS], "--cluster is missing; it takes the cluster"),
        (XPK | {"device-type": ""}, ["--xpk", *FLAGS], "--device-type is missing"),
        (XPK, ["--xpk", *FLAGS, "--a=b\nc"], "a flag has a line break, which xpk cannot pass on"),
    ],
)
def test_so_is_what_is_missing(launch, tmp_path, own, flags, message):
    done = launch(own, *flags)
    assert done.returncode == 2 and done.stderr.startswith(f"gke.sh: error: {message}")
    assert not (tmp_path / "call").exists()
