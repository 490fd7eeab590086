# shellcheck shell=bash
# QEMU user emulation: the kernel's binfmt_misc runs programs of another architecture.

BINFMT=/proc/sys/fs/binfmt_misc

qemu_name() {
    case $1 in
    arm64) echo aarch64 ;;
    amd64) echo x86_64 ;;
    *) die "unknown architecture $1: arm64 or amd64" ;;
    esac
}

is_native() { [[ $(uname -m) == "$(qemu_name "$1")" ]]; }

# Flag F keeps the interpreter open, so that containers can use it too.
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
        die "this kernel does not support binfmt_misc: it cannot run programs of $arch"
    ! emulates "$arch" || return 0
    # Another program registered the architecture without flag F: keep the registration and print the command to remove it.
    [[ ! -e $BINFMT/qemu-$(qemu_name "$arch") ]] ||
        die "$arch is registered in binfmt_misc without flag F (or disabled): containers cannot use QEMU. Remove the registration with: echo -1 > $BINFMT/qemu-$(qemu_name "$arch")"
    [[ -e $conf ]] || die "$conf is missing: install qemu-user-static"
    cat "$conf" >"$BINFMT/register"
    emulates "$arch" || die "the kernel does not use the registration in $conf"
    say "programs of $arch run through QEMU (binfmt_misc)"
}
