"""A machine without a TPU never starts the TPU library; a machine that may have one does."""

import http.server
import os
import pathlib
import subprocess
import sys
import threading

import pytest

from bstar_jax.console import libraries
from bstar_jax.console.libraries import leave_out_absent_tpu, may_have_tpu
from tests import tpu_compiler

ROOT = pathlib.Path(__file__).resolve().parents[1]

# The door as `python -m` runs it; then the machine code that the process has loaded.
DOOR = """
import runpy, sys
sys.argv = ["main", "--config=tests/tiny.py", "--workdir=" + sys.argv[1], "--config.mesh.tensor=3"]
try:
    runpy.run_module("bstar_jax.main", run_name="__main__", alter_sys=True)
finally:
    import jax
    print([device.platform for device in jax.devices()])
    print("libtpu.so" in open("/proc/self/maps").read())
"""


@pytest.fixture
def metadata_server():
    """(address, paths that were asked for) of a server that knows nothing."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@tpu_compiler.needed
@pytest.mark.skipif(
    may_have_tpu(os.environ, pathlib.Path("/")), reason="there may be a TPU on this machine"
)
def test_the_door_is_silent_and_asks_nobody_where_libtpu_is_installed(tmp_path, metadata_server):
    """A clean environment, as after the README's second command; nothing is set by hand.

    The door is asked for a mesh that does not fit, which it says after it has asked JAX for the
    devices: whatever else stands on standard error is a complaint.
    """
    address, asked = metadata_server
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        # The names under which libtpu and JAX take another address of the metadata server.
        "GCE_METADATA_HOST": address,
        "GCE_METADATA_IP": address,
    }
    done = subprocess.run(
        [sys.executable, "-c", DOOR, str(tmp_path / "run")],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: mesh (data, fsdp, tensor)")
    assert len(done.stderr.strip().splitlines()) == 1
    assert asked == []
    # A library that was not loaded complains of nothing and asks nobody.
    assert done.stdout.splitlines() == ["['cpu']", "False"]


@pytest.fixture
def installed(monkeypatch):
    """Pretends that libtpu is installed, and plugins of those names."""

    def pretend(*plugins, libtpu=True):
        def find_spec(name):
            return object() if name == "libtpu" and libtpu else None

        monkeypatch.setattr(libraries.importlib.util, "find_spec", find_spec)
        monkeypatch.setattr(libraries, "_plugins", lambda: set(plugins))

    return pretend


def pci(root, vendor, device):
    folder = root / "sys/bus/pci/devices/0000:00:05.0"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "device").write_text(f"{device}\n")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def chosen(root, **environ):
    leave_out_absent_tpu(environ, root)
    return environ.get("JAX_PLATFORMS")


def test_without_a_tpu_jax_gets_what_else_there_is(tmp_path, installed):
    installed()
    assert chosen(tmp_path) == "cpu"
    installed("xla_cuda12", "xla_cuda13")
    assert chosen(tmp_path) == "cpu"
    touch(tmp_path, "dev/nvidiactl")
    assert chosen(tmp_path) == "cuda,cpu"
    installed("xla_rocm7")
    assert chosen(tmp_path) is None


@pytest.mark.parametrize(
    "environ", [{"JAX_PLATFORMS": "tpu"}, {"JAX_PLATFORMS": "cuda"}, {"JAX_PLATFORM_NAME": "tpu"}]
)
def test_what_the_user_chose_stands(tmp_path, installed, environ):
    installed()
    assert chosen(tmp_path, **environ) == environ.get("JAX_PLATFORMS")


def test_where_libtpu_is_not_installed_nothing_is_set(tmp_path, installed):
    installed(libtpu=False)
    assert chosen(tmp_path) is None


@pytest.mark.parametrize(
    "variable", ["TPU_WORKER_ID", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES", "TPU_NAME"]
)
def test_a_variable_of_a_tpu_job_means_a_tpu(tmp_path, installed, variable):
    installed()
    assert chosen(tmp_path, **{variable: "0"}) is None


@pytest.mark.parametrize("name", ["dev/accel0", "dev/vfio/0"])
def test_a_device_file_means_a_tpu(tmp_path, installed, name):
    installed()
    touch(tmp_path, "dev/vfio/vfio", "dev/null")
    assert chosen(tmp_path) == "cpu"
    touch(tmp_path, name)
    assert chosen(tmp_path) is None


@pytest.mark.parametrize(
    ("vendor", "device", "platforms"),
    [
        ("0x1ae0", "0x0063", None),  # v5e
        ("0x1ae0", "0x9999", None),  # a TPU to come
        ("0x1ae0", "0x0042", "cpu"),  # the network card of a Google machine
        ("0x10de", "0x0063", "cpu"),
    ],
)
def test_a_pci_device_of_google_that_is_no_network_card_means_a_tpu(
    tmp_path, installed, vendor, device, platforms
):
    installed()
    pci(tmp_path, vendor, device)
    assert chosen(tmp_path) == platforms
