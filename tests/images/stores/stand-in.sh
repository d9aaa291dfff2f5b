#!/bin/sh
# What compose.yaml asks of the entry points of the official images, and no more. With a command it runs that; without one it is PostgreSQL: a new volume gets a cluster, a role, a database and what
# /docker-entrypoint-initdb.d has; then the server is process 1, and listens everywhere.
set -eu
if [ "$#" -gt 0 ]; then
  exec "$@"
fi
export PGDATA=/var/lib/postgresql/18/docker

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # shellcheck disable=SC2086  # several options in one variable, as with the official image
  initdb --pgdata "$PGDATA" --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" --auth scram-sha-256 --auth-local trust ${POSTGRES_INITDB_ARGS:-}
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
  pg_ctl --pgdata "$PGDATA" --wait --options "-c listen_addresses='' -c unix_socket_directories=/var/run/postgresql" start
  export PGHOST=/var/run/postgresql
  createdb --username "$POSTGRES_USER" "$POSTGRES_DB"
  for script in /docker-entrypoint-initdb.d/*.sh; do
    # shellcheck disable=SC1090
    . "$script"
  done
  unset PGHOST
  pg_ctl --pgdata "$PGDATA" --mode fast --wait stop
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql
