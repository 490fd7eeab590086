# shellcheck shell=bash
# Installs missing packages from the machine's package mirror, without changing /etc/apt.

APT_HOME=$ENGINE_HOME/apt
POLICY=/usr/sbin/policy-rc.d
POLICY_MARK='# jbuild: gone again when the installation is over'
SECOND_SUITE=trixie

install_by_hand() {
    die "this machine lacks: $*. Nothing was installed, because this is not a root shell on Debian or Ubuntu." \
        "Install Docker Engine 24 or newer with buildx, QEMU user emulation for arm64 registered in binfmt_misc" \
        "(flag F) and a registry (docker-registry), or, on Debian or Ubuntu, run the same command as root."
}

can_install() {
    is_root && command -v apt-get >/dev/null && [[ $(os_field ID) =~ ^(debian|ubuntu)$ ]]
}

# Debian 12 packages an engine that is too old for the containerd image store, and it does not package buildx.
needs_second_suite() { [[ $(os_field ID) == debian && $(os_field VERSION_ID) == 12 ]]; }

# debian_sources FORMAT: prints the machine's apt sources of Debian. The package lists must be read first.
debian_sources() { apt_private indextargets --format "$1" 'Created-By: Packages' 'Origin: Debian' 'Component: main'; }

# Copies the machine's apt sources and preferences, so that the scripts can add to the copy.
copy_apt_settings() {
    rm -rf "$APT_HOME/sources" "$APT_HOME/preferences"
    mkdir -p "$APT_HOME"/{sources,preferences,lists/partial,cache/archives/partial}
    find /etc/apt/sources.list.d -maxdepth 1 \( -name '*.list' -o -name '*.sources' \) \
        -exec cp -t "$APT_HOME/sources" {} + 2>/dev/null || true
    [[ ! -e /etc/apt/sources.list ]] || cp /etc/apt/sources.list "$APT_HOME/sources/00-machine.list"
    find /etc/apt/preferences.d -maxdepth 1 -type f -exec cp -t "$APT_HOME/preferences" {} + 2>/dev/null || true
}

# Adds the second suite at a priority at which apt installs only packages that are requested from it by name.
add_second_suite() {
    local mirror
    mirror=$(debian_sources "\$(RELEASE) \$(REPO_URI)" | sed -n "s/^$(os_field VERSION_CODENAME) //p" | head -n1)
    [[ -n $mirror ]] || die "apt has no source of Debian $(os_field VERSION_CODENAME), so the mirror is unknown: fix apt's sources"
    write_file "$APT_HOME/sources/zz-jbuild.sources" <<-END
		Types: deb
		URIs: $mirror
		Suites: $SECOND_SUITE
		Components: main
		Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
	END
    write_file "$APT_HOME/preferences/zz-jbuild" <<-END
		Package: *
		Pin: release n=$SECOND_SUITE
		Pin-Priority: 100
	END
}

read_lists() {
    local log=$ENGINE_HOME/lists.log
    copy_apt_settings
    update_lists "$log"
    if needs_second_suite; then
        add_second_suite
        update_lists "$log"
    fi
}

update_lists() {
    apt_private update >"$1" 2>&1 || {
        log_tail "$1"
        die "cannot read the package lists: check the network and apt's sources"
    }
}

apt_private() {
    DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 setsid apt-get -q \
        -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$APT_HOME/sources" \
        -o Dir::Etc::preferencesparts="$APT_HOME/preferences" \
        -o Dir::State::lists="$APT_HOME/lists" -o Dir::Cache="$APT_HOME/cache" \
        -o APT::Sandbox::User=root -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@"
}

# The scripts start the daemons in the engine home; the packages would start them as system services.
forbid_autostart() {
    if [[ -e $POLICY ]] && ! grep -q "$POLICY_MARK" "$POLICY"; then return; fi
    trap 'rm -f "$POLICY"' EXIT
    printf '#!/bin/sh\n%s\nexit 101\n' "$POLICY_MARK" >"$POLICY"
    chmod 0755 "$POLICY"
}

# Packages enable their services for the next boot: a second engine would then answer before ours.
disable_services() {
    command -v systemctl >/dev/null || return 0
    systemctl disable --quiet "$@" >/dev/null 2>&1 || true
}

# with_suites PACKAGE…: in Debian 12, the engine, QEMU, the registry, oras and cosign are too old or absent.
with_suites() {
    local name
    for name in "$@"; do
        case $name in
        docker* | containerd | qemu* | oras | cosign) if needs_second_suite; then echo "$name/$SECOND_SUITE"; else echo "$name"; fi ;;
        *) echo "$name" ;;
        esac
    done
}

# install_packages PACKAGE…: runs in a subshell, so that its traps do not reach the caller.
install_packages() (
    can_install || install_by_hand "$*"
    log=$ENGINE_HOME/install.log origin="the machine's apt sources"
    mapfile -t packages < <(with_suites "$@")
    mkdir -p "$ENGINE_HOME"
    ! needs_second_suite || origin+=" plus suite $SECOND_SUITE of the same mirror at low priority, for this command only"
    say "reading the package lists of $origin"
    read_lists
    say "installing $* and their dependencies (download $(download_size "${packages[@]}")), from $origin"
    # apt-get runs in a separate session, and the script waits for it: Ctrl-C in the middle would leave packages unconfigured.
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    forbid_autostart
    apt_private install --yes --no-install-recommends "${packages[@]}" >"$log" 2>&1 ||
        { log_tail "$log"; die "cannot install the packages; see the full log: $log"; }
    rm -rf "$APT_HOME/cache"
)

download_size() {
    local size
    size=$(apt_private install --assume-no --no-install-recommends "$@" 2>&1 |
        sed -n 's/^Need to get \(.*\) of archives.*/\1/p') || true
    size=${size##*/}
    echo "${size:-of unknown size}"
}
