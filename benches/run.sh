#!/usr/bin/env bash
# Every figure of benches/RESULTS.md, in one run on one Kafka: `make bench`. Lines of JSON on standard output and in
# benches/results/, then the same as tables, the ratios that count, and charts in benches/charts/. About an hour.
#
#   EVENTS=3000000 DSL_EVENTS=300000 THREADS=2 COMMIT_MS=100
#   PARTS="throughput compare latency restore scale playbooks"   what to measure
#   PEERS=DIR           where the peers are; without them the workload is one of our own, and nothing is measured beside
#   the further options of throughput.sh, latency.sh, restore.sh and scale.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PARTS=${PARTS:-throughput compare latency restore scale playbooks}
mkdir -p benches/results
RESULTS=${RESULTS:-$PWD/benches/results/$(date -u +%Y-%m-%dT%H%M).jsonl}
export RESULTS PEERS PEERS_BUILD EVENTS THREADS COMMIT_MS CACHE_MIB SEED EVENTS_PER_MS
is_wanted() { [[ " $PARTS " == *" $1 "* ]]; }

if [ -z "${NO_BUILD:-}" ]; then build; fi
kafka
export BOOTSTRAP BROKER_PID BROKER_DIR PORT
python3 - "$EVENTS" "$THREADS" "$COMMIT_MS" << 'P' | record
import json, os, platform, subprocess, sys
commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
print(json.dumps({"run": commit, "events": int(sys.argv[1]), "threads": int(sys.argv[2]), "commit_ms": int(sys.argv[3]),
                  "cores": os.cpu_count(), "load_before": os.getloadavg()[0], "kernel": platform.release()}))
P
if is_wanted throughput; then
    load | record
    if has_peers; then
        say "the peers"
        TMPDIR=$work BUILD_DIR=$PEERS_BUILD TOPIC=login-events DSL_EVENTS=${DSL_EVENTS:-300000} KEEP=1 "$PEERS/bench.sh"
    else
        say "there are no peers at $PEERS, so nothing is measured beside; set PEERS to their folder"
    fi
    outputs=$work/outputs
    for playbooks in five-rules rules-of-strangers shipped; do
        say "portcullis with playbooks $playbooks"
        OUTPUTS=$outputs run_portcullis "run-$$-$playbooks" "$playbooks" > "$work/line"
        record < "$work/line"
        rm -rf "$work/state-run-$$-$playbooks"
    done
    if is_wanted compare && has_peers; then
        detections=$("$bench" topics --bootstrap "$BOOTSTRAP" --prefix peer- | grep -E 'detections-[0-9]+-expert$' | tail -1)
        for playbooks in five-rules rules-of-strangers; do
            "$bench" compare --bootstrap "$BOOTSTRAP" --detections "$detections" --name "$playbooks" \
                --verdicts "$outputs/portcullis-$playbooks-verdicts.jsonl" | record
        done
    fi
    "$bench" forget --bootstrap "$BOOTSTRAP" --peers-too
fi
if is_wanted restore; then
    if has_peers; then benches/restore.sh; else SYSTEMS=portcullis benches/restore.sh; fi
fi
if is_wanted latency; then
    full=${FULL:-$(grep '"system":"portcullis-shipped"' "$RESULTS" | figure events_per_s)}
    FULL=$full benches/latency.sh
fi
if is_wanted scale; then benches/scale.sh; fi
if is_wanted playbooks; then NO_BUILD=1 benches/playbooks.sh | record; fi
"$bench" table --results "$RESULTS"
"$bench" chart --results "$RESULTS" --charts benches/charts | record
