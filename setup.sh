#!/usr/bin/env bash
# Installs everything from requirements.lock into .venv. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")"

python=""
for candidate in python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null &&
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "setup: Python 3.11 or 3.12 is needed and none is on PATH; on Debian 12: apt-get install python3 python3-venv" >&2
    exit 1
fi

if [ ! -x .tools/uv/bin/uv ]; then
    echo "setup: the installer (uv)"
    if ! "$python" -m venv .tools/uv; then
        rm -rf .tools/uv
        echo "setup: $python cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2
        exit 1
    fi
    .tools/uv/bin/pip install --quiet --disable-pip-version-check uv
fi

# trust what the machine trusts: a company's own certificate authority is in its store
if [ -s /etc/ssl/certs/ca-certificates.crt ]; then
    export UV_SYSTEM_CERTS=true
fi

echo "setup: packages from requirements.lock (about 7 GB on disk)"
[ -x .venv/bin/python ] || .tools/uv/bin/uv venv --quiet --python "$python" .venv
.tools/uv/bin/uv pip sync --python .venv/bin/python --require-hashes requirements.lock
.tools/uv/bin/uv pip install --python .venv/bin/python --quiet --no-deps --no-build-isolation --editable .
echo "setup: the jars of Delta Lake for Spark"
.venv/bin/python -m jobs.spark_server
touch .venv/ready
