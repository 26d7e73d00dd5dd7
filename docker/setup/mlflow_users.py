"""Users of an `mlflow server --app-name basic-auth` whose default permission is NO_PERMISSIONS, and what they may do.

    mlflow_users.py add NAME [--password-file FILE]   one more user, or a new password for one that is there
    mlflow_users.py grant NAME READ calib             READ, EDIT or MANAGE on an experiment and the models made in it
    mlflow_users.py grant NAME READ '*'               on all experiments and models, those to come too
    mlflow_users.py revoke NAME calib
    mlflow_users.py remove NAME

The caller is $MLFLOW_TRACKING_USERNAME with $MLFLOW_TRACKING_PASSWORD: the administrator, or, to grant and revoke,
who made the experiment.
"""

import argparse
import contextlib
import getpass
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.server.auth.client import AuthServiceClient

LEAST_PASSWORD = 12  # characters; MLflow refuses less


def main() -> None:
    """Ends with 1 and one line where the server refuses."""
    words = _parser().parse_args()
    store = MlflowClient()
    users = AuthServiceClient(store.tracking_uri)
    try:
        words.run(words, users, store)
    except MlflowException as error:
        refused = error.get_http_status_code() in (401, 403)
        remedy = "see MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" if refused else "see the server's log"
        sys.exit(f"mlflow_users: {store.tracking_uri} must do it, got: {str(error).splitlines()[0]}; {remedy}")


def _add(words: argparse.Namespace, users: AuthServiceClient, store: MlflowClient) -> None:
    if words.password_file:
        password = Path(words.password_file).read_text().strip()
    else:
        password = getpass.getpass(f"password of {words.name}: ")
    if len(password) < LEAST_PASSWORD:
        sys.exit(f"mlflow_users: a password must have at least {LEAST_PASSWORD} characters, got {len(password)}")
    try:
        users.create_user(words.name, password)
        print(f"user '{words.name}' is made")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        myself = words.name == os.environ.get("MLFLOW_TRACKING_USERNAME")  # then the server wants the old one as well
        old = os.environ.get("MLFLOW_TRACKING_PASSWORD") if myself else None
        users.update_user_password(words.name, password, old)
        print(f"user '{words.name}' is there; the password is set")


def _grant(words: argparse.Namespace, users: AuthServiceClient, store: MlflowClient) -> None:
    for kind, name in _resources(words.experiment, store):
        with contextlib.suppress(MlflowException):  # MLflow grants nothing anew where there is a right already
            users.revoke_user_permission(words.name, kind, name)
        users.grant_user_permission(words.name, kind, name, words.permission)
        print(f"{words.name}: {words.permission} on {kind} {name}")


def _revoke(words: argparse.Namespace, users: AuthServiceClient, store: MlflowClient) -> None:
    for kind, name in _resources(words.experiment, store):
        try:
            users.revoke_user_permission(words.name, kind, name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        print(f"{words.name}: nothing on {kind} {name}")


def _remove(words: argparse.Namespace, users: AuthServiceClient, store: MlflowClient) -> None:
    users.delete_user(words.name)
    print(f"user '{words.name}' is gone; experiments and models stay")


def _resources(experiment: str, store: MlflowClient) -> Iterator[tuple[str, str]]:
    """The experiment and the registered models that its runs made: each has permissions of its own."""
    if experiment == "*":
        yield from (("experiment", "*"), ("registered_model", "*"))
        return
    found = store.get_experiment_by_name(experiment)
    if found is None:
        sys.exit(f"mlflow_users: the experiment must be there, got '{experiment}'; see MLflow's pages for its name")
    yield "experiment", found.experiment_id
    runs = {run.info.run_id for run in _all(lambda token: store.search_runs([found.experiment_id], page_token=token))}
    for model in _all(lambda token: store.search_registered_models(page_token=token)):
        if any(version.run_id in runs for version in _versions(store, model.name)):
            yield "registered_model", model.name


def _versions(store: MlflowClient, model: str) -> Iterator:
    return _all(lambda token: store.search_model_versions(f"name='{model}'", page_token=token))


def _all(page_at) -> Iterator:
    """Every item of all pages."""
    token = None
    while True:
        page = page_at(token)
        yield from page
        if not (token := page.token):
            return


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlflow_users.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, run in (("add", _add), ("grant", _grant), ("revoke", _revoke), ("remove", _remove)):
        verb = verbs.add_parser(name)
        verb.set_defaults(run=run)
        verb.add_argument("name")
        if name == "grant":
            verb.add_argument("permission", choices=("READ", "EDIT", "MANAGE"))
        if name in ("grant", "revoke"):
            verb.add_argument("experiment")
        if name == "add":
            verb.add_argument("--password-file")
    return parser


if __name__ == "__main__":
    main()
