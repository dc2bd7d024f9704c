#!/usr/bin/env bash
# Throughput of `portcullis run` over the peers' workload, on a Kafka of its own. One JSON line per run on standard output.
#
#   benches/throughput.sh                              # 3,000,000 events, playbooks as shipped
#   PLAYBOOKS="five-rules shipped" benches/throughput.sh
#
#   EVENTS=3000000 THREADS=2 COMMIT_MS=100 CACHE_MIB=256 SEED=42 EVENTS_PER_MS=100
#   PLAYBOOKS=shipped       `shipped`, or a folder of benches/: five-rules, rules-of-strangers; several are run one after the other
#   PERF=FILE               also writes a profile of the job (perf record by its process id); PERF_OPTIONS for its flags
#   KEEP=1                  the broker with login-events and the state folders stay; the last lines say how to end it
#   BOOTSTRAP= BROKER_PID= BROKER_DIR=   a broker that was kept: nothing is started, login-events is used as it is
#   PEERS=DIR               where the peers are: their load generator makes the workload; without them it is our own
#   RESULTS=FILE            also appends the lines there
#   OUTPUTS=DIR             keeps verdicts, blocklist and incidents of the run there, as JSON lines
#
# To profile again and again:
#
#   KEEP=1 benches/throughput.sh                       # prints BOOTSTRAP=… BROKER_PID=… BROKER_DIR=…
#   BOOTSTRAP=… BROKER_PID=… BROKER_DIR=… PERF=/tmp/perf.data benches/throughput.sh
#   perf report -i /tmp/perf.data --no-children
#
# The events are Avro in the wire format of a schema registry with schema id 1. `run` needs no registry for them: without
# one, the setting `schema_ids` (default [1]) says under which ids the bundled schema of a login event is known.
#
# Their event time starts at the time of loading and runs at the pace of loading, so that an event is fresh when Kafka
# gets it: one that is older than five minutes on arrival enters no window, and one older than one minute brings no block.
#
# seconds   from the job's readiness (all of its tasks assigned; before its first event) to the commit with which the last
#           stage is through with everything that came of the events, looked at every 20 ms
# cpu_seconds, broker_cpu_seconds   user and system, in that time
# warm_*    the second half of it, counted in committed offsets, each stage's by itself
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if [ -z "${NO_BUILD:-}" ]; then build; fi
kafka
load
number=0
for playbooks in ${PLAYBOOKS:-shipped}; do
    number=$((number + 1))
    say "running with playbooks $playbooks"
    run_portcullis "bench-$$-$number" "$playbooks" > "$work/line"
    record < "$work/line"
    if [ "$KEEP" != 1 ]; then rm -rf "$work/state-bench-$$-$number"; fi
done
