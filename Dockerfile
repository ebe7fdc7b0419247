# Images of the engine, of its load test, and nothing else: docker compose up builds them (docker-compose.yaml).
ARG GO_IMAGE=golang:1.26-alpine
ARG BASE_IMAGE=alpine:3.22

FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/ ./cmd/... && \
    CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /out-loadtest/ ./loadtest

# The upstream of the load test.
FROM ${BASE_IMAGE} AS loadtest
RUN adduser -D -u 1000 loadtest
COPY --from=build /out-loadtest/loadtest /usr/local/bin/loadtest
USER 1000
ENTRYPOINT ["/usr/local/bin/loadtest"]

# Kernel and workers under supervisord; what supervisord.conf needs of the environment is here.
FROM ${BASE_IMAGE} AS engine
RUN apk add --no-cache supervisor && \
    adduser -D -u 1000 policy && \
    install -d -o policy -m 700 /var/run/policy-engine /var/run/policy-engine/workers /var/log/policy-engine && \
    install -d /etc/policy-engine/supervisord.d
COPY --from=build /out/ /usr/local/bin/
COPY supervisord.conf /etc/supervisord.conf
ENV POLICY_ENGINE_BIN_DIR=/usr/local/bin \
    POLICY_ENGINE_ETC_DIR=/etc/policy-engine \
    POLICY_ENGINE_RUN_DIR=/var/run/policy-engine \
    POLICY_ENGINE_LOG_DIR=/var/log/policy-engine \
    POLICY_ENGINE_WORKER_2=false \
    POLICY_ENGINE_INCLUDE=/etc/policy-engine/supervisord.d/*.conf
USER 1000
EXPOSE 9001 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=2s --timeout=2s --start-period=10s CMD ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:9090/health/ready"]
ENTRYPOINT ["/usr/bin/supervisord", "--configuration", "/etc/supervisord.conf"]
