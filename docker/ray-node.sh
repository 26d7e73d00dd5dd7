#!/bin/sh
# A node of the Ray cluster, under this container's own address.
#   ray-node.sh head OPTIONS...     the first one; gives no cores
#   ray-node.sh worker OPTIONS...   gives its cores and GPUs to the head at $RAY_ADDRESS
#   ray-node.sh beside COMMAND...   gives nothing: a driver needs a node on its own machine. Then the command
# shellcheck disable=SC2086  # $node is several words
set -eu

role=$1
shift
# Ray would guess the address by the route to the internet, which there may not be. In a container of two networks it would
# be either one's: those that run this have one (compose.yaml).
own=$(python -c 'import os, socket; print(socket.gethostbyname(os.environ["HOSTNAME"]))')
node="--node-ip-address $own --object-store-memory ${RAY_OBJECT_STORE_BYTES:-200000000} --disable-usage-stats"

case $role in
head) exec ray start --head --block --port 6379 --num-cpus 0 --num-gpus 0 $node "$@" ;;
worker) exec ray start --block --address "$RAY_ADDRESS" $node "$@" ;;
beside)
    if ! said=$(ray start --address "$RAY_ADDRESS" --num-cpus 0 --num-gpus 0 $node 2>&1); then
        echo "ray-node: Ray must answer at $RAY_ADDRESS, got: $(echo "$said" | tail -n 1); see the log of ray-head" >&2
        exit 1
    fi
    exec "$@"
    ;;
*)
    echo "ray-node: the first word must be head, worker or beside, got '$role'" >&2
    exit 2
    ;;
esac
