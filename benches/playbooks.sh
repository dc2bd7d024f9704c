#!/usr/bin/env bash
# What playbooks cost an event: `portcullis replay` of one file under several sets, in turn, so that a busy machine hurts
# all of them. The least CPU time of RUNS runs of each counts. One JSON line a set on standard output. About three minutes.
#
#   RUNS=5   runs of each set
#   HISTORY=3h   how much ordinary traffic lies before the night
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

RUNS=${RUNS:-5}
HISTORY=${HISTORY:-3h}
if [ -z "${NO_BUILD:-}" ]; then build; fi
events=$work/night.jsonl
"$portcullis" simulate night --seed "$SEED" --history "$HISTORY" --open --out "$events" > /dev/null 2>&1
n=$(wc -l < "$events")
say "$n events"

set_of() { # name, then playbooks beside the shipped ones
    local folder=$work/set-$1
    mkdir -p "$folder"
    cp topology/playbooks/*.yaml "$folder"
    shift
    for more in "$@"; do cp "tests/playbooks/$more.yaml" "$folder"; done
}
mkdir -p "$work/set-none"
sed -e 's/^mode: .*/mode: off/' topology/playbooks/ip-failure-rate.yaml > "$work/set-none/ip-failure-rate.yaml"
set_of shipped
set_of where scripted-clients
set_of names names-of-nobody
set_of success-fanout success-fanout
set_of requests enumeration
set_of pair pair-guessing
set_of device device-fanout
set_of all scripted-clients names-of-nobody success-fanout enumeration pair-guessing device-fanout dormant in-an-attack \
    old-passwords
sets=(none shipped where names success-fanout requests pair device all)
declare -A least
for _ in $(seq "$RUNS"); do
    for set in "${sets[@]}"; do
        cpu=$({ TIMEFORMAT='%U %S'; time "$portcullis" replay --events "$events" --playbooks "$work/set-$set" \
            --out "$work/out" > /dev/null 2>&1; } 2>&1 | awk '{print int(($1 + $2) * 1e6)}')
        if [ -z "${least[$set]:-}" ] || [ "$cpu" -lt "${least[$set]}" ]; then least[$set]=$cpu; fi
    done
done
for set in "${sets[@]}"; do
    awk -v set="$set" -v cpu="${least[$set]}" -v shipped="${least[shipped]}" -v n="$n" 'BEGIN {
        printf "{\"playbooks\":\"%s\",\"events\":%d,\"cpu_us_per_event\":%.3f,\"beside_shipped\":%.2f}\n",
            set, n, cpu / n, cpu / shipped }'
done
