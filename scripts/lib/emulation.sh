# shellcheck shell=bash
# QEMU user emulation: programs of another architecture run through the kernel's binfmt_misc.

BINFMT=/proc/sys/fs/binfmt_misc

qemu_name() {
    case $1 in
    arm64) echo aarch64 ;;
    amd64) echo x86_64 ;;
    *) die "unknown architecture $1: arm64 or amd64" ;;
    esac
}

is_native() { [[ $(uname -m) == "$(qemu_name "$1")" ]]; }

# Flag F keeps the interpreter open, so that it is found inside a container too.
emulates() {
    local entry
    is_native "$1" && return
    entry=$(cat "$BINFMT/qemu-$(qemu_name "$1")" 2>/dev/null) || return 1
    [[ $entry == enabled* ]] && grep -q '^flags:.*F' <<<"$entry"
}

emulation_packages() {
    emulates "$1" || [[ -e $(binfmt_file "$1") ]] || echo qemu-user-static qemu-user-binfmt qemu-user
}

binfmt_file() { echo "/usr/lib/binfmt.d/qemu-$(qemu_name "$1").conf"; }

register_emulation() {
    local arch=$1 conf
    emulates "$arch" && return
    is_root || install_by_hand "emulation of $arch"
    conf=$(binfmt_file "$arch")
    [[ -e $BINFMT/register ]] || mount -t binfmt_misc binfmt_misc "$BINFMT" ||
        die "this kernel has no binfmt_misc: programs of $arch cannot run here"
    ! emulates "$arch" || return 0
    # Registered without F, by whoever: leave it and say what to do.
    [[ ! -e $BINFMT/qemu-$(qemu_name "$arch") ]] ||
        die "$arch is registered in binfmt_misc without flag F (or disabled): containers will not find QEMU there. Remove it with: echo -1 > $BINFMT/qemu-$(qemu_name "$arch")"
    [[ -e $conf ]] || die "$conf is missing: install qemu-user-static"
    cat "$conf" >"$BINFMT/register"
    emulates "$arch" || die "registering $conf did not take"
    say "programs of $arch run through QEMU (binfmt_misc)"
}
