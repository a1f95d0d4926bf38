"""The table of roles is the only list of them: whatever must repeat it says the same, and nobody is handed more."""

from __future__ import annotations

import ast
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from codebank.machine.handing_out import SEEN
from codebank.machine.keys import KEYS
from codebank.roles import ROLES, Role, seen_by
from codebank.runtime.grpc.certificates import NAMES
from codebank.settings import ROLE_NAMES, Settings

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
SECRETS = {item.name for item in fields(Settings) if item.metadata["secret"]}
PASSWORDS = "bank=1,checkout=2,statement=3,log=4,audit=5"
EVERYTHING: dict[str, Any] = {name: f"the {name}" for name in SECRETS} | {"postgres_passwords": PASSWORDS}
ALL = replace(Settings(), **EVERYTHING)


def test_every_list_of_roles_has_the_same_names() -> None:
    script = ast.parse((DEPLOY / "kubernetes" / "roll_out.py").read_text(encoding="utf-8"))
    (alone,) = [
        ast.literal_eval(node.value)
        for node in script.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROLES"
    ]

    assert set(ROLE_NAMES) == set(ROLES)
    assert alone == tuple(ROLES)
    assert set(ROLES) <= set(NAMES)


@pytest.mark.parametrize("role", ROLES.values(), ids=lambda role: role.name)
def test_a_role_is_told_the_secrets_that_it_reads_and_no_other(role: Role) -> None:
    seen = seen_by(role, ALL)

    told = {name for name in SECRETS - {"postgres_passwords"} if getattr(seen, name)}
    assert told == set(role.secrets)
    assert set(seen.role_passwords()) == set(role.database_roles)
    assert all(seen.database_url(name, user).count(":") == 2 for name, user in doors(role))
    assert {item.name for item in fields(Settings) if getattr(seen, item.name) != getattr(ALL, item.name)} <= SECRETS


def doors(role: Role) -> list[tuple[str, str]]:
    """List the databases that a role opens, and as whom."""
    return [(name, name if name in role.database_roles else "audit") for name in role.databases]


@pytest.mark.parametrize("role", ROLES.values(), ids=lambda role: role.name)
def test_manifests_hand_a_role_the_keys_that_it_reads_and_no_other(role: Role) -> None:
    wanted = {name for name in role.secrets if name in KEYS}
    base = (DEPLOY / "kubernetes" / "base" / f"{role.name}.yaml").read_text(encoding="utf-8")
    development = (DEPLOY / "kubernetes" / "overlays" / "development" / "kustomization.yaml").read_text("utf-8")
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]

    named = {name.lower() for name in re.findall(r"CODEBANK_(\w+)_FILE, value: /var/lib/codebank/secrets/", base)}
    assert named == wanted | {"postgres_passwords"}
    assert set(re.findall(rf"secrets/{role.name}/(\w+)", development)) == wanted | {"postgres_passwords"}
    assert set(SEEN[role.name][0]) == wanted
    handed = {name[len("CODEBANK_") : -len("_FILE")].lower() for name in compose[role.name]["environment"]}
    assert handed & set(KEYS) == wanted
    _, secrets = compose[role.name]["volumes"]
    assert secrets == f"secrets-{role.name}:/var/lib/codebank/secrets:ro,nocopy"


def test_liveness_is_asked_of_every_role_and_gives_up_within_a_minute() -> None:
    probe = re.search(
        r"livenessProbe:\s+httpGet: {path: /health/live.*?periodSeconds: (\d+).*?failureThreshold: (\d+)",
        (DEPLOY / "kubernetes" / "base" / "role.yaml").read_text(encoding="utf-8"),
        re.DOTALL,
    )

    assert probe is not None
    assert 20 <= int(probe[1]) * int(probe[2]) < 60
