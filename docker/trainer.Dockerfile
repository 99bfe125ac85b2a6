# The trainer: a job that ends, on a CPU or a GPU (by the build of torch). Same account and home as the service.
#
#   docker build -f docker/trainer.Dockerfile -t hashguard-trainer \
#       --build-arg BASE=python:3.11-slim-bookworm@sha256:... [--build-arg TORCH_INDEX=...] .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX
# Read by pip where it is given.
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all: PIP_ROOT_USER_ACTION=ignore
# From what changes least to what changes most: torch with what its build needs (CUDA's libraries, or nothing),
# the locked packages, the code.
RUN python -m venv --without-pip /opt/hashguard \
    && python -m pip --python /opt/hashguard/bin/python install \
        ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH" \
    && find /opt/hashguard/lib -regex '.*/site-packages/torch/\(bin\|include\|test\)/.*' \
        ! -name torch_shm_manager -delete
COPY requirements/trainer.lock /build/
RUN python -m pip --python /opt/hashguard/bin/python install --no-deps --require-hashes -r /build/trainer.lock \
    && /opt/hashguard/bin/python -c 'import torch'
COPY pyproject.toml README.md LICENSE /build/
COPY index /build/index
COPY model /build/model
COPY service /build/service
RUN python -m pip --python /opt/hashguard/bin/python install --no-deps --no-build-isolation /build

FROM ${BASE} AS trainer
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="hashguard-trainer" \
      org.opencontainers.image.description="Trains, judges and publishes models of hashguard" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# Number and folder are the same in the trainer's image: both write below the home folder.
RUN groupadd --gid 10001 hashguard \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin hashguard \
    && install -d -o 10001 -g 10001 -m 0750 /var/lib/hashguard /run/hashguard
COPY --from=build /opt/hashguard /opt/hashguard
ENV PATH=/opt/hashguard/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp HF_HUB_OFFLINE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HASHGUARD_HOME=/var/lib/hashguard
USER 10001:10001
WORKDIR /tmp
VOLUME ["/var/lib/hashguard"]
STOPSIGNAL SIGTERM
# A job has no port to ask; it says how it ended by its status.
HEALTHCHECK NONE
# SIGTERM leaves a checkpoint; the same command goes on from it.
ENTRYPOINT ["hashguard"]
CMD ["retrain", "--data", "/data", "--if-new-data"]
