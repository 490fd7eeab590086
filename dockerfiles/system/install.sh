#!/bin/sh
# Runs in the image as root, under emulation on a foreign machine: packages, and the user that the server runs as.
# Usage: install.sh EPOCH UID USER PACKAGE...
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
epoch=$1 uid=$2 user=$3
shift 3
begun=$(mktemp)

# The builder's certificates and log-ins, if it was given any: mounted for this step, never stored.
apt() {
    for secret in Acquire::https::CAInfo=/run/secrets/ca Dir::Etc::netrc=/run/secrets/netrc; do
        [ ! -s "${secret#*=}" ] || set -- -o "$secret" "$@"
    done
    apt-get -q -o Acquire::Retries=3 -o APT::Sandbox::User=root "$@"
}
apt update
apt install -y --no-install-recommends "$@"

if ! id "$user" >/dev/null 2>&1; then
    echo "$user:x:$uid:" >>/etc/group
    echo "$user:x:$uid:$uid:vLLM server:/home/$user:/usr/sbin/nologin" >>/etc/passwd
fi
mkdir -p "/home/$user" /cache
chown "$uid:$uid" "/home/$user" /cache

# What only tells when it was built would make every build another image.
apt clean
rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/cache/apt/*.bin \
    /var/cache/ldconfig/aux-cache /var/cache/debconf/*-old /var/lib/dpkg/*-old \
    /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow-
find /usr /var /opt -xdev -name __pycache__ -newer "$begun" -prune -exec rm -rf {} +

# The server's user cannot write bytecode there: without it, each process of each container would compile the library
# again. Hashes instead of times, and a fixed seed, give the same bytes in every build; -B, since compileall would take
# what its own imports write for up to date.
for library in /usr/lib/python3.*; do
    python=/usr/bin/${library##*/}
    [ ! -x "$python" ] || PYTHONHASHSEED=0 "$python" -BS -m compileall -q --invalidation-mode unchecked-hash \
        -x '/(curses|dbm|dist-packages|ensurepip|idlelib|lib2to3|pydoc_data|test|tests|tkinter|turtledemo)/' "$library" ||
        echo "modules of $library stay without bytecode"
done
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp \) -prune -o \
    -newer "$begun" -exec touch -h -d "@$epoch" {} +
rm -f "$begun"
touch -d "@$epoch" /tmp
