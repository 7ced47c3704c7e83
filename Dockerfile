# One image for the operator and the gateways: the wheel in a virtual environment, no pip, no root.
# docker build -t registry.example/motley:0.1.0 .
ARG PYTHON=python:3.12.11-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
COPY planner planner
COPY runtime runtime
RUN python -m pip wheel --no-deps --no-cache-dir --wheel-dir /dist .
RUN python -m venv --without-pip /opt/motley
RUN python -m pip --python /opt/motley/bin/python install --no-cache-dir --compile "$(echo /dist/*.whl)[otel]"

FROM ${PYTHON}
ARG PYTHON
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="motley" \
      org.opencontainers.image.description="Operator and gateway of Motley: one plan for every model on every GPU of a cluster" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/${PYTHON}"
RUN python -m pip uninstall --yes --root-user-action=ignore pip
COPY --from=build /opt/motley /opt/motley
COPY LICENSE /usr/share/doc/motley/LICENSE
# Nothing is written but to /tmp, and only where something is mounted there.
ENV PATH=/opt/motley/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 65532:65532
EXPOSE 8000 8081 9090
ENTRYPOINT ["motley"]
CMD ["--help"]
