#!/usr/bin/env bash
# What a lost disk and an unclean end cost: `portcullis run` beside the peers' tuned variant, on one workload.
#
#   benches/restore.sh
#
#   EVENTS=3000000 PLAYBOOKS=shipped THREADS=2 COMMIT_MS=100
#   SYSTEMS="portcullis streams-expert"
#   BOOTSTRAP= BROKER_PID= BROKER_DIR=   a broker that was kept
#
# Each system works off the workload and is ended. Then, while events go on coming at 2,000 a second:
#
# wiped       started with an empty state folder, once the group has forgotten the members of before. `records` are those
#             of its changelogs; `restore_seconds` is from the first sign of restoring (/status; the log of Kafka Streams)
#             to the last, `ready_seconds` from the start of the process
# kill -9     ended by SIGKILL under way and started again, the disk kept; `again_seconds` is from the start of the process
#             until new offsets of every input partition are committed
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PREFIX=restore.

millis() { date +%s%3N; }

# Events at a slow pace, in the background, until `stop "$crowd_pid"`.
start_crowd() {
    "$bench" load --bootstrap "$BOOTSTRAP" --topic "${PREFIX}login-events" --events 100000000 --rate 2000 --entities 100000 --first "$(millis)" > /dev/null &
    crowd_pid=$!
    children+=("$crowd_pid")
}

inputs() { # application
    printf -- "--topic $PREFIX%s " login-events "$1-attempts-by-source" "$1-attempts-by-account"
}

restore_portcullis() {
    local application=restore-$$ playbooks=${PLAYBOOKS:-shipped}
    local state=$work/state-$application started counted ready
    run_portcullis "$application" "$playbooks" > "$work/first.json"
    # shellcheck disable=SC2046 # several words
    counted=$("$bench" count --bootstrap "$BOOTSTRAP" \
        $(for stage in intake source account site; do echo --topic "$PREFIX$application-$stage-changelog"; done))
    "$bench" empty --bootstrap "$BOOTSTRAP" --group "$PREFIX$application"
    start_crowd
    rm -rf "$state"
    started=$(millis)
    start_portcullis "$application" "$playbooks" "$state"
    ready=$("$bench" ready --listen "127.0.0.1:$listen_port" --tasks 32 --since "$started")
    python3 - "$counted" "$ready" << 'P' | record
import json, sys
counted, ready = json.loads(sys.argv[1]), json.loads(sys.argv[2])
seconds = max(ready["restore_seconds"] or 0, 0.01)
print(json.dumps({"restore": "portcullis", "records": counted["records"], "mb": counted["mb"],
                  "restore_seconds": round(seconds, 2), "records_per_s": round(counted["records"] / seconds),
                  "mb_per_s": round(counted["mb"] / seconds, 1), "ready_seconds": ready["seconds"]}))
P
    # Under way again, and enough for a checkpoint to have been passed.
    sleep 15
    kill -9 "$job_pid"
    wait "$job_pid" 2> /dev/null || true
    started=$(millis)
    start_portcullis "$application" "$playbooks" "$state"
    # shellcheck disable=SC2046 # several words
    "$bench" again --bootstrap "$BOOTSTRAP" --group "$PREFIX$application" $(inputs "$application") --since "$started" \
        > "$work/again.json"
    python3 - "$work/again.json" << 'P' | record
import json, sys
again = json.load(open(sys.argv[1]))
print(json.dumps({"unclean": "portcullis", "first_seconds": again["first_seconds"],
                  "again_seconds": max(again["all_seconds"].values())}))
P
    stop "$job_pid"
    stop "$crowd_pid"
}

start_streams() { # application state
    java -Xmx2g -XX:+UseParallelGC "-Dlog4j2.configurationFile=$work/log4j2.properties" \
        -cp "$PEERS_BUILD/classes:$PEERS_BUILD/libs/*" portcullis.peer.StreamsBench --variant expert \
        --bootstrap "$BOOTSTRAP" --topic "${PREFIX}login-events" --application-id "$1" --detections "$1-detections" \
        --state-dir "$2" --threads "$THREADS" --commit-ms "$COMMIT_MS" --drain false >> "$work/streams.log" 2>&1 &
    streams_pid=$!
    children+=("$streams_pid")
}

restore_streams() {
    local application=peer-restore-$$ state=$work/streams-state started topics
    cat > "$work/log4j2.properties" << 'P'
rootLogger.level = warn
rootLogger.appenderRef.out.ref = OUT
logger.streams.name = org.apache.kafka.streams
logger.streams.level = info
appender.out.type = Console
appender.out.name = OUT
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{yyyy-MM-dd HH:mm:ss.SSS} %m%n
P
    build_peers
    start_streams "$application" "$state"
    "$bench" drained --bootstrap "$BOOTSTRAP" --group "$application" --topic "${PREFIX}login-events" --limit 600 > /dev/null
    stop "$streams_pid"
    topics=$("$bench" topics --bootstrap "$BOOTSTRAP" --prefix "$application-")
    # shellcheck disable=SC2046 # several words
    counted=$("$bench" count --bootstrap "$BOOTSTRAP" $(grep -- '-changelog$' <<< "$topics" | sed 's/^/--topic /'))
    "$bench" empty --bootstrap "$BOOTSTRAP" --group "$application"
    start_crowd
    rm -rf "$state"
    : > "$work/streams.log"
    started=$(millis)
    start_streams "$application" "$state"
    until grep -q 'State transition from REBALANCING to RUNNING' "$work/streams.log"; do sleep 0.05; done
    python3 - "$counted" "$started" "$work/streams.log" << 'P' | record
import datetime, json, re, sys
counted, started = json.loads(sys.argv[1]), int(sys.argv[2])
log = open(sys.argv[3]).read()
def at(line): return datetime.datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S.%f").astimezone().timestamp() * 1e3
running = [line for line in log.splitlines() if "State transition from REBALANCING to RUNNING" in line and "stream-client" in line]
begun = [line for line in log.splitlines() if "was added to the state updater" in line]
done = [line for line in log.splitlines() if "Finished restoring changelog" in line]
records = sum(int(n) for n in re.findall(r"with a total number of (\d+) records", log))
seconds = max((at(done[-1]) - at(begun[0])) / 1e3, 1e-3)
print(json.dumps({"restore": "streams-expert", "records": records, "records_committed": counted["records"], "mb": counted["mb"],
                  "restore_seconds": round(seconds, 2), "records_per_s": round(records / seconds),
                  "mb_per_s": round(counted["mb"] / seconds, 1),
                  "ready_seconds": round((at(running[0]) - started) / 1e3, 2)}))
P
    sleep 15
    kill -9 "$streams_pid"
    wait "$streams_pid" 2> /dev/null || true
    started=$(millis)
    start_streams "$application" "$state"
    # shellcheck disable=SC2046 # several words
    "$bench" again --bootstrap "$BOOTSTRAP" --group "$application" --topic "${PREFIX}login-events" --since "$started" \
        > "$work/again.json"
    python3 - "$work/again.json" << 'P' | record
import json, sys
again = json.load(open(sys.argv[1]))
print(json.dumps({"unclean": "streams-expert", "first_seconds": again["first_seconds"],
                  "again_seconds": max(again["all_seconds"].values())}))
P
    stop "$streams_pid"
    stop "$crowd_pid"
}

if [ -z "${NO_BUILD:-}" ]; then build; fi
kafka
load
for system in ${SYSTEMS:-portcullis streams-expert}; do
    case $system in
        portcullis) restore_portcullis ;;
        streams-expert) restore_streams ;;
        *) say "unknown system $system" && exit 2 ;;
    esac
done
