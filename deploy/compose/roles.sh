# PostgreSQL's image runs this once, when its volume is new: the role that the CA serves as. The migrations grant it what it needs.
psql --set ON_ERROR_STOP=1 --set password="$(cat /etc/keypost/keypost_ca)" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE keypost_ca LOGIN PASSWORD :'password';
SQL
