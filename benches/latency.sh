#!/usr/bin/env bash
# Latency of `portcullis run` as a subscriber sees it, at a quarter, half and three quarters of a throughput. One JSON line
# per load on standard output; `bench latency --help` and benches/bench/latency.rs say what is measured.
#
#   FULL=200000 benches/latency.sh
#
#   FULL=N          events a second that count as full load: what throughput.sh gave on this machine just now
#   SHARES="0.25 0.5 0.75" SECONDS_EACH=60 ENTITIES=1000000 THREADS=2 COMMIT_MS=100
#   PLAYBOOKS=shipped
#   BOOTSTRAP= BROKER_PID= BROKER_DIR=   a broker that was kept
#
# One job serves all loads, one after the other, each after it has caught up with the one before.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

full=${FULL:?set FULL to the events a second of a full load}
PREFIX=${LATENCY_PREFIX:-latency.}
if [ -z "${NO_BUILD:-}" ]; then build; fi
kafka
application=latency-$$
fresh_topics "$application"
start_portcullis "$application" "${PLAYBOOKS:-shipped}" "$work/state-$application"
"$bench" ready --listen "127.0.0.1:$listen_port" --since 0 > /dev/null
first=0 round=0
for share in ${SHARES:-0.25 0.5 0.75}; do
    rate=$(python3 -c "print(max(1000, round($full * $share)))")
    say "latency at $rate events a second"
    # A pause, in which everything before is worked off.
    sleep 5
    "$bench" latency --bootstrap "$BOOTSTRAP" --prefix "$PREFIX" --rate "$rate" --seconds "${SECONDS_EACH:-60}" \
        --entities "${ENTITIES:-1000000}" --first "$first" --round "$round" --name "$share of $full" --pid "$job_pid" \
        --listen "127.0.0.1:$listen_port" | record
    round=$((round + 1))
    first=$((first + rate * ${SECONDS_EACH:-60}))
done
