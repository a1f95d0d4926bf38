"""The cluster that `kubectl` speaks to; `KUBECTL` names another command."""

from __future__ import annotations

import os
import shlex
import subprocess

NAMESPACE = "codebank"
#: Says so to kubectl.
IN_NAMESPACE = f"--namespace={NAMESPACE}"


class Failed(Exception):
    """A part that did not become ready."""


def kubectl(*arguments: str, given: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run kubectl. Raises Failed with what it said."""
    command = [*shlex.split(os.environ.get("KUBECTL", "kubectl")), *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise Failed(f"kubectl {' '.join(arguments[:4])}: {done.stderr.strip() or done.stdout.strip()}")
    return done
