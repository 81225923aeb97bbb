FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pgqueue pgqueue
COPY migrations migrations
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
ARG EXTRAS=asyncio,fast
ENV PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 pgqueue
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
RUN pip install --no-cache-dir --constraint /wheels/constraints.txt "$(echo /wheels/pgqueue-*.whl)[$EXTRAS]"
USER pgqueue
WORKDIR /home/pgqueue
ENTRYPOINT ["pgqueue"]
CMD ["--help"]
