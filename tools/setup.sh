#!/bin/sh
# Makes .venv what requirements.lock says, and does nothing when it already is.
#
# .venv/.setup is the proof of a finished set-up: the folder's path (scripts in a venv hold it), and checksums of what
# the set-up was made from. It says "started" while one is under way, so that an interrupted one is begun anew.
# PYTHON=/path/to/python picks the interpreter; without it the newest of 3.13, 3.12, 3.11 that really runs.
set -eu
cd "$(dirname "$0")/.."
. tools/home.sh
unset PYTHONHOME PYTHONPATH VIRTUAL_ENV PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV || true
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
python=.venv/bin/python
stamp=.venv/.setup

say() { printf 'set-up: %s\n' "$*"; }
fail() { printf 'set-up: %s\n' "$*" >&2; exit 1; }
wanted() { pwd -P; cksum requirements.lock pyproject.toml tools/setup.sh; }
runs() { "$1" -c 'import sys, ssl, ctypes, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
has() { "$1" -c "import $2" >/dev/null 2>&1; }
pip() { # the venv's own pip, or the base interpreter's where it cannot put one into a venv
  if has "$python" pip; then "$python" -m pip "$@"; else "$base" -m pip --python "$python" "$@"; fi
}

if command -v flock >/dev/null 2>&1; then
  exec 9<tools/setup.sh
  flock 9 # two set-ups at once: the second waits, and finds the work done
fi

if [ -e "$stamp" ] && runs "$python" && [ "$(wanted)" = "$(cat "$stamp")" ]; then
  exit 0
fi

base=
for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python; do
  if [ -n "$candidate" ] && runs "$candidate" && { has "$candidate" ensurepip || has "$candidate" pip; }; then
    base=$candidate
    break
  fi
  [ -z "$candidate" ] || [ "$candidate" != "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not a Python 3.11 or newer with venv and pip"
done
[ -n "$base" ] || fail "no Python 3.11 or newer with venv and pip was found (on Debian: apt-get install python3 python3-venv)"

if [ -e .venv ] && ! { runs "$python" && [ "$(head -n 1 "$stamp" 2>/dev/null)" = "$(pwd -P)" ]; }; then
  [ -e "$stamp" ] || rmdir .venv 2>/dev/null || fail ".venv is there and was not made by this set-up; move it away and try again"
  say "an unfinished .venv, or one from another place, is there; making it anew"
  rm -rf .venv
fi

started=$(date +%s)
say "1/4 virtual environment with $("$base" --version)"
mkdir -p .venv
echo started >"$stamp"
if [ ! -e "$python" ]; then
  if has "$base" ensurepip; then "$base" -m venv .venv; else "$base" -m venv --without-pip .venv; fi
fi

# uv installs in seconds what takes pip a minute. It comes from the lock too, its hash checked by pip.
say "2/4 uv, the installer"
awk '/^[^ #]/ { take = /^uv==/ } take' requirements.lock >.venv/uv.lock.txt
fast=yes
pip install -q --no-deps --require-hashes -r .venv/uv.lock.txt || fast=
if [ -n "$fast" ] && [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then # a mirror that pip was told of holds for uv too
  mirror=$(pip config list 2>/dev/null | sed -n "s/^[^.]*\.index-url='\(.*\)'\$/\1/p" | tail -n 1)
  [ -z "$mirror" ] || export UV_DEFAULT_INDEX="$mirror"
fi
uv() { [ -n "$fast" ] && "$python" -m uv pip install --python "$python" --no-deps "$@" 2>&1; }

say "3/4 the locked packages, each checked against its hash"
rm -f .venv/installed
{ uv --require-hashes -r requirements.lock && touch .venv/installed; } | sed '/^ [-+~] /d'
if [ ! -e .venv/installed ]; then
  say "uv did not get through; pip goes on, which takes a minute or two"
  pip install --no-deps --no-compile --require-hashes -r requirements.lock
fi
# Compiled now and not at the first import, which would be slow, and at every one where nobody may write to .venv.
"$python" -m compileall -qq -j 0 -x '/tests?/' .venv/lib || true

say "4/4 this project, from its folder"
uv --quiet --offline --no-build-isolation --editable . ||
  pip install -q --no-index --no-deps --no-build-isolation --editable .

wanted >"$stamp"
say "done in $(($(date +%s) - started)) s"
