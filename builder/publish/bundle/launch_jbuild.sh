#!/bin/sh
# Starts the jbuild of this bundle with any Python from 3.10 to 3.14; PYTHON names one. It needs no network, no pip and
# no virtual environment: the first start unpacks the wheels into jbuild's cache.
set -eu

usable() {
    "$1" -I -S -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null
}

here=$(cd -- "$(dirname -- "$0")" && pwd)
python=
if [ -n "${PYTHON:-}" ]; then
    if usable "$PYTHON"; then python=$PYTHON; fi
else
    for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        if usable "$name"; then
            python=$name
            break
        fi
    done
fi
if [ -z "$python" ]; then
    if [ -n "${PYTHON:-}" ]; then found="$PYTHON is not such an interpreter"; else found="this machine has none"; fi
    echo "error: jbuild needs Python 3.10 to 3.14, and $found" >&2
    echo "  next: name an interpreter: PYTHON=/path/to/python3 sh $0" >&2
    exit 2
fi
program=$("$python" -I -S "$here/unpack.py")
exec "$python" -I -S "$program" "$@"
