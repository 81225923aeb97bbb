# The minor version and the distribution are pinned; patches come with each build.
FROM python:3.13-slim-trixie AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pgqueue pgqueue
COPY migrations migrations
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim-trixie
ARG EXTRAS=asyncio,fast,metrics,web
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
RUN useradd --create-home --uid 1000 pgqueue \
    && pip install --no-cache-dir --constraint /wheels/constraints.txt "$(echo /wheels/pgqueue-*.whl)[$EXTRAS]" \
    && rm -r /wheels
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# A number, so that Kubernetes can see that it is not root.
USER 1000:1000
WORKDIR /home/pgqueue
ENTRYPOINT ["pgqueue"]
CMD ["--help"]
