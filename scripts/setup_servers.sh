#!/usr/bin/env bash
# What the tests need besides .venv: a MariaDB, and a server that speaks MongoDB's protocol. Quick when both are there.
# As root on Debian or Ubuntu MariaDB is installed; the package with the bare server starts no service of the system.
# The stand-in for MongoDB is built where there is Go (scripts/ferretdb), behind our back: the first test that wants it
# waits for it. TEST_MYSQL_URL and TEST_MONGODB_URL name servers that run already. Nothing else is done: without a server
# the tests say in one line what they left out.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .venv
exec 9>.venv/servers.lock
flock 9 # whoever comes second waits, and finds everything there

mariadb() { PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v mariadbd >/dev/null; }
install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null 2>&1; }

if [ -z "${TEST_MONGODB_URL:-}" ] && ! command -v mongod >/dev/null; then
    scripts/ferretdb/build.sh >/dev/null 2>&1 9>&- & # the tests say what is missing
fi
if [ -z "${TEST_MYSQL_URL:-}" ] && ! mariadb && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing MariaDB with apt-get, for the tests"
    apt-get update -qq </dev/null >/dev/null || true # what is known already may do
    install mariadb-server-core mariadb-client-core || install mariadb-server || true # older releases name them otherwise
    mariadb || echo "setup: MariaDB could not be installed: its tests are left out" >&2
fi
