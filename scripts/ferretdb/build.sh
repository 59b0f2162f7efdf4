#!/usr/bin/env bash
# Builds the MongoDB-protocol server of the tests (main.go) once per version of its sources, and prints where it is.
# Modules come from Go's module proxy; the first build takes some minutes. Exit 3: there is no Go here.
set -euo pipefail
cd "$(dirname "$0")"
command -v go >/dev/null || { echo "no Go: install golang (1.21 or newer)" >&2; exit 3; }

version=$(cat main.go go.mod go.sum build.sh | sha256sum | cut -c1-16)
folder=$(realpath ../..)/.venv/ferretdb
binary=$folder/ferretdb-$version
mkdir -p "$folder"
exec 9>"$folder/lock"
flock 9 # two test runs at once build it once
if [ ! -x "$binary" ]; then
    # Without its other backend and without what debuggers want, it is built in three quarters of the time.
    CGO_ENABLED=0 go build -trimpath -tags ferretdb_no_postgresql -ldflags='-s -w' -o "$binary.new" . >&2
    mv "$binary.new" "$binary"
    find "$folder" -name 'ferretdb-*' ! -name "ferretdb-$version" -delete
fi
echo "$binary"
