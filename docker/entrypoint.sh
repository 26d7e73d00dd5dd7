#!/bin/sh
# NAME_FILE=/run/secrets/x becomes NAME, for programs that read secrets from the environment only; then the command.
set -eu

for name in AWS_SECRET_ACCESS_KEY MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_TRACKING_PASSWORD PGPASSWORD; do
    eval "file=\${${name}_FILE:-}"
    [ -n "$file" ] || continue
    if ! [ -r "$file" ]; then
        echo "entrypoint: ${name}_FILE must be readable by user $(id -u), got $file; make it with docker/secrets.sh" >&2
        exit 1
    fi
    value=$(cat "$file")
    if [ -z "$value" ]; then
        echo "entrypoint: ${name}_FILE must hold a secret, got an empty $file; remove it and call docker/secrets.sh" >&2
        exit 1
    fi
    export "$name=$value"
    unset "${name}_FILE"
done
exec "$@"
