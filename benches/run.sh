#!/usr/bin/env bash
# Throughput of `run` beside a raw drain of the same topic, in one run on a Kafka of its own.
#
#   benches/run.sh                    # an ordinary day of about 600,000 logins
#   LENGTH=3h RUNS=1 benches/run.sh
#
# Method and figures: benches/RESULTS.md. The machine is shared and noisy, so only ratios of one run are compared.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

length=${LENGTH:-12h}
runs=${RUNS:-3}
port=${PORT:-29392}
target=${CARGO_TARGET_DIR:-$HOME/.cache/portcullis/target}
libs=${PORTCULLIS_KAFKA_LIBS:-$(echo "${PORTCULLIS_CACHE:-$HOME/.cache/portcullis}"/kafka-*/libs)}
work=$(mktemp -d)
trap 'kill $(jobs -p) 2> /dev/null || true; wait 2> /dev/null || true; rm -rf "$work"' EXIT

cargo build --release --locked --bin portcullis --example drain
portcullis=$target/release/portcullis
drain=$target/release/examples/drain

cat > "$work/server.properties" << P
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$work/kafka
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
P
java -Xmx256m -cp "$libs/*" kafka.tools.StorageTool format --cluster-id=portcullis-bench-0000 \
    --config "$work/server.properties" > /dev/null 2>&1
java -Xmx512m -cp "$libs/*" kafka.Kafka "$work/server.properties" > "$work/kafka.log" 2>&1 &
export PORTCULLIS_BOOTSTRAP=127.0.0.1:$port PORTCULLIS_LOG=warn
for _ in $(seq 1 100); do "$portcullis" topics plan > /dev/null 2>&1 && break; done

"$portcullis" simulate ordinary --open --seed 1 --lead-in 0 --after 0 --length "$length" --out "$work/events.jsonl" > /dev/null
for run in $(seq 1 "$runs"); do
    export PORTCULLIS_TOPIC_PREFIX=run$run.
    "$portcullis" topics apply > /dev/null
    "$portcullis" produce "$work/events.jsonl" --output json > /dev/null
    "$drain" "$PORTCULLIS_BOOTSTRAP" "run$run.login-events" > "$work/drain.json"
    "$portcullis" run --state-dir "$work/state$run" --listen "127.0.0.1:$((port + 2))" --until-caught-up &
    python3 - "$((port + 2))" "$work/drain.json" << 'P'
import json, resource, sys, time, urllib.request
port, drained = sys.argv[1], json.load(open(sys.argv[2]))
ends = ["events_counted", "events_not_counted", "events_late", "events_duplicate", "events_dead_lettered"]
started = took = None
while took is None:
    try:
        counts = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5))["counts"]
    except OSError:
        time.sleep(0.05)
        continue
    now = time.monotonic()
    if started is None and counts.get("events_in", 0) > 0:
        started = now
    if sum(counts.get(name, 0) for name in ends) >= drained["records"]:
        took = now - (started or now)
    time.sleep(0.05)
rate = drained["records"] / max(took, 0.05)
print(json.dumps({"events": drained["records"], "drain_per_second": drained["per_second"], "run_seconds": round(took, 2),
                  "run_per_second": round(rate), "run_over_drain": round(rate / drained["per_second"], 4)}))
P
    wait $!
done
