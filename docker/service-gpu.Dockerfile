# The service on an NVIDIA GPU: torch's CUDA build and faiss-gpu. As docker/service.Dockerfile otherwise.
#
#   docker build -f docker/service-gpu.Dockerfile -t hashguard-service-gpu \
#       --build-arg BASE=python:3.11-slim-bookworm@sha256:... .
#
# CUDA's libraries come as wheels with torch and faiss-gpu, the driver with NVIDIA's container toolkit, so that a
# plain Python base will do. TORCH_INDEX: when the package index's own build is for another CUDA.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX
# Read by pip where it is given.
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all: PIP_ROOT_USER_ACTION=ignore
# From what changes least to what changes most: torch with CUDA's libraries, whose versions it pins itself; the
# locked packages, which replace what torch brought along; the code.
RUN python -m venv --without-pip /opt/hashguard \
    && python -m pip --python /opt/hashguard/bin/python install \
        ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH" \
    && find /opt/hashguard/lib -regex '.*/site-packages/torch/\(bin\|include\|test\)/.*' \
        ! -name torch_shm_manager -delete
COPY requirements/service-gpu.lock /build/
RUN python -m pip --python /opt/hashguard/bin/python install --no-deps --require-hashes -r /build/service-gpu.lock
# A build of torch without CUDA fails here, not in front of the first client; Faiss is loaded with it.
RUN /opt/hashguard/bin/python -c 'import sys, torch, faiss; sys.exit(torch.version.cuda is None)' \
    || { echo 'wanted a CUDA build of torch: give its index with --build-arg TORCH_INDEX=...'; exit 1; }
COPY pyproject.toml README.md LICENSE /build/
COPY index /build/index
COPY model /build/model
COPY service /build/service
RUN python -m pip --python /opt/hashguard/bin/python install --no-deps --no-build-isolation /build

FROM ${BASE} AS service-gpu
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="hashguard-service-gpu" \
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
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HASHGUARD_HOME=/var/lib/hashguard HASHGUARD_HOST=0.0.0.0 HASHGUARD_PORT=8000
USER 10001:10001
WORKDIR /tmp
VOLUME ["/var/lib/hashguard"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "/opt/hashguard/docker/healthy.py"]
# Exec form: the process is number 1 and hears SIGTERM itself, drains, and ends with status 0.
ENTRYPOINT ["hashguard"]
CMD ["serve"]
