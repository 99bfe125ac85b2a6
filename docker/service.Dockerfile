# The service on a CPU: no compiler, no training extra, an account of its own, a read-only root.
#
#   docker build -f docker/service.Dockerfile -t hashguard-service \
#       --build-arg BASE=python:3.11-slim-bookworm@sha256:... --build-arg TORCH_INDEX=... .
#
# BASE pins the base by its digest; TORCH_INDEX is the index of torch's CPU build (there is no default: the
# package index's own build for Linux wants CUDA, which a CPU image does not have).
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX
# Read by pip where it is given.
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all: PIP_ROOT_USER_ACTION=ignore
# From what changes least to what changes most: torch (without its 200 MB of C++ tests, headers and tools: nothing is
# compiled here), the locked packages, the code.
RUN python -m venv --without-pip /opt/hashguard \
    && python -m pip --python /opt/hashguard/bin/python install --no-deps \
        ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH" \
    && find /opt/hashguard/lib -regex '.*/site-packages/torch/\(bin\|include\|test\)/.*' \
        ! -name torch_shm_manager -delete
COPY requirements/service.lock /build/
RUN python -m pip --python /opt/hashguard/bin/python install --no-deps --require-hashes -r /build/service.lock
# A build of torch for another device fails here, not in front of the first client.
RUN /opt/hashguard/bin/python -c 'import torch' \
    || { echo 'torch does not load: give the index of its CPU build with --build-arg TORCH_INDEX=...'; exit 1; }
COPY pyproject.toml README.md LICENSE /build/
COPY index /build/index
COPY model /build/model
COPY service /build/service
RUN python -m pip --python /opt/hashguard/bin/python install --no-deps --no-build-isolation /build

FROM ${BASE} AS service
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="hashguard-service" \
      org.opencontainers.image.description="Image-text retrieval by short binary codes" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# Number and folder are the same in the trainer's image: both write below the home folder.
RUN groupadd --gid 10001 hashguard \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin hashguard \
    && install -d -o 10001 -g 10001 -m 0750 /var/lib/hashguard /run/hashguard
COPY --from=build /opt/hashguard /opt/hashguard
COPY docker/healthy.py docker/prepare.sh docker/secrets.sh /opt/hashguard/docker/
ENV PATH=/opt/hashguard/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp HF_HUB_OFFLINE=1 \
    HASHGUARD_HOME=/var/lib/hashguard HASHGUARD_HOST=0.0.0.0 HASHGUARD_PORT=8000
USER 10001:10001
WORKDIR /tmp
VOLUME ["/var/lib/hashguard"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "/opt/hashguard/docker/healthy.py"]
# Exec form: the process is number 1 and hears SIGTERM itself, drains, and ends with status 0.
ENTRYPOINT ["hashguard"]
CMD ["serve"]
