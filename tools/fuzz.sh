#!/bin/sh
# Runs the fuzzer, which lives in a folder of its own, so that .venv stays what requirements.lock says.
set -eu
cd "$(dirname "$0")/.."
. tools/home.sh
python=.venv/bin/python
site=.cache/fuzz/site

install() { # a venv may be without pip, and uv may not know of the mirror that pip uses
  "$python" -m pip install --disable-pip-version-check --quiet "$@" || "$python" -m uv pip install --quiet "$@"
}

if ! cmp -s requirements-fuzz.lock "$site/lock"; then
  rm -rf "$site"
  mkdir -p "$site"
  install --target "$site" --no-deps --only-binary :all: --require-hashes -r requirements-fuzz.lock ||
    { echo "fuzz: atheris cannot be installed here" >&2; exit 2; }
  cp requirements-fuzz.lock "$site/lock"
fi
PYTHONPATH=$site exec "$python" -m tests.fuzz "$@"
