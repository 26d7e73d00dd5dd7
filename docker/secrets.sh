#!/bin/sh
# Makes the secrets of compose.yaml that are not there yet, below the folder that is named (docker/secrets).
#   docker/secrets.sh [FOLDER]
# Docker binds secret files into containers as they are, and each program runs under a user of its own: the files are
# readable, and the folder is closed. Nobody else of this machine comes through it.
set -eu

folder=${1:-"$(dirname "$0")/secrets"}
umask 077
mkdir -p "$folder"
chmod 700 "$folder"
for name in grafana_admin_password mlflow_admin_password mlflow_flask_key mlflow_segcal_password postgres_password ray_token \
    s3_secret_key segcal_token; do
    file=$folder/$name
    if ! [ -e "$file" ]; then
        od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$file"
        echo "made $file"
    fi
    chmod 444 "$file"
done
