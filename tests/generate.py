"""Makes the generated code from proto/ into a folder: `make proto` writes src, the tidy test compares."""

from __future__ import annotations

import sys
from pathlib import Path

from google.rpc import status_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent


def generate(target: Path) -> None:
    """Write every generated file below the folder."""
    # google/rpc and google/protobuf come with their packages.
    site = Path(status_pb2.__file__).parent.parent.parent
    bundled = Path(protoc.__file__).parent / "_proto"
    plugins = Path(sys.executable).parent
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={ROOT / 'proto'}",
            f"--proto_path={site}",
            f"--proto_path={bundled}",
            f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--mypy_out=quiet:{target}",
            f"--mypy_grpc_out=quiet:{target}",
            *(str(path) for path in sorted((ROOT / "proto").rglob("*.proto"))),
        ]
    )
    if status != 0:
        raise SystemExit(status)


if __name__ == "__main__":
    generate(ROOT / sys.argv[1])
