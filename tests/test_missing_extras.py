"""What an installation without an extra says: one line, with the `pip install` that brings it."""

import json
import subprocess
import sys

import pytest

from segcal.errors import MissingExtra, needs

# FastAPI and uvicorn come with MLflow as well.
OF_EXTRAS = ("optuna", "prometheus_client", "python_multipart", "highdicom", "s3fs", "boto3", "psycopg")

# In a process of its own, in which none of these can be imported: `answers` is a dict of code and message by name.
WITHOUT = """
import contextlib, importlib, io, json, os, sys
from pathlib import Path

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in %(absent)r:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Absent())
from segcal.cli import main
from segcal.errors import MissingExtra
from segcal.data.voxels.dicom_seg import read_segmentation
from segcal.ledger.store import check_artifacts

answers = {}

def command(name, *words):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = main(words)
    answers[name] = [code, [line for line in said.getvalue().splitlines() if line.startswith('segcal: ')]]

def call(name, function, *words):
    try:
        function(*words)
    except MissingExtra as error:
        answers[name] = [error.exit_code, [str(error)]]

for base in ('sweep.run_sweep', 'analysis.run_analysis', 'ensemble.create', 'ensemble.predict'):
    importlib.import_module(f'segcal.{base}')
command('search', 'search', '--set', 'seeds=1')
command('serve', 'serve', '--port', '0')
command('storage', 'sweep', sys.argv[1], '--data', sys.argv[2], '--storage', 's3://bucket/x')
command('doctor', 'doctor')
call('artifacts', check_artifacts, 's3://bucket/y')
call('local artifacts', check_artifacts, '/a/folder')
call('segmentation', read_segmentation, Path('zones.dcm'), 'case')
os.environ['MLFLOW_TRACKING_URI'] = 'postgresql+psycopg://me:secret@127.0.0.1:9/x'
command('database', 'report')
print('ANSWERS', json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory, tiny_files, blobs):
    command = [sys.executable, "-c", WITHOUT % {"absent": OF_EXTRAS}, str(tiny_files[1]), str(blobs)]
    done = subprocess.run(command, cwd=tmp_path_factory.mktemp("without"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("ANSWERS")[2])


@pytest.mark.parametrize(
    ("what", "needed", "extra"),
    [
        ("search", "segcal: segcal search needs optuna", "search"),
        ("serve", "segcal: segcal serve needs python_multipart", "service"),
        ("storage", "segcal: s3://bucket/x/tiny needs s3fs", "s3"),
        ("artifacts", "the artifact store s3://bucket/y needs boto3", "s3"),
        ("segmentation", "zones.dcm, a DICOM segmentation, needs highdicom", "dicom-seg"),
        ("database", "segcal: postgresql+psycopg://me:***@127.0.0.1:9/x needs psycopg", "postgres"),
    ],
)
def test_one_line_says_which_install_brings_it(answers, what, needed, extra):
    assert answers[what] == [1, [f'{needed}, which is not installed: pip install "segcal[{extra}]"']]


def test_what_needs_no_extra_works(answers):
    """That the rest was imported at all is shown by the answers being there."""
    assert answers["doctor"] == [0, []]
    assert "local artifacts" not in answers


def test_a_defect_of_segcal_is_not_taken_for_an_extra():
    with pytest.raises(ModuleNotFoundError, match=r"segcal\.nothing"), needs("search", "segcal search"):
        import segcal.nothing  # noqa: F401


def test_a_library_that_is_there_but_broken_is_told_as_it_is():
    with (
        pytest.raises(MissingExtra, match=r'needs more \(no pq wrapper\), .*"segcal\[postgres\]"$'),
        needs("postgres", "x"),
    ):
        raise ImportError("no pq wrapper")


# What --help and --version must not wait for.
HEAVY = (
    *("torch", "numpy", "scipy", "pandas", "pyarrow", "matplotlib", "mlflow", "ray", "pydantic", "numba", "nibabel"),
    *("fastapi", "nilearn", "SimpleITK", "yaml", "fsspec", "rich", "jinja2", "sqlalchemy", *OF_EXTRAS),
)
VERBS = ("sweep", "search", "report", "serve", "data demo", "predict", "ensemble create")


@pytest.mark.parametrize("argv", ["--help", "--version", *(f"{verb} --help" for verb in VERBS)])
def test_help_imports_nothing_heavy(argv):
    code = (
        "import sys; from segcal.cli import main\n"
        f"try: main({argv.split()!r})\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.rpartition("LOADED")[2].split()
    assert [name for name in HEAVY if name in loaded] == []
