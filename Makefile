# Go, gcc, Python 3 with venv, curl and make are all that the machine needs; everything else is fetched, pinned, into build/.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# Per fuzz target of `make test`; 0 runs the seeds only.
FUZZTIME ?= 5s
# Of the benchmarks: which, and for how long each.
BENCH ?= .
BENCHTIME ?= 1s

tools := build/tools
generators := $(addprefix $(tools)/,buf protoc-gen-go protoc-gen-go-grpc protoc-gen-go-vtproto)

need = command -v $(1) >/dev/null || { echo "make: $(1) is missing; install it with: $(2)" >&2; exit 1; }

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build all programs into bin/
	@$(call need,go,the archive of Go 1.26 from https://go.dev/dl/)
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/... ./deploy/demo/upstream

.PHONY: run
run: build ## Run the demo in the foreground: Envoy on http://localhost:10000, upstream, kernel, two workers
	@exec deploy/demo/run.sh

.PHONY: smoke
smoke: build ## Run the demo on free ports, and the README's commands against it
	@go build -o build/smoke ./test/smoke && exec build/smoke

.PHONY: test
test: build $(tools)/testrun ## Run all tests with the race detector, and each fuzz target for FUZZTIME
	@$(call need,gcc,sudo apt-get install -y gcc libc6-dev)
	@ENVOY=$$(tools/fetch.sh envoy) && export ENVOY && CGO_ENABLED=1 $(tools)/testrun -p 2 -timeout 10m -fuzztime $(FUZZTIME) \
		-again 'POLICY_ENGINE_TRANSPORT=grpc ./kernel ./kernel/transport ./kernel/workers ./engine ./test/e2e ./test/conformance' -again 'POLICY_ENGINE_FORM=one ./test/e2e' ./...

.PHONY: conformance
conformance: ## Play the table of scenarios against the real Envoy, on both transports; print it, and write build/reports/conformance.json (ONLY=part of a name)
	@ENVOY=$$(tools/fetch.sh envoy) && export ENVOY && go test -c -o build/conformance ./test/conformance && cd test/conformance && \
		exec ../../build/conformance -test.run 'TestTable|TestConformance' -transports fast,grpc -table -only '$(ONLY)' -report ../../build/reports/conformance.json

.PHONY: faults
faults: ## Break the engine in every way that operators meet, under load; print a table, and write build/reports/faults.json: RATE=1000 STAGES=pair,single,wired,kernels,hostile,bursts ONLY=part of a name
	@ENVOY=$$(tools/fetch.sh envoy) && export ENVOY && go build -o build/faults ./test/faults && \
		exec build/faults -report build/reports/faults.json $(if $(RATE),-rate $(RATE)) $(if $(STAGES),-stages $(STAGES)) -only '$(ONLY)' $(if $(TRANSPORT),-transport $(TRANSPORT))

.PHONY: soak
soak: ## Keep the engine under load with reloads and restarts, and look for leaks: DURATION=10m RATE=500 MEMORY=150 (MiB, of a kernel and two workers); writes build/reports/soak.json and a page
	@ENVOY=$$(tools/fetch.sh envoy) && export ENVOY && go build -o build/soak ./test/soak && \
		exec build/soak -report build/reports/soak.json $(if $(DURATION),-duration $(DURATION)) $(if $(RATE),-rate $(RATE)) $(if $(MEMORY),-memory $(MEMORY)) $(if $(TRANSPORT),-transport $(TRANSPORT))

.PHONY: large
large: ## Send and get 1 GiB (MIB=1024) through policies that read, and that edit, streams; prints the memory of kernel and workers over time
	@ENVOY=$$(tools/fetch.sh envoy) && export ENVOY && POLICY_ENGINE_TRANSFER_MIB=$(or $(MIB),1024) go test ./test/e2e -run '^TestLargeTransfers$$' -count 1 -timeout 30m -v

.PHONY: bench
bench: $(tools)/bench ## Run all benchmarks, for BENCHTIME each (of BENCH, a pattern, and PKG, if given); fails when one allocates more than bench/allocations.txt says
	@$(tools)/bench run -bench '$(BENCH)' -benchtime $(BENCHTIME) -count $(or $(COUNT),1) $(PKG)

.PHONY: bench-rewrite
bench-rewrite: $(tools)/bench ## Run all benchmarks and write what they allocate into bench/allocations.txt
	@$(tools)/bench run -bench '$(BENCH)' -benchtime $(BENCHTIME) -count $(or $(COUNT),3) -rewrite $(PKG)

.PHONY: bench-compare
bench-compare: $(tools)/bench $(tools)/benchstat ## Compare the benchmarks of the revision BASE with those of this tree, COUNT times by turns, with benchstat
	@[[ -n "$(BASE)" ]] || { echo "make bench-compare: BASE is missing; it is the revision to compare with: make bench-compare BASE=main" >&2; exit 2; }
	@$(tools)/bench compare -base '$(BASE)' -bench '$(BENCH)' -benchtime $(BENCHTIME) -count $(or $(COUNT),6) $(PKG)

.PHONY: h2spec
h2spec: ## Run h2spec, all of its 145 tests of HTTP/2, against the kernel's server
	@tools/h2spec.sh

.PHONY: build-bench
build-bench: build
	@CGO_ENABLED=0 go build -trimpath -o build/bench/ ./bench/noop-fast ./bench/noop-grpc ./bench/noop-grpc-plain ./bench/span-sink ./loadtest ./loadtest/partworker ./loadtest/profiledkernel

# What is measured, for loadtest and profile.
measured = $(if $(DURATION),-duration $(DURATION)) $(if $(CHAIN),-chain "$(CHAIN)") $(if $(ROUTES),-routes $(ROUTES)) \
	$(if $(WORKERS),-workers $(WORKERS)) $(if $(FORM),-form $(FORM)) $(if $(TRANSPORT),-transport $(TRANSPORT))

.PHONY: loadtest
loadtest: build-bench $(if $(filter compose,$(TARGET)),compose) ## Hold a rate of requests: RATE=10000 DURATION=60s CHAIN=a,b ROUTES=1 WORKERS=1|2 FORM=two|one TRANSPORT=fast|grpc TARGET=local|compose
	@ENVOY=$(if $(filter compose,$(TARGET)),none,$$(tools/fetch.sh envoy)) && export ENVOY && exec build/bench/loadtest attack \
		$(if $(RATE),-rate $(RATE)) $(if $(TARGET),-target $(TARGET)) $(measured)

.PHONY: burst
burst: build-bench ## Send SIZES=1000,3000,9000,20000 requests at once (or RATE per second), have the upstream answer all at once, and count what is lost and by whom: FORMS=two,one TRANSPORT=fast|grpc; build/reports/burst.json and burst.txt
	@ENVOY=$$(tools/fetch.sh envoy) && export ENVOY && exec build/bench/loadtest burst \
		$(if $(SIZES),-sizes $(SIZES)) $(if $(FORMS),-forms $(FORMS)) $(if $(TRANSPORT),-transport $(TRANSPORT)) $(if $(RATE),-rate $(RATE))

.PHONY: reload-load
reload-load: build-bench ## Change every route again and again under a constant rate: ROUTES=10000 RATE=5000 DURATION=30s RELOADS=6 TARGET=kernel|envoy (and WORKERS, FORM, TRANSPORT as loadtest); fails on a failed request
	@$(if $(filter envoy,$(TARGET)),ENVOY=$$(tools/fetch.sh envoy) && export ENVOY && )exec build/bench/loadtest reload \
		$(if $(RATE),-rate $(RATE)) $(if $(RELOADS),-reloads $(RELOADS)) $(if $(TARGET),-target $(TARGET)) $(measured)

# The program that makes images.
container_engine = $(firstword $(foreach e,docker podman,$(shell $(e) info >/dev/null 2>&1 && echo $(e))))

.PHONY: image
image: ## Build the container image policy-engine:latest with Docker or Podman (IMAGE=name:tag; GO_IMAGE, BASE_IMAGE, GOPROXY as in the Dockerfile)
	@[[ -n "$(container_engine)" ]] || { echo "make: there is no container engine that works; install Docker (https://docs.docker.com/engine/install/), or Podman with: sudo apt-get install -y podman" >&2; exit 1; }
	@$(container_engine) build $(if $(filter podman,$(container_engine)),--format docker --isolation chroot) --build-arg VERSION=$(VERSION) $(foreach a,GO_IMAGE BASE_IMAGE GOPROXY GOSUMDB GOFLAGS,$(if $($(a)),--build-arg $(a)=$($(a)))) -t $(or $(IMAGE),policy-engine:latest) .

.PHONY: container-test
container-test: build ## Build the image and run it under every restriction, with the real Envoy outside, while programs are killed and memory runs out; build/reports/container.json
	@ENVOY=$$(tools/fetch.sh envoy) && export ENVOY && go build -o build/container-test ./test/container && exec build/container-test

.PHONY: compose
compose: build-bench ## Start Envoy, the engine, Redis, Prometheus and Grafana in containers (docker-compose.yaml)
	@docker compose version >/dev/null 2>&1 || { echo "make: docker compose is missing; install Docker with its compose plugin: https://docs.docker.com/engine/install/" >&2; exit 1; }
	@build/bench/loadtest credentials && docker compose up --detach --build --wait

.PHONY: profile
profile: build-bench ## Take CPU, heap and contention profiles under load, and print their top entries: as loadtest, without RATE
	@ENVOY=$$(tools/fetch.sh envoy) && export ENVOY && exec build/bench/loadtest profile $(measured)

.PHONY: compare
compare: build-bench ## Measure the engine against what else Envoy can do, and bodies in chunks: ROWS=a,b ROUNDS=3 SECONDS_PER_ROW=4 TURNS=100
	@ENVOY=$$(tools/fetch.sh envoy) && export ENVOY && build/bench/loadtest compare \
		-rows "$(ROWS)" $(if $(ROUNDS),-rounds $(ROUNDS)) $(if $(SECONDS_PER_ROW),-duration $(SECONDS_PER_ROW)s) $(if $(CONNECTIONS),-connections $(CONNECTIONS)) $(if $(TURNS),-turns $(TURNS)) -connections-table=$(or $(TABLE),$(if $(ROWS),false,true))
	@$(if $(ROWS),,$(MAKE) --no-print-directory compare-streams CONNECTIONS=4)

.PHONY: compare-streams
compare-streams: build-bench ## Measure bodies that pass a policy in chunks against a server that does nothing: ROUNDS=3 SECONDS_PER_ROW=4 CONNECTIONS=4 ONLY=part of a row's name
	@CGO_ENABLED=0 go build -trimpath -o build/bench/ ./loadtest/streams ./test/e2e/testworker
	@ENVOY=$$(tools/fetch.sh envoy) && export ENVOY && exec build/bench/streams \
		$(if $(ROUNDS),-rounds $(ROUNDS)) $(if $(SECONDS_PER_ROW),-duration $(SECONDS_PER_ROW)s) $(if $(CONNECTIONS),-connections $(CONNECTIONS)) -only '$(ONLY)'

.PHONY: generate
generate: $(generators) ## Generate api/**/*.pb.go, and the JSON schemas and the page of the configuration
	tools/generate.sh .

.PHONY: check
check: $(generators) $(tools)/gofumpt $(tools)/staticcheck $(tools)/govulncheck ## Check format, static analysis, import rules, generated code, modules, vulnerabilities
	@tools/check.sh

.PHONY: clean
clean: ## Remove what was built and fetched
	rm -rf bin build

# Tools are pinned in tools/go.mod and built once per version of it.
$(tools)/buf: package := github.com/bufbuild/buf/cmd/buf
$(tools)/protoc-gen-go: package := google.golang.org/protobuf/cmd/protoc-gen-go
$(tools)/protoc-gen-go-grpc: package := google.golang.org/grpc/cmd/protoc-gen-go-grpc
$(tools)/protoc-gen-go-vtproto: package := github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto
$(tools)/gofumpt: package := mvdan.cc/gofumpt
$(tools)/staticcheck: package := honnef.co/go/tools/cmd/staticcheck
$(tools)/govulncheck: package := golang.org/x/vuln/cmd/govulncheck
$(tools)/benchstat: package := golang.org/x/perf/cmd/benchstat
$(tools)/bench: package := ./bench
$(tools)/bench: $(wildcard tools/bench/*.go)
$(tools)/testrun: package := ./testrun
$(tools)/testrun: tools/testrun/main.go

$(generators) $(addprefix $(tools)/,gofumpt staticcheck govulncheck benchstat bench testrun): tools/go.mod tools/go.sum
	cd tools && go build -o ../$@ $(package)
