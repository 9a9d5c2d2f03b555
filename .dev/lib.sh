# Shared by the scripts in this folder. Errors are one line each.

UV_VERSION=0.13.9
CACHE_ROOT=${LINNET_ENV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/linnet}

fail() { printf 'error[setup]: %s\n' "$1" >&2; [ -z "${2:-}" ] || printf 'hint: %s\n' "$2" >&2; exit 1; }
say() { printf '%s\n' "$1" >&2; }

# A Python 3.11 by path, never a virtual environment's own.
find_python() {
    local candidate
    for candidate in "${LINNET_PYTHON:-}" python3.11 python3; do
        [ -n "$candidate" ] || continue
        command -v "$candidate" >/dev/null 2>&1 || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'
            return
        fi
    done
    fail "Python 3.11 was not found." "Install it (Debian: python3.11 python3.11-venv) or set LINNET_PYTHON."
}

# uv from PATH, else from a small environment of its own in the cache.
find_uv() {
    local home="$CACHE_ROOT/uv-$UV_VERSION" python
    if [ ! -x "$home/bin/uv" ]; then
        if command -v uv >/dev/null 2>&1; then command -v uv; return; fi
        python=$(find_python) || exit 1
        "$python" -c 'import venv, ensurepip' 2>/dev/null || fail "Python's venv module is missing." "Debian: apt-get install python3.11-venv"
        mkdir -p "$CACHE_ROOT"
        rm -rf "$home"
        "$python" -m venv "$home" || fail "No virtual environment could be made in $home."
        "$home/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION" >"$home/install.log" 2>&1 \
            || fail "uv $UV_VERSION could not be installed (see $home/install.log)." "Check the package index that pip is set to."
    fi
    printf '%s\n' "$home/bin/uv"
}

# A local wheel folder (PIP_FIND_LINKS) serves torch's CPU build, else PyTorch's own index does.
torch_index() {
    if [ -n "${PIP_FIND_LINKS:-}" ]; then
        printf -- '--find-links %s' "$PIP_FIND_LINKS"
    else
        printf -- '--extra-index-url https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match'
    fi
}
