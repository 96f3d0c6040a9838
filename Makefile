# flashsale: `make` lists what can be done.
TOOL := go tool -modfile=tools/go.mod
PKGS ?= ./...

.DEFAULT_GOAL := help
.PHONY: help test fuzz lint fmt build demo bench-core bench-async bench-telemetry test-telemetry test-alerts faults ab up-sync up-async down clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: ## every test with the race detector, on private PostgreSQL and RabbitMQ; installs them as root on Debian
	go run ./testenv/servers -install -- go test -race -timeout 15m $(PKGS)

test-telemetry: ## every panel on a real Prometheus and InfluxDB, an order's trace on a real Jaeger, which it builds the first time (six minutes of CPU)
	go run ./testenv/servers -install -- go test -race -tags telemetry -run 'TestJaeger|TestDashboards' -timeout 25m ./cmd/flashsale

test-alerts: ## every alert, on real systems that are broken (two to ten minutes, much of it waiting)
	go run ./testenv/servers -install -- go test -tags telemetry -run TestAlerts -timeout 25m ./cmd/flashsale

SEEDS ?= 1
faults: ## whole systems killed, stopped, cut off, flooded and confused in mid-sale, and a table of it (FAULTS=-short: a cut; SEEDS=3, HANG=3s, REPORT=faults.md)
	FAULTS_SEEDS=$(SEEDS) FAULTS_HANG=$(HANG) FAULTS_REPORT=$(abspath $(REPORT)) go run ./testenv/servers -install -- \
		go test -v -tags faults -count=1 -timeout $$((60 * $(SEEDS)))m $(FAULTS) ./faults

# So many inputs each, not so long: before Go 1.27 a target whose time is over can fail for that (go.dev/issue/75804).
FUZZ ?= 100000x
FUZZ_SLOW ?= 5000x
fuzz: ## every fuzz target that there is, some seconds each (FUZZ=9000000x FUZZ_SLOW=400000x for a night)
	@set -e; grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sort | while IFS=: read -r file name; do \
		runs=$(FUZZ); case "$$file" in ./cmd/*) runs=$(FUZZ_SLOW);; esac; \
		go test -run '^$$' -fuzz "^$${name#func }\$$" -fuzztime "$$runs" "$$(dirname "$$file")"; done

lint: ## golangci-lint, formatting included
	$(TOOL) golangci-lint run $(PKGS)

fmt: ## format the code
	$(TOOL) golangci-lint fmt

build: ## build ./flashsale
	go build -o flashsale ./cmd/flashsale

demo: ## a whole sale in both wirings
	go run ./cmd/flashsale demo

bench-core: ## the reserve path against its baselines, in one run on private servers (minutes)
	go run ./bench/core

bench-async: ## the asynchronous wiring against the synchronous one and a bare publisher (minutes)
	go run ./bench/async

bench-telemetry: ## what metrics, collector and tracing cost the reserve path, in one run on private servers (minutes)
	go run ./bench/core --only=telemetry --repeats=12 --round=5s

ab: ## synchronous or asynchronous? the checkout journey through both wirings, report in bench/results (some 25 minutes)
	go run ./cmd/flashsale bench ab $(AB_FLAGS)

up-sync: ## the synchronous wiring in containers, at http://127.0.0.1:8080 (docs/compose.md)
	docker compose -f docker-compose.sync.yml up --build --detach --wait

up-async: ## the asynchronous wiring in containers, at http://127.0.0.1:8180
	docker compose -f docker-compose.async.yml up --build --detach --wait

down: ## stop the containers of both; data and secrets stay in their volumes
	docker compose -f docker-compose.sync.yml --profile '*' down
	docker compose -f docker-compose.async.yml --profile '*' down

clean: ## remove what build and serve leave behind
	rm -rf flashsale data
