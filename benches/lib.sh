# What the benches share: a Kafka of their own, the peers' workload, `portcullis run` and its meter. Sourced, not run.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

EVENTS=${EVENTS:-3000000}
THREADS=${THREADS:-2}
COMMIT_MS=${COMMIT_MS:-100}
CACHE_MIB=${CACHE_MIB:-512}
SEED=${SEED:-42}
# The pace of event time and of loading at once, so that an event is some milliseconds old when Kafka gets it, as in life.
EVENTS_PER_MS=${EVENTS_PER_MS:-100}
KAFKA_HEAP=${KAFKA_HEAP:-1g}
KEEP=${KEEP:-0}
BOOTSTRAP=${BOOTSTRAP:-}
BROKER_PID=${BROKER_PID:-0}
BROKER_DIR=${BROKER_DIR:-}
PORT=${PORT:-29492}
# In front of every topic's name; several workloads lie side by side in one Kafka.
PREFIX=${PREFIX:-}
PEERS=${PEERS:-../shared/peers/kafka-streams}
PEERS_BUILD=${PEERS_BUILD:-${XDG_CACHE_HOME:-$HOME/.cache}/portcullis-peers/kafka-streams}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/portcullis/target}
kafka_libs=${PORTCULLIS_KAFKA_LIBS:-$(echo "${PORTCULLIS_CACHE:-$HOME/.cache/portcullis}"/kafka-*/libs)}
portcullis=$CARGO_TARGET_DIR/release/portcullis
bench=$CARGO_TARGET_DIR/release/examples/bench
listen_port=$((PORT + 4))
work=$(mktemp -d -t portcullis-bench.XXXXXX)
started_broker=0
children=()

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*" >&2; }

stop() { # pid
    kill "$1" 2> /dev/null || return 0
    for _ in $(seq 200); do
        kill -0 "$1" 2> /dev/null || return 0
        sleep 0.1
    done
    kill -9 "$1" 2> /dev/null || true
}

cleanup() {
    local status=$?
    trap - EXIT INT TERM
    for child in "${children[@]}"; do stop "$child"; done
    if [ "$started_broker" = 1 ] && [ "$KEEP" = 1 ]; then
        say "kept: BOOTSTRAP=$BOOTSTRAP BROKER_PID=$BROKER_PID BROKER_DIR=$BROKER_DIR; end it with: kill $BROKER_PID; rm -rf $work"
    elif [ "$KEEP" = 1 ]; then
        say "kept: $work"
    else
        if [ "$started_broker" = 1 ]; then stop "$BROKER_PID"; fi
        rm -rf "$work"
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

build() {
    say "building"
    cargo build --release --locked --bin portcullis --example bench
}

listening() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }

# Starts a Kafka of one node unless BOOTSTRAP names one.
kafka() {
    if [ -n "$BOOTSTRAP" ]; then return; fi
    for port in "$PORT" "$((PORT + 1))"; do
        if listening "$port"; then
            say "port $port is taken; set PORT"
            return 1
        fi
    done
    BROKER_DIR=$work/kafka
    mkdir -p "$BROKER_DIR"
    cat > "$BROKER_DIR/server.properties" << P
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((PORT + 1))
listeners=PLAINTEXT://127.0.0.1:$PORT,CONTROLLER://127.0.0.1:$((PORT + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$PORT
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$BROKER_DIR/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# As brokers are set by default, shorter: threads that start together are assigned together, and get equal parts.
group.initial.rebalance.delay.ms=1000
auto.create.topics.enable=false
log.retention.ms=-1
broker.session.timeout.ms=60000
P
    java -Xmx256m -cp "$kafka_libs/*" kafka.tools.StorageTool format --cluster-id=portcullis-bench-0000 \
        --config "$BROKER_DIR/server.properties" > "$BROKER_DIR/log" 2>&1
    # Of its own session: a broker that is kept outlives the terminal, and Ctrl-C is ours to pass on.
    setsid java "-Xmx$KAFKA_HEAP" -cp "$kafka_libs/*" kafka.Kafka "$BROKER_DIR/server.properties" >> "$BROKER_DIR/log" 2>&1 &
    BROKER_PID=$!
    started_broker=1
    BOOTSTRAP=127.0.0.1:$PORT
    for _ in $(seq 600); do
        if ! kill -0 "$BROKER_PID" 2> /dev/null; then break; fi
        if listening "$PORT"; then
            say "Kafka $BROKER_PID on $BOOTSTRAP"
            return
        fi
        sleep 0.1
    done
    say "Kafka did not start:"
    tail -20 "$BROKER_DIR/log" >&2
    return 1
}

has_peers() { [ -f "$PEERS/pom.xml" ]; }

build_peers() {
    if [ -f "$PEERS_BUILD/classes/portcullis/peer/LoadGen.class" ]; then return; fi
    say "building the peers into $PEERS_BUILD"
    mkdir -p "$PEERS_BUILD"
    mvn -q -B -f "$PEERS/pom.xml" -DbuildDir="$(realpath "$PEERS_BUILD")" -DskipTests package >&2
}

peer() { # heap class arguments
    local heap=$1 class=$2
    shift 2
    java "-Xmx$heap" -XX:+UseParallelGC "-Dlog4j2.configurationFile=$PEERS/conf/log4j2.properties" \
        -cp "$PEERS_BUILD/classes:$PEERS_BUILD/libs/*" "portcullis.peer.$class" "$@"
}

# Loads the peers' workload into login-events unless it is there. Event time starts now and runs at the pace of loading.
load() {
    say "loading $EVENTS events at $EVENTS_PER_MS a millisecond"
    if has_peers; then
        build_peers
        peer 512m LoadGen --bootstrap "$BOOTSTRAP" --topic "${PREFIX}login-events" --events "$EVENTS" --partitions 8 \
            --seed "$SEED" --rate $((EVENTS_PER_MS * 1000)) --events-per-ms "$EVENTS_PER_MS" --start-ms "$(date +%s%3N)"
    else
        say "there are no peers at $PEERS (set PEERS to their folder), so this is a workload of our own"
        load_own 1000000
    fi
}

# Loads a workload with so many entities into login-events.
load_own() { # entities
    "$portcullis" --bootstrap "$BOOTSTRAP" ${PREFIX:+--topic-prefix "$PREFIX"} --application-id none topics apply > /dev/null
    "$bench" load --bootstrap "$BOOTSTRAP" --topic "${PREFIX}login-events" --events "$EVENTS" --entities "$1" \
        --seed "$SEED" --rate $((EVENTS_PER_MS * 1000))
}

# The topology folder of a set of playbooks: `shipped` or a folder under benches/.
topology_of() { # playbooks
    if [ "$1" = shipped ]; then
        echo topology
        return
    fi
    local folder=$work/topology-$1
    if [ ! -d "$folder" ]; then
        mkdir -p "$folder/playbooks"
        cp topology/topics.yaml topology/exemptions.yaml "$folder/"
        cp "benches/$1/"*.yaml "$folder/playbooks/"
    fi
    echo "$folder"
}

# Makes every topic but login-events anew, under an application id of its own, so that no run sees another's.
fresh_topics() { # application
    "$bench" forget --bootstrap "$BOOTSTRAP"
    "$portcullis" --bootstrap "$BOOTSTRAP" ${PREFIX:+--topic-prefix "$PREFIX"} --application-id "$1" topics apply > /dev/null
}

settings_file() { # application playbooks state
    cat > "$work/$1.yaml" << S
bootstrap: $BOOTSTRAP
application_id: $1
topic_prefix: "$PREFIX"
topology: $(topology_of "$2")
state_dir: $3
hash_key: portcullis-bench-hash-key
threads: $THREADS
commit_interval: ${COMMIT_MS}ms
cache_mib: $CACHE_MIB
S
    echo "$work/$1.yaml"
}

# Starts the job; sets job_pid.
start_portcullis() { # application playbooks state
    PORTCULLIS_LOG=${PORTCULLIS_LOG:-warn} "$portcullis" --settings "$(settings_file "$1" "$2" "$3")" \
        run --no-warm-up --listen "127.0.0.1:$listen_port" >&2 &
    job_pid=$!
    children+=("$job_pid")
}

# Runs the job over login-events to the end and prints its line. The state folder stays until the script ends.
run_portcullis() { # application playbooks
    local application=$1 playbooks=$2 state=$work/state-$1 profiler=0
    fresh_topics "$application"
    start_portcullis "$application" "$playbooks" "$state"
    if [ -n "${PERF:-}" ]; then
        # Threads that begin later would not be in it.
        "$bench" ready --listen "127.0.0.1:$listen_port" --since 0 > /dev/null
        # shellcheck disable=SC2086 # several options
        perf record -q -F 499 ${PERF_OPTIONS:---call-graph dwarf,16384} -p "$job_pid" -o "$PERF" >&2 &
        profiler=$!
    fi
    "$bench" meter --bootstrap "$BOOTSTRAP" --application "$application" --pid "$job_pid" --broker-pid "$BROKER_PID" \
        --listen "127.0.0.1:$listen_port" --name "portcullis-$playbooks" --state-dir "$state" \
        ${PREFIX:+--prefix "$PREFIX"} ${BROKER_DIR:+--broker-dir "$BROKER_DIR/data"} ${OUTPUTS:+--outputs "$OUTPUTS"}
    stop "$job_pid"
    if [ "$profiler" != 0 ]; then wait "$profiler" || true; fi
}

# A figure of the last line of JSON on standard input that has it.
figure() { # name
    python3 -c '
import json, sys
found = None
for line in sys.stdin:
    if line.startswith("{"):
        found = json.loads(line).get(sys.argv[1], found)
print(found)' "$1"
}

# Prints a line and appends it to RESULTS, where that is set.
record() {
    if [ -n "${RESULTS:-}" ]; then tee -a "$RESULTS"; else cat; fi
}
