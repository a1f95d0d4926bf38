"""`codebank certs` and `codebank secrets`: made once, renewed in time, safe to repeat."""

from __future__ import annotations

import os
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509

from codebank.cli import main
from codebank.errors import CodebankError
from codebank.machine.handing_out import hand_out
from codebank.machine.keys import make_secrets
from codebank.roles import ROLES
from codebank.runtime.grpc.certificates import NAMES, expiry_of, hosts_of, make_certificates
from codebank.settings import DATABASES, READER_ROLE, Settings
from codebank.wire import utc_now


def make(folder: Path, *names: str, days: int = 0) -> dict[str, str]:
    """Make certificates as if it were so many days later."""
    return make_certificates(
        folder / "certs", folder / "authority", hosts_of(names), None, utc_now() + timedelta(days=days)
    )


def test_each_name_gets_a_certificate_that_openssl_trusts(tmp_path: Path) -> None:
    told = make(tmp_path, "kafka:kafka-1,10.0.0.7", "connect")

    folder = tmp_path / "certs"
    assert told == dict.fromkeys(("ca", *NAMES, "connect"), "made")
    for name in (*NAMES, "connect"):
        checked = ["openssl", "verify", "-x509_strict", "-CAfile", str(folder / "ca.crt")]
        for purpose in ("sslserver", "sslclient"):
            subprocess.run([*checked, "-purpose", purpose, folder / name / "tls.crt"], check=True, capture_output=True)
        assert stat.S_IMODE((folder / name / "tls.key").stat().st_mode) == 0o600
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o700
    kafka = x509.load_pem_x509_certificate((folder / "kafka" / "tls.crt").read_bytes())
    names = kafka.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["kafka", "localhost", "127.0.0.1", "::1", "kafka-1", "10.0.0.7"]


def test_the_authoritys_key_lies_apart(tmp_path: Path) -> None:
    make(tmp_path)

    keys = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.key")}
    assert keys == {"authority/ca.key"} | {f"certs/{name}/tls.key" for name in NAMES}


def test_the_authoritys_key_is_not_put_where_roles_look(tmp_path: Path) -> None:
    said = CliRunner().invoke(main, ["certs", str(tmp_path), "--authority", str(tmp_path / "x" / "..")])

    assert said.exit_code != 0
    assert "a folder that no role sees" in said.output
    assert not list(tmp_path.glob("*/tls.key"))


def test_again_nothing_is_changed_until_a_certificate_ends_soon(tmp_path: Path) -> None:
    make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    again = make(tmp_path, days=59)
    assert set(again.values()) == {"kept"}
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

    later = make(tmp_path, days=61)
    assert later == {"ca": "kept"} | dict.fromkeys(NAMES, "made")
    assert expiry_of(tmp_path / "certs" / "bank" / "tls.crt") > utc_now() + timedelta(days=150)


def test_an_authority_that_ends_before_its_certificates_is_made_anew_with_all_of_them(tmp_path: Path) -> None:
    make(tmp_path)

    assert set(make(tmp_path, days=5 * 365 - 89).values()) == {"made"}


def test_a_name_with_another_host_and_a_key_that_does_not_fit_are_made_anew(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "certs" / "audit" / "tls.key").write_bytes((tmp_path / "certs" / "relay" / "tls.key").read_bytes())
    (tmp_path / "certs" / "relay" / "tls.crt").write_bytes(b"half of it")

    told = make(tmp_path, "bank:bank.example")

    assert {name for name, did in told.items() if did == "made"} == {"bank", "audit", "relay"}


def test_two_at_once_make_one_set(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda _: make(tmp_path), range(4)))

    assert sorted(one["bank"] for one in told) == ["kept", "kept", "kept", "made"]


@pytest.mark.parametrize("name", ["../bank", "", ":host", "a/b"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(CodebankError, match="is no name"):
        hosts_of([name])


def test_secrets_are_made_once_and_fit_the_settings(tmp_path: Path) -> None:
    told = make_secrets(tmp_path / "secrets", None)
    before = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    again = make_secrets(tmp_path / "secrets", None)

    assert set(told.values()) == {"made"}
    assert set(again.values()) == {"kept"}
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == before
    assert len(set(before.values())) == len(before)
    files = {f"CODEBANK_{name.upper()}_FILE": str(tmp_path / "secrets" / name) for name in before if name in told}
    files["CODEBANK_POSTGRES_ADMIN_PASSWORD_FILE"] = files.pop("CODEBANK_POSTGRES_PASSWORD_FILE")
    settings = Settings.load(files)
    assert settings.vault_key == before["vault_key"]
    assert set(settings.role_passwords()) == {*DATABASES, READER_ROLE}


def test_each_container_is_handed_what_it_reads_and_nothing_else(tmp_path: Path) -> None:
    make_secrets(tmp_path, None)
    for _ in range(2):
        hand_out(tmp_path, tmp_path / "seen-by", None)

    handed = {path.name: path for path in (tmp_path / "seen-by").iterdir()}
    assert set(handed) == {*ROLES, "prepare", "postgres"}
    seen = {name: {file.name for file in folder.iterdir()} for name, folder in handed.items()}
    assert seen["bank"] == {"vault_key", "operator_key", "postgres_passwords"}
    assert seen["audit"] == {"postgres_passwords"}
    assert seen["postgres"] == {"postgres_password"}
    assert (handed["bank"] / "vault_key").read_text() == (tmp_path / "vault_key").read_text()
    assert (handed["bank"] / "vault_key").stat().st_mode & 0o777 == 0o600
    known = Settings(postgres_passwords=(handed["checkout"] / "postgres_passwords").read_text()).role_passwords()
    assert set(known) == {"checkout"}


def test_the_commands_do_it_and_say_what(tmp_path: Path) -> None:
    runner = CliRunner()
    made = runner.invoke(main, ["certs", str(tmp_path / "c"), "--owner", str(os.getuid())])
    kept = runner.invoke(main, ["secrets", str(tmp_path / "s")])
    wrong = runner.invoke(main, ["certs", str(tmp_path / "c"), "--name", "a/b"])

    assert (made.exit_code, kept.exit_code, wrong.exit_code) == (0, 0, 2)
    assert "bank: made" in made.stderr
    assert "vault_key: made" in kept.stderr
    assert "is no name" in wrong.stderr
