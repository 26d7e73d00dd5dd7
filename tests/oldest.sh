#!/usr/bin/env bash
# The fast tests with the lowest versions that pyproject.toml allows, in an environment of their own (6 GB).
#
#   tests/oldest.sh [TEST ...]      default: the tests of every workshop; a list of files or folders replaces them
#
#   PYTHON=python3.11               the interpreter
#   OLDEST=build/oldest             where the environment goes; it is kept, and made anew by `rm -r`
#   TORCH=torch==2.10.0+cpu          another PyTorch than the lowest, such as a CPU build of an index of its own
#   UV_EXTRA_INDEX_URL=URL          that index (https://download.pytorch.org/whl/cpu)
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11} folder=$(realpath -m "${OLDEST:-build/oldest}")
tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(tests/measure tests/learn tests/journal tests/report tests/data tests/sweep tests/search
    tests/ledger/test_store.py tests/ledger/test_read.py tests/ledger/test_trial_run.py tests/analysis tests/ensemble
    tests/cli tests/service tests/test_stats.py tests/test_tasks.py tests/test_trial.py tests/test_mlflow_run.py)

mkdir -p "$folder"
"$python" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check uv
export PATH="$folder/env/bin:$PATH" VIRTUAL_ENV="$folder/env" UV_NO_CONFIG=1
export UV_INDEX_STRATEGY=unsafe-best-match # an index for PyTorch has old versions of other packages, too

# The lowest of what pyproject.toml names; of what those need in turn, the newest.
[ -z "${TORCH:-}" ] || echo "$TORCH" >"$folder/torch.txt"
uv pip compile --quiet --resolution lowest-direct --no-annotate --no-header \
    ${TORCH:+--override "$folder/torch.txt"} \
    --extra search --extra service --extra dicom-seg --extra server pyproject.toml --output-file "$folder/lowest.txt"
uv pip install --quiet --only-binary :all: --requirement "$folder/lowest.txt"
# The tests' own tools may be new, unless they would replace one of the lowest.
uv pip install --quiet --constraint "$folder/lowest.txt" \
    build hypothesis httpx pytest pytest-randomly pytest-xdist "schemathesis>=4" setuptools
uv pip install --quiet --no-deps --editable .
uv pip freeze >"$folder/installed.txt"
pytest -n 2 --dist loadfile --no-loadscope-reorder "${tests[@]}"
