# docker build -t policy-engine:latest . builds the engine, the last stage; --target policyctl the operator's tool, --target loadtest the load test's upstream.
# The base images, and how Go finds modules, are arguments, for networks without Docker's registry or Go's proxy, and to pin
# the images by digest (docs/operations.md, Container): BASE_IMAGE=alpine:3.22@sha256:…
ARG GO_IMAGE=golang:1.26-alpine
ARG BASE_IMAGE=alpine:3.22

FROM ${GO_IMAGE} AS build
ARG GOPROXY
ARG GOSUMDB
ARG GOFLAGS=
ENV CGO_ENABLED=0 GOTOOLCHAIN=local
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/ ./cmd/... && \
    go build -trimpath -ldflags "-s -w" -o /out-loadtest/ ./loadtest

# The upstream of the load test.
FROM ${BASE_IMAGE} AS loadtest
COPY --from=build /out-loadtest/loadtest /usr/local/bin/loadtest
USER 1000:1000
ENTRYPOINT ["/usr/local/bin/loadtest"]

# The operator's tool.
FROM ${BASE_IMAGE} AS policyctl
COPY --from=build /out/policyctl /usr/local/bin/policyctl
USER 1000:1000
ENTRYPOINT ["/usr/local/bin/policyctl"]

# Kernel and workers under supervisord. Of ours it has what SPEC 2.3 names, and what supervises it: supervisord.conf and supervise.py. The user is written down by hand because
# Alpine and Debian have different programs for that; nothing in the image keeps the right to become root.
FROM ${BASE_IMAGE} AS engine
RUN if ! command -v supervisord >/dev/null; then \
      if command -v apk >/dev/null; then apk add --no-cache supervisor; \
      else apt-get update && apt-get install -y --no-install-recommends supervisor && rm -rf /var/lib/apt/lists/*; fi; \
    fi && \
    echo 'policy-engine:x:1000:' >>/etc/group && \
    echo 'policy-engine:x:1000:1000:Policy Engine:/nonexistent:/sbin/nologin' >>/etc/passwd && \
    install -d -m 755 /etc/policy-engine /usr/local/bin /usr/local/lib/policy-engine && \
    install -d -o 1000 -g 1000 -m 700 /var/run/policy-engine /var/run/policy-engine/workers /var/log/policy-engine && \
    find / -xdev -type f \( -perm -4000 -o -perm -2000 \) -exec chmod a-s {} +
COPY deploy/container/supervise.py /usr/local/lib/policy-engine/supervise.py
COPY supervisord.conf /etc/supervisord.conf
COPY deploy/container/kernel-config.yaml deploy/container/worker-config-1.yaml deploy/container/worker-config-2.yaml /etc/policy-engine/
COPY --from=build /out/policy-kernel /out/policy-worker-1 /out/policy-worker-2 /usr/local/bin/
# What supervisord.conf needs, and where the health check asks.
ENV POLICY_ENGINE_BIN_DIR=/usr/local/bin \
    POLICY_ENGINE_ETC_DIR=/etc/policy-engine \
    POLICY_ENGINE_RUN_DIR=/var/run/policy-engine \
    POLICY_ENGINE_LOG_DIR=/var/log/policy-engine \
    POLICY_ENGINE_WORKER_2=false \
    POLICY_ENGINE_INCLUDE=/etc/policy-engine/supervisord.d/*.conf \
    POLICY_ENGINE_PORT=9001 \
    POLICY_ENGINE_ADMIN_PORT=9090 \
    PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
EXPOSE 9001 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=15s --retries=3 CMD /usr/local/bin/policy-kernel --healthy "127.0.0.1:${POLICY_ENGINE_ADMIN_PORT}"
ENTRYPOINT ["/usr/bin/python3", "/usr/local/lib/policy-engine/supervise.py", "--configuration", "/etc/supervisord.conf"]
