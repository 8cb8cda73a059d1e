# One image for worker, dispatcher and trainer. Not the demo: that brings its own servers.
FROM python:3.13.14-slim-trixie AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /src
# The packages first: they change less often than the code.
COPY requirements-run.lock ./
RUN uv venv /opt/segstream \
 && VIRTUAL_ENV=/opt/segstream uv pip install --no-cache --require-hashes -r requirements-run.lock
COPY pyproject.toml README.md LICENSE ./
COPY segmentation segmentation
COPY stream stream
COPY trainer trainer
RUN VIRTUAL_ENV=/opt/segstream uv pip install --no-cache --no-deps .

FROM python:3.13.14-slim-trixie
RUN useradd --uid 10001 --create-home segstream
COPY --from=build /opt/segstream /opt/segstream
ENV PATH=/opt/segstream/bin:$PATH \
    PYTHONUNBUFFERED=1
# By number, so that a cluster can see that it is not root.
USER 10001
WORKDIR /home/segstream
# A worker finishes its turns and leaves the group on SIGTERM.
STOPSIGNAL SIGTERM
CMD ["segstream", "worker"]
