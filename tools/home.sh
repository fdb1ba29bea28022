# Sourced from the root of the project, before anything that writes caches or settings.
# A home folder that cannot be written to is replaced, for this process and its children, by .cache/ in the project.
writable() { [ ! -e "$1" ] || [ -w "$1" ]; }

home=${HOME:-/nonexistent}
if ! { [ -w "$home" ] && writable "$home/.cache" && writable "$home/.config" &&
       writable "$home/.local" && writable "$home/.local/share" && writable "$home/.ipython" &&
       writable "${XDG_CACHE_HOME:-$home}"; }; then
  cache=$PWD/.cache
  mkdir -p "$cache"
  export XDG_CACHE_HOME="$cache/xdg" UV_CACHE_DIR="$cache/uv" PIP_CACHE_DIR="$cache/pip"
  export IPYTHONDIR="$cache/ipython" MPLCONFIGDIR="$cache/matplotlib" NUMBA_CACHE_DIR="${NUMBA_CACHE_DIR:-$cache/numba}"
  export JUPYTER_CONFIG_DIR="$cache/jupyter/config" JUPYTER_DATA_DIR="$cache/jupyter/data" JUPYTER_RUNTIME_DIR="$cache/jupyter/runtime"
  mkdir -p "$IPYTHONDIR" "$MPLCONFIGDIR" "$JUPYTER_RUNTIME_DIR"
fi
