"""Settings: read once, every wrong one named, and written back for a child process."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from codebank.errors import CodebankError
from codebank.settings import DATABASES, Settings, socket_folder


def test_the_defaults_need_no_environment() -> None:
    settings = Settings.load({})

    assert (settings.bank_port, settings.checkout_port, settings.statement_port, settings.audit_port) == (
        50051, 8000, 8010, 8020,
    )  # fmt: skip
    assert not settings.test_cards
    assert settings.bank_target() == "127.0.0.1:50051"
    assert settings.checkout_home() == "http://localhost:8000"


def test_variables_of_others_are_none_of_ours() -> None:
    assert Settings.load({"PATH": "/bin", "CODE": "x"}) == Settings.load({})


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("CODEBANK_BANK_PORT", "6000", "bank_port", 6000),
        ("CODEBANK_TEST_CARDS", "on", "test_cards", True),
        ("CODEBANK_TEST_CARDS", "OFF", "test_cards", False),
        ("CODEBANK_TEST_CARDS", "", "test_cards", False),
        ("CODEBANK_STATE", "/x/y", "state", Path("/x/y")),
        ("CODEBANK_BANK_ADDRESS", "bank:1", "bank_address", "bank:1"),
    ],
)
def test_a_variable_is_read_by_the_type_of_its_field(variable: str, text: str, name: str, value: Any) -> None:
    assert getattr(Settings.load({variable: text}), name) == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("CODEBANK_BANK_PORT", "many"),
        ("CODEBANK_BANK_PORT", "-1"),
        ("CODEBANK_BANK_PORT", ""),
        ("CODEBANK_TEST_CARDS", "maybe"),
        ("CODEBANK_BANKPORT", "1"),
    ],
)
def test_trap_b09_a_wrong_setting_is_refused_at_the_start_by_name(variable: str, text: str) -> None:
    with pytest.raises(CodebankError, match=variable) as caught:
        Settings.load({variable: text})

    assert "docs/reference.md" in caught.value.hint


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(CodebankError, match=r"CODEBANK_BANK_PORT.*CODEBANK_DEMO"):
        Settings.load({"CODEBANK_BANK_PORT": "x", "CODEBANK_DEMO": "y"})


def test_what_is_written_for_a_child_is_read_back_the_same() -> None:
    settings = Settings.load(
        {"CODEBANK_TEST_CARDS": "on", "CODEBANK_BANK_PORT": "7", "CODEBANK_STATE": "/x", "CODEBANK_VAULT_KEY": "5a"}
    )

    assert Settings.load(settings.environment()) == settings


@pytest.mark.parametrize("database", DATABASES)
def test_each_database_is_reached_by_its_own_role(database: str) -> None:
    settings = Settings.load(
        {"CODEBANK_POSTGRES": "postgresql://db:5432/?sslmode=require", "CODEBANK_POSTGRES_PASSWORDS": f"{database}=p@/"}
    )

    assert settings.database_url(database) == f"postgresql://{database}:p%40%2F@db:5432/{database}?sslmode=require"
    assert settings.database_url(database, "audit") == f"postgresql://audit@db:5432/{database}?sslmode=require"


def test_without_a_server_the_embedded_one_is_reached_by_its_socket() -> None:
    settings = Settings(state=Path("/var/lib/x"))

    assert settings.database_url("bank") == "postgresql://bank@/bank?host=%2Fvar%2Flib%2Fx%2Fpostgres%2Fsocket"


def test_a_socket_of_a_long_path_lies_elsewhere_and_stays_the_same() -> None:
    deep = Path("/") / ("x" * 120)

    assert len(str(socket_folder(deep))) <= 80
    assert socket_folder(deep) == socket_folder(deep) != socket_folder(deep / "other")


def test_trap_b28_what_is_secret_is_marked_and_empty_by_default() -> None:
    secret = {item.name for item in fields(Settings) if item.metadata["secret"]}

    assert secret == {
        "postgres_passwords", "kafka_sasl_password", "elasticsearch_password", "vault_key", "operator_key",
        "merchant_key", "web_secret", "postgres_admin_password",
    }  # fmt: skip
    assert all(getattr(Settings(), name) == "" for name in secret)


def test_every_setting_has_a_word_of_help() -> None:
    assert all(len(item.metadata["help"]) > 10 for item in fields(Settings))


def test_a_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a1b2\n")

    settings = Settings.load({"CODEBANK_VAULT_KEY_FILE": str(tmp_path / "key")})

    assert settings.vault_key == "a1b2"
    assert Settings.load(settings.environment()) == settings


def test_a_file_of_a_secret_that_says_nothing_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "key").write_text("a1b2")
    wrong = {
        "CODEBANK_VAULT_KEY_FILE": str(tmp_path / "nowhere"),
        "CODEBANK_WEB_SECRET_FILE": str(tmp_path / "empty"),
        "CODEBANK_OPERATOR_KEY_FILE": str(tmp_path / "key"),
        "CODEBANK_OPERATOR_KEY": "x",
        "CODEBANK_BANK_PORT_FILE": str(tmp_path / "key"),
    }

    with pytest.raises(CodebankError) as caught:
        Settings.load(wrong)

    for sentence in (
        f"CODEBANK_VAULT_KEY_FILE: {tmp_path / 'nowhere'}: No such file or directory",
        f"CODEBANK_WEB_SECRET_FILE: {tmp_path / 'empty'} is empty",
        "CODEBANK_OPERATOR_KEY is given as a value and as a file",
        "CODEBANK_BANK_PORT_FILE is not a setting",
    ):
        assert sentence in caught.value.message


def test_the_administrators_address_and_those_of_our_roles_keep_the_servers_tls() -> None:
    settings = Settings(
        postgres="postgresql://db:5432?sslmode=verify-full&sslrootcert=/c/ca.crt",
        postgres_passwords="bank=a,log=b",
        postgres_admin_password="p/w",
    )

    assert settings.admin_url() == (
        "postgresql://postgres:p%2Fw@db:5432/postgres?sslmode=verify-full&sslrootcert=/c/ca.crt"
    )
    assert settings.database_url("bank") == (
        "postgresql://bank:a@db:5432/bank?sslmode=verify-full&sslrootcert=/c/ca.crt"
    )
