# weir: every task a developer or CI needs. `make help` lists them.
GO      ?= go
BIN     := bin
LDFLAGS := -s -w -X main.version=$(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# HTTP here is the operator's listener, without TLS, and short requests to registries and sinks: HTTP/2 is half a megabyte that none of them needs.
TAGS    := nethttpomithttp2
# Libraries of admin clients, groups, metadata, configuration, logs and the console are not on the way of a record, or on that to an MQTT broker only: without inlining they take
# over a megabyte and a half less of a board's flash.
SLIM    := github.com/twmb/franz-go/... github.com/miekg/dns github.com/alecthomas/kong github.com/hashicorp/... github.com/goccy/... github.com/expr-lang/... go.etcd.io/bbolt/... \
           github.com/eclipse/paho.golang/... github.com/weir-io/weir/cluster/meta github.com/weir-io/weir/cluster/control github.com/weir-io/weir/cluster/quorum github.com/weir-io/weir/cluster/gossip \
           github.com/weir-io/weir/bridge/alert github.com/weir-io/weir/bridge/group/... github.com/weir-io/weir/bridge/txn github.com/weir-io/weir/firmware-sim encoding/json encoding/asn1 \
           golang.org/x/text/... github.com/weir-io/weir/mqtt/schema/registry \
           github.com/emicklei/proto math/big \
           net/http net/textproto mime/... crypto/x509 text/template/... html/template regexp/... internal/profile runtime/pprof encoding/gob log/slog/...
BUILD   := build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' $(foreach p,$(SLIM),-gcflags=$(p)=-l)
export CGO_ENABLED = 0

.PHONY: help run build test check race fuzz soak cross bench bench-peers clean clients-deps

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t16

run: build ## a node, a small simulated fleet and a consumer group with live figures
	$(BIN)/weir demo

build: ## the two binaries, in bin/
	@mkdir -p $(BIN)
	$(GO) $(BUILD) -o $(BIN)/ ./cmd/weir ./cmd/weir-sim

test: clients-deps build ## every test, race detector on, with real clients where they can be had
	CGO_ENABLED=1 $(GO) test -race -timeout 20m ./...
	$(GO) test ./cluster/replica/model ./cluster/sim # one goroutine, far slower under the race detector
	$(GO) test -run 'SimulatedTransactions|TransactionSchedules|BrokenTransactions' ./bridge/kafka
	$(GO) test -run NeedsLittleMemory ./bridge/uplink # the race detector has memory of its own
	@if [ "$$(go env GOARCH)" = amd64 ]; then GOARCH=386 $(GO) test -timeout 10m ./log/... ./mqtt/...; fi

SEED ?= 1
.PHONY: sim
sim: ## run one seed of the simulators (SEED=7) as it runs each time: with Go's own dice taken away
	WEIR_SIM_SEED=$(SEED) $(GO) test -count=1 -v -overlay "$$($(GO) run ./internal/dice/overlay $(BIN)/dice)" -run '^(TestSeeds|TestSimulatedTransactions)$$' ./cluster/sim ./bridge/kafka

clients-deps: ## install what the real-client tests need (kcat, mosquitto, Python and Java clients), when allowed
	@.ci/clients-deps

.PHONY: clients
clients: export WEIR_CLIENTS = 1
clients: ## every client and application, Kafka Streams and Connect with them; the dated report goes to deploy/docs/clients.md
	@.ci/clients-deps
	$(GO) test -count=1 -timeout 40m -v ./cmd/weir/e2e

check: ## gofmt, vet, staticcheck, import rules, and conformance, which runs the MQTT tests
	@fmt=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$fmt" ]; then echo "gofmt would change:"; echo "$$fmt"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test -run Imports ./internal/rules

check: conformance

# UPDATE=-update rewrites mqtt/spec/gaps.txt and deploy/docs/mqtt-conformance.md.
.PHONY: conformance
conformance: ## every MQTT statement that binds a server has a test that ran and passed
	@$(GO) test -json ./mqtt/... | $(GO) run ./mqtt/spec/coverage $(UPDATE)

.PHONY: protocol
protocol: clients-deps ## write deploy/docs/kafka-protocol.md anew: from the table of requests, and from what real clients ask
	$(GO) test ./bridge/kafka -run TestApiVersionsListsTheTable -update
	$(GO) test ./cmd/weir/e2e -run TestClientsUseTheNewestVersions -update
	$(GO) test ./bridge/kafka -run TestProtocolPage -update

race: ## the unit tests of every room under the race detector
	CGO_ENABLED=1 $(GO) test -race ./...

T ?= 30s
fuzz: ## each fuzz target for T (default 30s)
	@for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg 2>/dev/null | grep '^Fuzz'); do \
	    echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(T) $$pkg || exit 1; done; done

.PHONY: mutate
mutate: ## break each rule of mqtt/spec/mutate in turn: its test has to fail (test and check try five, drawn; soak all)
	WEIR_MUTATE=all $(GO) test -count=1 -v -timeout 60m -run TestMutationsAreCaught ./mqtt/spec/mutate

soak: clients-deps build ## the long runs: crash loops, faults, simulated clusters, models, every mutation, fuzzing
	WEIR_SOAK=1 $(GO) test -timeout 6h ./...
	$(MAKE) mutate
	$(MAKE) fuzz T=5m

bench: ## the benchmarks beside the code
	$(GO) test -run '^$$' -bench . -benchmem ./...

bench-peers: build ## weir beside mosquitto, bare mochi, NATS and Apache Kafka, interleaved; PEERS='-loads subscriber,kafka -rounds 3' '-loads apache' or '-loads uplink' chooses
	@case '$(PEERS)' in *apache*|*kafka-*|*uplink*) WEIR_PEERS=1 .ci/clients-deps;; esac
	@mkdir -p $(BIN)/peers && cd deploy/peers && $(GO) vet . && $(GO) test . && $(GO) build -o ../../$(BIN)/peers/ ./...
	$(BIN)/peers/peers -weir $(BIN)/weir -built $(BIN)/peers $(PEERS)

cross: ## static binaries for every supported board, in bin/<os>-<arch>/
	@for t in linux/amd64 linux/arm64 linux/arm/6 linux/arm/7 darwin/arm64; do \
	  set -- $$(echo $$t | tr / ' '); d=$(BIN)/$$1-$$2$${3:+v$$3}; mkdir -p $$d; echo $$d; \
	  GOOS=$$1 GOARCH=$$2 GOARM=$$3 $(GO) $(BUILD) -o $$d/ ./cmd/weir ./cmd/weir-sim || exit 1; done

clean: ## what make made
	rm -rf $(BIN)
