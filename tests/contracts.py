"""Compares what others rely on with what it was: `make check-contracts AGAINST=origin/main`.

The bank's protocol is linted and compared by buf, the REST of checkout and statement by oasdiff; both are built once.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from google.rpc import status_pb2
from grpc_tools import protoc

from tests.kubernetes.tools import Missing, build, program

ROOT: Final = Path(__file__).resolve().parent.parent
PROTO: Final = "codebank/v1/bank.proto"
APIS: Final = ("src/codebank/checkout/openapi.json", "src/codebank/statement/openapi.json")
#: `Bank` is what it is; a suffix would say nothing more.
_BUF: Final = (
    '{"version": "v2", "lint": {"use": ["STANDARD"], "except": ["SERVICE_SUFFIX"]}, "breaking": {"use": ["FILE"]}}'
)


def lint(proto: Path) -> str:
    """Give what buf has to say of our protocol; nothing where it is well."""
    with tempfile.TemporaryDirectory() as made:
        return _buf("lint", str(_compile(proto, Path(made) / "now.binpb")))


def compare_proto(now: Path, before: Path) -> str:
    """Give what a client of the protocol before would miss; both are folders of proto files."""
    with tempfile.TemporaryDirectory() as made:
        old = _compile(before, Path(made) / "before.binpb")
        return _buf("breaking", str(_compile(now, Path(made) / "now.binpb")), "--against", str(old))


def compare_api(now: Path, before: Path) -> str:
    """Give what a client of the OpenAPI description before would miss."""
    command = [program("oasdiff", "oasdiff"), "breaking", str(before), str(now), "--fail-on", "WARN"]
    return _said(command)


def _buf(*arguments: str) -> str:
    return _said([program("buf", "buf"), *arguments, f"--config={_BUF}", f"--path={PROTO}"])


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.stdout + done.stderr if done.returncode else ""


def _compile(folder: Path, target: Path) -> Path:
    # google/rpc and google/protobuf come with their packages.
    places = (folder, Path(status_pb2.__file__).parents[2], Path(protoc.__file__).parent / "_proto")
    status = protoc.main(
        ["protoc", *(f"--proto_path={place}" for place in places), "--include_imports", "--include_source_info",
         f"--descriptor_set_out={target}", str(folder / PROTO)]
    )  # fmt: skip
    if status != 0:
        raise SystemExit(status)
    return target


def _before(commit: str, path: str, target: Path) -> Path | None:
    """Write a file as it was; None where it was not there."""
    done = subprocess.run(["git", "show", f"{commit}:{path}"], capture_output=True, check=False, cwd=ROOT)
    if done.returncode:
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(done.stdout)
    return target


def main(commit: str) -> int:
    """Compare with a commit, and print what is not well."""
    known = subprocess.run(["git", "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"], cwd=ROOT, check=False,
                           capture_output=True)  # fmt: skip
    if known.returncode:
        sys.stderr.write(f"no commit {commit}\nhint: git fetch, or AGAINST=<another>\n")
        return 2
    for tool in ("buf", "oasdiff"):
        build(tool)
    found = {"proto (lint)": lint(ROOT / "proto")}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if _before(commit, f"proto/{PROTO}", folder / "proto" / PROTO):
            found["proto"] = compare_proto(ROOT / "proto", folder / "proto")
        for api in APIS:
            if before := _before(commit, api, folder / api):
                found[api] = compare_api(ROOT / api, before)
    for what, said in found.items():
        sys.stdout.write(f"{'✕' if said else '✓'} {what}\n{said}")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except Missing as error:
        sys.exit(f"error: {error}")
