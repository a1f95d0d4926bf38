"""Settings: the environment, read once, as one frozen value. The defaults need no server.

Every field is one variable: `CODEBANK_` and the field's name in capitals. `docs/reference.md` lists them all.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from codebank.address import known_as, place, reached
from codebank.errors import Code, CodebankError
from codebank.folders import default_deploy_folder, default_state_folder, socket_folder
from codebank.variable import (
    read_header_secret,
    read_host,
    read_link,
    read_passwords,
    read_secret,
    read_secret_file,
    read_value,
)

PREFIX: Final = "CODEBANK_"
#: Ends the variable that names the file of a secret.
_FILE: Final = "_FILE"
#: Every database; the owner role of each has the same name.
DATABASES: Final = ("bank", "checkout", "statement", "log")
#: The role that may read every database and write none.
READER_ROLE: Final = "audit"


def _setting(
    help_text: str, default: Any = None, *, secret: bool = False, factory: Any = None, read: Any = None
) -> Any:
    metadata = {"help": help_text, "secret": secret, "read": read or (read_secret if secret else None)}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that may differ between two machines."""

    state: Path = _setting("folder of all that this machine keeps", factory=default_state_folder)
    deploy: Path = _setting(
        "folder of connector, index template and dashboards: `deploy` of a checkout", factory=default_deploy_folder
    )
    software: str = _setting("folder of the servers that `make kafka` fetches; empty means in the state folder", "")
    postgres: str = _setting(
        "libpq address of a PostgreSQL server without user and database, such as `postgresql://db:5432`; "
        "empty means the embedded one",
        "",
    )
    postgres_passwords: str = _setting(
        "passwords of the database roles, as `bank=…,checkout=…,statement=…,log=…,audit=…`",
        "",
        secret=True,
        read=read_passwords,
    )
    postgres_admin: str = _setting("role with which `codebank databases` makes databases and roles", "postgres")
    postgres_admin_password: str = _setting("password of that role", "", secret=True)
    pool_size_max: int = _setting(
        "connections that each process holds to one database at most, within PostgreSQL's `max_connections`", 8
    )

    kafka: str = _setting("Kafka brokers as `host:port,…`; empty means the embedded log", "")
    kafka_security_protocol: str = _setting("how brokers are spoken to: plaintext, ssl, sasl_plaintext, sasl_ssl", "")
    kafka_ca_file: str = _setting("certificates of the authorities that vouch for the brokers (PEM)", "")
    kafka_certificate_file: str = _setting("certificate with which we show who we are (PEM)", "")
    kafka_key_file: str = _setting("key of that certificate (PEM)", "")
    kafka_sasl_mechanism: str = _setting("PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", "")
    kafka_sasl_username: str = _setting("name with which we sign in at the brokers", "")
    kafka_sasl_password: str = _setting("password of that name", "", secret=True)
    kafka_replication: int = _setting("brokers that keep each record", 3)
    kafka_min_in_sync: int = _setting("brokers that must have a record before it counts", 2)
    connect: str = _setting("address of Kafka Connect's REST, such as `http://localhost:8083`; empty means none", "")
    elasticsearch: str = _setting("address of Elasticsearch, such as `http://localhost:9200`; empty means none", "")
    elasticsearch_username: str = _setting("name with which we sign in at Elasticsearch", "")
    elasticsearch_password: str = _setting("password of that name", "", secret=True)
    elasticsearch_ca_file: str = _setting("certificates of the authorities that vouch for Elasticsearch (PEM)", "")

    bank_port: int = _setting("gRPC port of the bank", 50051)
    checkout_port: int = _setting("port of the shop's pages and REST", 8000)
    statement_port: int = _setting("port of the statement's pages and REST", 8010)
    audit_port: int = _setting("port of the control room", 8020)
    bank_health_port: int = _setting("health and metrics of the bank", 9101)
    relay_health_port: int = _setting("health and metrics of the relay", 9102)
    checkout_health_port: int = _setting("health and metrics of the checkout", 9103)
    statement_health_port: int = _setting("health and metrics of the statement", 9104)
    projector_health_port: int = _setting("health and metrics of the projector", 9105)
    audit_health_port: int = _setting("health and metrics of the audit", 9106)
    kafka_port: int = _setting("first of the six ports of the brokers that `make kafka` starts", 19092)
    connect_port: int = _setting("port of the Kafka Connect that `make kafka` starts", 8083)
    elasticsearch_port: int = _setting("port of the Elasticsearch that `make kafka` starts, and 100 more", 9200)
    host: str = _setting(
        "address that every port is opened on, such as `0.0.0.0` or `::1`", "127.0.0.1", read=read_host
    )
    keep_alive_seconds: int = _setting(
        "how long a page's connection stays open while nobody asks; longer than a balancer in front keeps it", 75
    )

    tls_ca_file: str = _setting("authority that vouches for all roles (PEM); with it roles talk over mutual TLS", "")
    tls_certificate_file: str = _setting("certificate that this role shows to the others (PEM)", "")
    tls_key_file: str = _setting("key of that certificate (PEM)", "")

    bank_processes: int = _setting(
        "processes of the bank, on Linux, that share its port; 0 means one for every two cores, at least one", 0
    )
    bank_channels: int = _setting(
        "connections of the checkout to each address of the bank; 0 means enough for CODEBANK_BANK_PROCESSES", 0
    )
    bank_address: str = _setting("where the checkout finds the bank, as `host:port`; empty means this machine", "")
    role_host: str = _setting(
        "host on which the control room finds a role's health, with `{role}` for its name; empty means this machine", ""
    )
    checkout_url: str = _setting("public address of the shop; empty means this machine", "")
    statement_url: str = _setting("public address of the statement; empty means this machine", "")
    audit_url: str = _setting("public address of the control room; empty means this machine", "")

    grafana_url: str = _setting(
        "address of Grafana that the control room links to; empty means no link", "", read=read_link
    )
    kibana_url: str = _setting(
        "address of Kibana that the control room links to; empty means no link", "", read=read_link
    )
    jaeger_url: str = _setting(
        "address of Jaeger, where a payment's trace is shown; empty means no link", "", read=read_link
    )

    vault_key: str = _setting("64 hexadecimal digits: the key of the card vault; `up` makes one", "", secret=True)
    operator_key: str = _setting(
        "key of the operator's calls; `up` makes one", "", secret=True, read=read_header_secret
    )
    merchant_key: str = _setting(
        "API key with which the checkout calls the bank; `up` makes one", "", secret=True, read=read_header_secret
    )
    web_secret: str = _setting("secret of the shop; the release before hashes with it; `up` makes one", "", secret=True)

    test_cards: bool = _setting("whether the published test cards force their outcomes", False)
    demo: bool = _setting("whether pages show the demo's hints: test cards, the demo cardholder", False)
    batch_size_max: int = _setting("authorisations in one bank transaction at most", 512)
    queue_size_max: int = _setting("authorisations that may wait in one bank process", 8192)
    stop_grace_seconds: int = _setting("how long a stopping role may finish what it took", 10)

    relay_batch_max: int = _setting("events that the relay ships at once", 500)
    relay_lease_seconds: int = _setting("silence of the leading relay after which a stand-by takes its place", 20)
    projector_batch_max: int = _setting("events that a projector stores at once", 500)
    member_timeout_seconds: int = _setting("silence after which a group gives a member's partitions away", 3)

    call_budget_seconds: int = _setting("time that one payment may take from the checkout's side", 5)
    resolve_after_seconds: int = _setting("age at which the resolver asks for an unknown outcome", 3)
    cancel_after_seconds: int = _setting("age at which the resolver cancels an unknown outcome", 20)

    session_hours: int = _setting("how long a sign-in lasts", 12)
    sign_in_attempts_max: int = _setting(
        "wrong sign-ins per e-mail, and tenfold per address, in a quarter of an hour", 5
    )
    secure_cookies: bool = _setting("whether cookies are sent over TLS only", False)

    otlp: str = _setting("where traces go (OTLP over HTTP), such as `http://jaeger:4318`; empty means nowhere", "")
    trace_ratio: str = _setting("share of what comes in at a page that is traced, from 0 to 1", "0.01")
    log_level: str = _setting("least level that is logged: debug, info, warning or error", "info")

    @staticmethod
    def load(environ: Mapping[str, str]) -> Settings:
        """Read the settings from an environment; a secret may be in a file that `CODEBANK_…_FILE` names.

        Raises CodebankError naming each variable that is unknown or does not fit its type.
        """
        known = {PREFIX + item.name.upper(): item for item in fields(Settings)}
        values: dict[str, Any] = {}
        wrong: list[str] = []
        for variable, text in environ.items():
            if not variable.startswith(PREFIX):
                continue
            item = known.get(variable)
            held = known.get(variable.removesuffix(_FILE)) if item is None else None
            if held is not None and held.metadata["secret"]:
                item = held
                if environ.get(variable.removesuffix(_FILE)):
                    wrong.append(f"{variable.removesuffix(_FILE)} is given as a value and as a file")
            if item is None:
                wrong.append(f"{variable} is not a setting")
                continue
            if str(item.type) == "Path" and not text.strip():
                continue  # as good as not set; the working folder would be a strange place
            try:
                values[item.name] = _value(item, text, from_file=item is held)
            except ValueError as error:
                wrong.append(f"{variable}: {error}")
        if wrong:
            raise CodebankError(Code.INVALID, "; ".join(wrong), hint="docs/reference.md lists every setting")
        return Settings(**values)

    def database_url(self, database: str, role: str | None = None) -> str:
        """Give the address of a database for its owner, or for the role named."""
        user = role or database
        return self._url(database, user, self.role_passwords().get(user, ""))

    def admin_url(self) -> str:
        """Give the address with which databases and roles are made."""
        return self._url("postgres", self.postgres_admin, self.postgres_admin_password)

    def _url(self, database: str, user: str, password: str) -> str:
        credentials = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
        if self.postgres:
            scheme, _, rest = self.postgres.partition("://")
            place, question, query = rest.partition("?")
            return f"{scheme}://{credentials}@{place.rstrip('/')}/{database}{question}{query}"
        return f"postgresql://{credentials}@/{database}?host={quote(str(self.socket_folder()), safe='')}"

    def socket_folder(self) -> Path:
        """Say where the embedded PostgreSQL listens."""
        return socket_folder(self.state / "postgres")

    def software_folder(self) -> Path:
        """Say where fetched servers lie."""
        return Path(self.software).expanduser().absolute() if self.software else self.state / "servers" / "software"

    def role_passwords(self) -> dict[str, str]:
        """Give the password of each database role that has one."""
        pairs = (pair.partition("=") for pair in self.postgres_passwords.split(",") if pair)
        return {user.strip(): password.strip() for user, _, password in pairs}

    def environment(self) -> dict[str, str]:
        """Write the settings back as variables, for a child process."""
        return {PREFIX + item.name.upper(): _text(getattr(self, item.name)) for item in fields(self)}

    def own_host(self) -> str:
        """Give the host at which this machine reaches its own ports."""
        return reached(self.host)

    def shown(self, port: int) -> str:
        """Give the address of one of this machine's ports as people are told it."""
        return place(known_as(self.host), port)

    def checkout_home(self) -> str:
        """Give the shop's public address."""
        return self.checkout_url or f"http://{self.shown(self.checkout_port)}"

    def statement_home(self) -> str:
        """Give the statement's public address."""
        return self.statement_url or f"http://{self.shown(self.statement_port)}"

    def audit_home(self) -> str:
        """Give the control room's public address."""
        return self.audit_url or f"http://{self.shown(self.audit_port)}"

    def bank_target(self) -> str:
        """Give the address of the bank's gRPC server."""
        return self.bank_address or place(self.own_host(), self.bank_port)


#: The roles, as their health ports are named.
ROLE_NAMES: Final = tuple(
    item.name.removesuffix("_health_port") for item in fields(Settings) if item.name.endswith("_health_port")
)


def _value(item: Field[Any], text: str, *, from_file: bool) -> Any:
    read = item.metadata["read"] or functools.partial(read_value, str(item.type))
    return read(read_secret_file(text) if from_file else text)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
