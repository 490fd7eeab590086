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
if ! @STREAM@ | "$docker" load >/dev/null; then
    # containerd names an image before it has checked all layers.
    "$docker" image rm "$name" >/dev/null 2>&1 || :
    echo "error: $docker could not load the image@MISSING@" >&2
    exit 7
fi
# Engines with containerd's store load the evidence too, as images without a name.
for digest in @EVIDENCE@; do
    "$docker" image rm "$digest" >/dev/null 2>&1 || :
done
cat <<END
loaded $name; start it with

    $docker run --rm --name vllm@RUN@ $name
@OTHERWISE@
END
