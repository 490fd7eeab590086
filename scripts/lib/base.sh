# shellcheck shell=bash
# Builds a Debian root file system from the machine's package mirror. It stands in for a base image that cannot be pulled.

# A fixed timestamp for every file, so that the same packages give the same layer.
BASE_EPOCH=1735689600

base_sources() {
    local suite=$1 mirror=$2
    if [[ -n $mirror ]]; then
        echo "deb $mirror $suite main"
        return
    fi
    [[ -n $(find "$APT_HOME/lists" -name '*_Packages*' -print -quit 2>/dev/null) ]] || read_lists
    debian_sources "deb \$(REPO_URI) \$(RELEASE) main" |
        awk -v suite="$suite" '$3 == suite || index($3, suite "-") == 1' | sort -u
}

base_reference() {
    case $1 in
    arm64) echo "$REGISTRY/stand-in/debian:$2-slim" ;;
    *) echo "$REGISTRY/stand-in/debian-$1:$2-slim" ;;
    esac
}

in_registry() {
    local name=${1#*/} accept='application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json'
    [[ $1 == "$REGISTRY/"* && $(http_status "${REGISTRY##*:}" "/v2/${name%:*}/manifests/${name##*:}" "$accept") == 200 ]]
}

base_packages() {
    command -v mmdebstrap >/dev/null || echo mmdebstrap
    command -v arch-test >/dev/null || echo arch-test
    emulation_packages "$1"
}

# A merged /usr from the start avoids the conversion, its packages and their execution under QEMU.
make_rootfs() {
    local arch=$1 suite=$2 sources=$3 target=$4
    SOURCE_DATE_EPOCH=$BASE_EPOCH mmdebstrap --arch="$arch" --variant=minbase --format=tar \
        --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include=usr-is-merged \
        --extract-hook="$here/lib/before-installation" \
        --customize-hook="rm -f \"\$1/etc/hostname\" \"\$1/etc/resolv.conf\"" \
        "$suite" "$target" - <<<"$sources"
}

# The image is built, not imported: an import records the current time and so changes the digest on every run.
image_from_rootfs() {
    local arch=$1 reference=$2 folder=$3
    printf 'FROM scratch\nADD rootfs.tar /\nCMD ["bash"]\n' >"$folder/Dockerfile"
    SOURCE_DATE_EPOCH=$BASE_EPOCH docker buildx build --platform "linux/$arch" --provenance=false \
        --load --tag "$reference" "$folder"
    docker push "$reference"
}

make_base() {
    local arch=$1 suite=$2 reference=$3 sources=$4 work log=$ENGINE_HOME/base-$1-$2.log
    work=$(mktemp -d "$ENGINE_HOME/base.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    say "building $reference from Debian $suite packages with mmdebstrap (log: $log)"
    { make_rootfs "$arch" "$suite" "$sources" "$work/rootfs.tar" && image_from_rootfs "$arch" "$reference" "$work"; } \
        >"$log" 2>&1 || { log_tail "$log"; die "cannot build the base image $reference"; }
    say "$reference pushed ($SECONDS s)"
}
