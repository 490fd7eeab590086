#!/bin/sh
# Verifies this bundle, loads its image into Docker, and prints how to start it. Needs sh, sha256sum, tar and docker.
# DOCKER=podman loads it into podman.
set -eu

name='@NAME@'
docker=${DOCKER:-docker}
cd -- "$(dirname -- "$0")"

if ! report=$(sha256sum -c SHA256SUMS 2>&1); then
    printf '%s\n' "$report" | grep -v ': OK$' >&2 || :
    echo "error: the bundle is damaged: copy the files above again, then run this script again" >&2
    exit 6
fi
if ! "$docker" info >/dev/null 2>&1; then
    echo "error: $docker reaches no engine; DOCKER_HOST names another one" >&2
    exit 7
fi
# containerd gives the name away before it has checked all layers: an image that has it keeps a second one until then.
earlier=
if "$docker" tag "$name" "jbuild/earlier:$$" 2>/dev/null; then earlier=jbuild/earlier:$$; fi
put_back() {
    "$docker" image rm "$name" >/dev/null 2>&1 || :
    if [ -n "$earlier" ]; then
        "$docker" tag "$earlier" "$name"
        "$docker" image rm "$earlier" >/dev/null
    fi
}
trap 'put_back; exit 130' HUP INT TERM
if ! @STREAM@ | "$docker" load >/dev/null; then
    put_back
    echo "error: $docker could not load the image@MISSING@" >&2
    exit 7
fi
trap - HUP INT TERM
if [ -n "$earlier" ]; then "$docker" image rm "$earlier" >/dev/null; fi
# Engines with containerd's store load the evidence too, as images without a name.
for digest in @EVIDENCE@; do
    "$docker" image rm "$digest" >/dev/null 2>&1 || :
done
cat <<END
loaded $name; start it with

    $docker run --rm --name vllm@RUN@ $name
@OTHERWISE@
END
