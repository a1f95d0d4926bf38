#!/bin/sh
# Makes the server's folder on the first start, as the official image does for POSTGRES_USER and POSTGRES_PASSWORD_FILE.
set -eu
[ "$(id -u)" != 0 ] || { echo "this stand-in runs as the user that compose names" >&2; exit 1; }
if ! getent passwd "$(id -u)" >/dev/null; then
  # initdb asks for the name of its user.
  NSS_WRAPPER_PASSWD="$(mktemp)" NSS_WRAPPER_GROUP="$(mktemp)" LD_PRELOAD=libnss_wrapper.so
  export NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP LD_PRELOAD
  echo "postgres:x:$(id -u):$(id -g)::$PGDATA:/bin/false" > "$NSS_WRAPPER_PASSWD"
  echo "postgres:x:$(id -g):" > "$NSS_WRAPPER_GROUP"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  mkdir -p "$PGDATA"
  chmod 700 "$PGDATA"
  initdb --username="${POSTGRES_USER:-postgres}" --pwfile="$POSTGRES_PASSWORD_FILE" --auth-local=trust \
    --auth-host=scram-sha-256 ${POSTGRES_INITDB_ARGS:-}
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  echo "listen_addresses = '*'" >> "$PGDATA/postgresql.conf"
fi
unset LD_PRELOAD
exec "$@"
