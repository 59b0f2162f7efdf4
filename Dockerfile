# syntax=docker/dockerfile:1
# The image of every role: `docker run IMAGE serve --role ingest`. Settings come from the environment (docs/settings.md).

FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m venv /opt/data-manager \
 && /opt/data-manager/bin/pip install --no-cache-dir '.[mongodb,mysql]'

FROM python:3.11-slim
RUN useradd --uid 1000 --user-group --no-create-home --home-dir /data petrosa \
 && install -d -o petrosa -g petrosa /data
COPY --from=build /opt/data-manager /opt/data-manager
ENV PATH=/opt/data-manager/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DATA_DIR=/data \
    API_HOST=0.0.0.0 \
    METRICS_HOST=0.0.0.0
USER 1000:1000
WORKDIR /data
VOLUME /data
EXPOSE 8000 9090
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ.get(\"API_PORT\", \"8000\")}/health/liveness', timeout=4)"]
ENTRYPOINT ["data-manager"]
CMD ["serve"]
