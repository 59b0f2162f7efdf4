#!/usr/bin/env bash
# Makes .venv with the package (editable) and everything development needs. Safe to run again.
# PYTHON names the interpreter to use; without it the first Python >= 3.11 found is taken.
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

fail() { echo "setup: $*" >&2; exit 1; }
recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
may_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }
apt() {
    echo "setup: installing $* with apt-get"
    apt-get update -qq </dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
}

find_python() {
    local name
    for name in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if command -v "$name" >/dev/null && recent "$name"; then
            command -v "$name"
            return
        fi
    done
    return 1
}

make_venv() { # with pip inside, or nothing
    rm -rf .venv
    "$1" -m venv .venv >.venv.log 2>&1 || { "$1" -m virtualenv -q .venv >>.venv.log 2>&1; } || { rm -rf .venv; return 1; }
    rm -f .venv.log
}

if ! { [ -x .venv/bin/python ] && recent .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
    if ! python=$(find_python); then
        [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not a Python >= 3.11"
        may_apt || fail "no Python >= 3.11 found: install one, or name it with PYTHON=/path/to/python3.11"
        apt python3 python3-venv
        python=$(find_python) || fail "this system's own Python is older than 3.11: install a newer one and set PYTHON"
    fi
    echo "setup: making .venv with $("$python" --version) ($python)"
    if ! make_venv "$python"; then
        version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        may_apt || fail "$python cannot make a virtual environment: sudo apt-get install $version-venv (or python3-venv)"
        apt "$version-venv"
        make_venv "$python" || { cat .venv.log >&2; fail "$python still cannot make a virtual environment"; }
    fi
fi

echo "setup: installing packages into .venv"
.venv/bin/python -m pip install --quiet --upgrade "pip>=25.1" # the first with --group
.venv/bin/python -m pip install --quiet --editable . --group dev
.venv/bin/python -m compileall -q src # a third of a second of every start where PYTHONDONTWRITEBYTECODE is set
touch .venv/installed
