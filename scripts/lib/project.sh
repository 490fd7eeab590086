# shellcheck shell=bash
# Installs jbuild into the checkout's .venv: a suitable Python, jbuild and its dependencies.

find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11 python3.10; do
        if "$name" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

provide_python() {
    PYTHON=$(find_python) && return
    can_install || die "Python 3.10 or newer with its venv module is missing: install it (python3, python3-venv), then run the command again"
    install_packages python3 python3-venv
    PYTHON=$(find_python) || die "this system's Python is older than 3.10: install a newer Python, then run the command again"
}

# install_project [dev]: installs jbuild if pyproject.toml has changed; with `dev`, also the test tools.
install_project() {
    local env=$checkout/.venv stamp=$checkout/.venv/.installed${1:+-$1}
    if [[ -x $env/bin/jbuild ]] && cmp -s "$checkout/pyproject.toml" "$stamp"; then return; fi
    make_environment "$env"
    "$env/bin/python" -m pip install --editable "$checkout"
    [[ -z ${1:-} ]] || "$env/bin/uv" pip install --python "$env/bin/python" --group "$checkout/pyproject.toml:$1"
    cp "$checkout/pyproject.toml" "$stamp"
    rm -f "$env/.unfinished"
}

# make_environment PATH: recreates an environment whose creation was interrupted, and adds only pip to any other one.
make_environment() {
    [[ ! -e $1/.unfinished ]] || rm -rf "$1"
    if "$1/bin/python" -m pip --version >/dev/null 2>&1; then return; fi
    [[ -e $1 ]] || { mkdir "$1" && touch "$1/.unfinished"; }
    "$PYTHON" -m venv "$1"
}
