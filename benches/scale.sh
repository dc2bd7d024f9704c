#!/usr/bin/env bash
# Whether an event costs the same however many there were, and however many entities live. One JSON line per run.
#
#   benches/scale.sh
#
#   EVENT_COUNTS="1000000 3000000 10000000"     of the peers' workload, whose entities grow with its events
#   ENTITY_COUNTS="10000 100000 1000000 10000000"   of the bench's own, ENTITY_EVENTS=10000000 events each
#   PLAYBOOKS=shipped THREADS=2 COMMIT_MS=100 CACHE_MIB=256
#   BOOTSTRAP= BROKER_PID= BROKER_DIR=   a broker that was kept
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if [ -z "${NO_BUILD:-}" ]; then build; fi
kafka
number=0
measure() { # events entities
    run_portcullis "scale-$$-$number" "${PLAYBOOKS:-shipped}" > "$work/line"
    python3 -c 'import json, sys; print(json.dumps({"scale": sys.argv[1], "entities": sys.argv[2], **json.load(sys.stdin)}))' \
        "$1" "$2" < "$work/line" | record
    rm -rf "$work/state-scale-$$-$number"
    "$bench" forget --bootstrap "$BOOTSTRAP" --input-too "${PREFIX}login-events"
}
for events in ${EVENT_COUNTS-1000000 3000000 10000000}; do
    number=$((number + 1))
    PREFIX=events$number. EVENTS=$events
    load > /dev/null
    measure events ""
done
for entities in ${ENTITY_COUNTS-10000 100000 1000000 10000000}; do
    number=$((number + 1))
    PREFIX=entities$number. EVENTS=${ENTITY_EVENTS:-10000000}
    say "loading $EVENTS events of $entities entities"
    load_own "$entities" > /dev/null
    measure entities "$entities"
done
