#!/bin/sh
# Checks of the container files with tools from outside; `make check-containers` calls it.
#
#   docker/check.sh lint     hadolint, docker-compose config for every profile, kubernetes-validate, promtool
#   docker/check.sh build    the Dockerfiles with buildah, without a container engine, and the images' sizes
#
# A tool that is not there is named, and the status is 1: a check that was not made has not passed. For `build`,
# BASE, TORCH_INDEX and PIP_INDEX_URL are passed on as build arguments when they are set, and BUILDAH_OPTIONS as it is.
set -u
cd "$(dirname "$0")/.." || exit 2
failed=0

# run TOOL ARGUMENTS...: remembers a failure, and says which tool is missing.
run() {
    if ! command -v "$1" >/dev/null 2>&1; then
        echo "NOT CHECKED: there is no $1" >&2
        failed=1
        return 1
    fi
    echo "+ $*"
    "$@" || failed=1
}

lint() {
    run hadolint docker/*.Dockerfile
    run docker-compose --file docker-compose.yml config --quiet
    for profile in train gpu scale; do
        run docker-compose --file docker-compose.yml --profile "$profile" config --quiet
    done
    for manifest in docker/kubernetes/*.yaml; do run kubernetes-validate --strict "$manifest"; done
    run promtool check config docker/prometheus/prometheus.yml
}

build() {
    set --
    for name in BASE TORCH_INDEX PIP_INDEX_URL; do
        eval "value=\${$name:-}"
        [ -z "$value" ] || set -- "$@" --build-arg "$name=$value"
    done
    for image in ${IMAGES:-service trainer}; do
        # shellcheck disable=SC2086 # several options in one variable
        run buildah --storage-driver vfs build --isolation chroot --format docker ${BUILDAH_OPTIONS:-} "$@" \
            --file "docker/$image.Dockerfile" --tag "hashguard-$image:check" . || continue
        run buildah --storage-driver vfs images --format '{{.Name}} {{.Size}}' "hashguard-$image:check"
    done
}

case ${1:-lint} in
    lint) lint ;;
    build) build ;;
    *)
        echo "wanted lint or build, got $1" >&2
        exit 2
        ;;
esac
exit "$failed"
