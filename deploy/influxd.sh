#!/bin/bash
# Starts InfluxDB twice, at first where nobody writes.
#
# A kill, a full disk or a power cut may leave half an entry at the end of its write-ahead log. As
# it starts, InfluxDB 2.7 cuts that off, but has opened the log behind it by then. What it
# acknowledges next lies behind a gap, where the start after that stops reading: it would be gone.
set -euo pipefail

host=127.0.0.1
port=18086

is_ready() {
  # In a shell of its own, whose end closes the connection.
  (
    exec 3<>"/dev/tcp/$host/$port"
    printf 'GET /ready HTTP/1.0\r\n\r\n' >&3
    read -r _ status _ <&3
    [[ $status == 200 ]]
  ) 2>/dev/null
}

if [[ -e /var/lib/influxdb2/influxd.bolt ]]; then
  /entrypoint.sh influxd --http-bind-address="$host:$port" &
  apart=$!
  trap 'kill "$apart"; wait "$apart" || true; exit 143' TERM INT
  until is_ready; do
    kill -0 "$apart" # ends us when it has ended
    sleep 0.2
  done
  kill "$apart"
  wait "$apart" || true
  trap - TERM INT
fi
exec /entrypoint.sh "$@"
