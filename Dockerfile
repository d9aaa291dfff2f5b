# The image of all three services: docs/images.md. Built by docker, podman or buildah; `make test-images` builds and runs it.
# Both stages are made on one base, which needs Python >= 3.11 and pip, and must have no compiler.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY deploy/image/build.lock deploy/image/keypost.lock ./
# Where packages come from, if not from where pip looks by itself: --secret id=pip,src=pip.conf.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    for environment in tools /opt/keypost; do python3 -m venv --without-pip "$environment" || exit 1; done \
    && install() { python3 -m pip --python "$1/bin/python" install --quiet --require-hashes --only-binary :all: --no-deps --requirement "$2"; } \
    && install tools build.lock \
    && install /opt/keypost keypost.lock
COPY pyproject.toml hatch_build.py README.md LICENSE* NOTICE ./
COPY protos protos
COPY services services
COPY clients/python clients/python
RUN PATH="/build/tools/bin:$PATH" tools/bin/python -m hatchling build --target wheel --directory wheel \
    && python3 -m pip --python /opt/keypost/bin/python install --quiet --no-index --no-deps wheel/*.whl
# Programs of libraries, and Keypost's own for people's machines: what those need is not in here.
RUN find /opt/keypost/bin -type f ! -name keypost-ca ! -name keypost-directory ! -name keypost-delivery -delete \
    && mkdir /opt/keypost/share \
    && tools/bin/cyclonedx-py environment --output-reproducible --spec-version 1.6 --pyproject pyproject.toml \
       --output-file /opt/keypost/share/sbom.cdx.json /opt/keypost/bin/python

FROM ${BASE_IMAGE}
ARG BASE_IMAGE
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Keypost" \
      org.opencontainers.image.description="End-to-end encrypted messaging that a backend team runs itself: CA, directory and delivery" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
RUN --mount=type=bind,source=deploy/image/strip.sh,target=/tmp/strip.sh sh /tmp/strip.sh
COPY --from=builder /opt/keypost /opt/keypost
ENV PATH="/opt/keypost/bin:${PATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
STOPSIGNAL SIGTERM
# A service is a command: keypost-ca serve, keypost-directory serve, keypost-delivery serve.
CMD ["keypost-ca", "--help"]
