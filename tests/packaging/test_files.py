"""The wheel and the sdist hold every file of the project that belongs there, and no other."""

import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import segcal
from tests.packaging.building import PROJECT, build

FOR_HOSTS_OF_GIT = (".ci/", ".git", ".pre-commit-config.yaml")


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def package_files(tracked: list[str]) -> set[str]:
    """The files of the package, those behind its links as well."""
    names = set()
    for name in tracked:
        path = PROJECT / name
        if not name.startswith("segcal/"):
            continue
        if path.is_symlink() and path.is_dir():
            behind = path.resolve().relative_to(PROJECT).as_posix() + "/"
            names |= {f"{name}/{other.removeprefix(behind)}" for other in tracked if other.startswith(behind)}
        else:
            names.add(name)
    return names


def test_the_wheel_holds_the_package_and_no_other_file(wheel, tracked):
    files = contents(wheel)
    metadata = f"segcal-{segcal.__version__}.dist-info/"
    assert {name for name in files if not name.startswith(metadata)} == package_files(tracked)
    for name in ("segcal/MLproject", "segcal/sweeps/brain.yaml", "segcal/dashboards/templates/case.html"):
        assert files[name] == (PROJECT / name).read_bytes()  # a file, not a link


def test_the_sdist_holds_what_git_tracks(sdist, tracked):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if not archive.getmember(name).isdir()}
    expected = {name for name in tracked if not (PROJECT / name).is_dir() and not name.startswith(FOR_HOSTS_OF_GIT)}
    assert expected <= names
    made = {name for name in names - expected if not name.startswith(("segcal/", "segcal.egg-info/"))}
    assert made == {"PKG-INFO", "setup.cfg"}
    assert {name for name in names if name.startswith("segcal/")} == package_files(tracked)


def test_the_wheel_of_the_sdist_is_the_wheel_of_the_checkout(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    again, first = contents(build(unpacked, tmp_path / "out", "--wheel")), contents(wheel)
    assert {name for name in first if again.get(name) != first[name]} == set()
    assert set(again) == set(first)


def test_the_metadata_say_what_it_is(wheel):
    files = contents(wheel)
    (name,) = (name for name in files if name.endswith(".dist-info/METADATA"))
    said = message_from_bytes(files[name])
    assert (said["Name"], said["Version"]) == ("segcal", segcal.__version__)
    assert said["License-Expression"] == "Apache-2.0"
    extras = {"search", "service", "dicom-seg", "s3", "postgres", "server", "cluster", "docs", "dev"}
    assert set(said.get_all("Provides-Extra")) == extras
    needed = [line for line in said.get_all("Requires-Dist") if "extra ==" not in line]
    assert all("<" not in line and "==" not in line for line in needed), needed  # exact ones: constraints.txt
    assert said.get_payload().startswith("# segcal")


def test_the_commands_and_plug_ins_are_there(wheel):
    files = contents(wheel)
    (name,) = (name for name in files if name.endswith(".dist-info/entry_points.txt"))
    said = files[name].decode()
    assert "segcal = segcal.cli:main" in said
    assert "segcal = segcal.ledger.launch:SweepExperiment" in said
