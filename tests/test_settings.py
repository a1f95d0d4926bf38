"""Settings: read once, every wrong one named, and written back for a child process."""

from __future__ import annotations

import os
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from codebank.errors import CodebankError
from codebank.folders import socket_folder
from codebank.settings import DATABASES, Settings


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


SECRETS = [f"CODEBANK_{item.name.upper()}" for item in fields(Settings) if item.metadata["secret"]]


@pytest.mark.parametrize("written", ["5a5a\n", " 5a5a ", "5a5a\r\n", "\t5a5a\u00a0"])
@pytest.mark.parametrize("variable", SECRETS)
def test_line_ends_and_blanks_around_a_secret_are_none_of_it(variable: str, written: str, tmp_path: Path) -> None:
    (tmp_path / "held").write_text(written, encoding="utf-8-sig", newline="")

    given = Settings.load({variable: written})
    held = Settings.load({f"{variable}_FILE": f"{tmp_path / 'held'}\n"})

    assert given == held == Settings.load({variable: "5a5a"})


@pytest.mark.parametrize("written", ["s3cr\net", "s3cr\0et", "s3cr\x7fet", "s3cr\udcffet", "s3cr\u200bet"])
@pytest.mark.parametrize("variable", SECRETS)
def test_a_secret_with_what_nobody_sees_inside_is_refused_by_name(variable: str, written: str, tmp_path: Path) -> None:
    (tmp_path / "held").write_bytes(written.encode(errors="surrogateescape"))

    for environment in ({variable: written}, {f"{variable}_FILE": str(tmp_path / "held")}):
        with pytest.raises(CodebankError, match=variable) as caught:
            Settings.load(environment)
        assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize("variable", ["CODEBANK_MERCHANT_KEY", "CODEBANK_OPERATOR_KEY"])
@pytest.mark.parametrize("written", ["chavé", "a b", "ключ", "“quoted”"])
def test_a_key_that_no_call_can_carry_is_refused_by_name(variable: str, written: str) -> None:
    with pytest.raises(CodebankError, match=f"{variable}: has a character that cannot be sent"):
        Settings.load({variable: written})


def test_passwords_may_stand_on_a_line_each() -> None:
    settings = Settings.load({"CODEBANK_POSTGRES_PASSWORDS": " bank = a ,\n checkout=b\r\n,log=c\n"})

    assert settings.role_passwords() == {"bank": "a", "checkout": "b", "log": "c"}


@pytest.mark.parametrize(
    "variable",
    [f"CODEBANK_{one.name.upper()}" for one in fields(Settings) if one.type == "str" and not one.metadata["secret"]],
)
def test_line_ends_and_blanks_around_a_text_are_none_of_it(variable: str) -> None:
    assert Settings.load({variable: " http://x:1\n"}) == Settings.load({variable: "http://x:1"})


@pytest.mark.parametrize(
    ("host", "own", "bank", "shop"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1:50051", "http://localhost:8000"),
        ("0.0.0.0", "127.0.0.1", "127.0.0.1:50051", "http://localhost:8000"),
        ("::1", "::1", "[::1]:50051", "http://[::1]:8000"),
        ("[::1]", "::1", "[::1]:50051", "http://[::1]:8000"),
        ("::", "::1", "[::1]:50051", "http://localhost:8000"),
        ("10.0.0.5", "10.0.0.5", "10.0.0.5:50051", "http://10.0.0.5:8000"),
        ("localhost", "localhost", "localhost:50051", "http://localhost:8000"),
    ],
)
def test_a_machine_finds_itself_where_its_ports_are_opened(host: str, own: str, bank: str, shop: str) -> None:
    settings = Settings.load({"CODEBANK_HOST": host})

    assert (settings.own_host(), settings.bank_target(), settings.checkout_home()) == (own, bank, shop)


def test_a_page_keeps_an_idle_connection_longer_than_a_balancer_does() -> None:
    assert Settings().keep_alive_seconds > 60


@pytest.mark.parametrize("variable", ["CODEBANK_STATE", "CODEBANK_DEPLOY"])
def test_an_empty_folder_is_no_folder(variable: str) -> None:
    assert Settings.load({variable: ""}) == Settings.load({})


def test_a_home_that_nobody_knows_is_refused_by_name() -> None:
    with pytest.raises(CodebankError, match="CODEBANK_STATE"):
        Settings.load({"CODEBANK_STATE": "~nobody-of-this-name/state"})


@pytest.mark.parametrize(
    ("home", "state_home", "found"),
    [
        ("/Users/ana", None, "/Users/ana/.local/state/codebank"),
        ("/Users/ana", "/x", "/x/codebank"),
        ("/Users/ana", "relative", "/Users/ana/.local/state/codebank"),
        (None, None, "/var/lib/codebank"),
    ],
)
def test_state_has_a_place_also_for_who_has_neither_home_nor_name(
    home: str | None, state_home: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("HOME", home), ("XDG_STATE_HOME", state_home)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: 54_321)
    monkeypatch.setattr(os, "getuid", lambda: 54_321)

    assert str(Settings.load({}).state) == found


def test_a_socket_lies_where_another_terminal_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = Path("/") / ("x" * 120)
    found = []
    for place in ("/tmp", "/var/tmp"):
        monkeypatch.setenv("TMPDIR", place)
        monkeypatch.setattr(tempfile, "tempdir", None)
        found.append(socket_folder(deep))

    assert found[0] == found[1]


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
