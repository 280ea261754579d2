#!/bin/sh
# What a first start needs and no file in the repository may hold: the database's token, two
# passwords, and a first key. Whatever exists already is left alone. A token or a password of
# your own is taken from the environment.
set -eu
secrets=${SECRETS_DIR:-/secrets}
keys=${STEPCLOCK_DATA_DIR:-/data}/keys.toml

# keep NAME VALUE: write a secret that is not there yet; without a value, a random one. Other
# users read it too, since each service runs as its own: the volume is the boundary.
keep() {
    [ -s "$secrets/$1" ] && return
    value=$2
    [ -n "$value" ] || value=$(python -c 'import secrets; print(secrets.token_urlsafe(32))')
    printf '%s\n' "$value" > "$secrets/.$1"
    chmod 0444 "$secrets/.$1"
    mv "$secrets/.$1" "$secrets/$1"
}

keep influx-token "${INFLUX_ADMIN_TOKEN:-}"
keep influx-password "${INFLUX_ADMIN_PASSWORD:-}"
keep grafana-password "${GRAFANA_ADMIN_PASSWORD:-}"

if [ ! -s "$keys" ]; then
    key=$(stepclock-server keys create --tenant "${FIRST_TENANT:-default}")
    echo "first key, of tenant ${FIRST_TENANT:-default}; it is shown once:"
    echo "$key"
fi
echo "Grafana: user admin, password in $secrets/grafana-password"
