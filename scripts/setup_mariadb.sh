#!/usr/bin/env bash
# The tests of the metadata store want a MariaDB of their own. Quick when there is one, or when TEST_MYSQL_URL names one.
# As root on Debian or Ubuntu it is installed; the package with the bare server starts no service of the system.
# Anywhere else nothing is done: the tests say in one line what they left out.
set -euo pipefail

present() { [ -n "${TEST_MYSQL_URL:-}" ] || PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v mariadbd >/dev/null; }
install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null 2>&1; }

if present || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    exit 0
fi
echo "setup: installing MariaDB with apt-get, for the tests"
apt-get update -qq </dev/null >/dev/null || true # what is known already may do
install mariadb-server-core mariadb-client-core || install mariadb-server || true # older releases name them otherwise
present || echo "setup: MariaDB could not be installed: its tests are left out" >&2
