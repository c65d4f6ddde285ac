"""A built wheel, installed beside its dependencies alone, in a folder with a `flows/` and a `pipeline/` of its own."""

from __future__ import annotations

import json
import re
import sqlite3
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import pipeline

from .installed import ROOT, build, install, run

TOOK = re.compile(r" {2,}[\d.msh ]+$", re.MULTILINE)


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def wheel(products: Path) -> Path:
    (found,) = products.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment without Prefect."""
    return install(wheel, "", tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def with_flows(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with Prefect."""
    return install(wheel, "[flows]", tmp_path_factory.mktemp("flows"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with packages of the same names as ours, and a small config."""
    digits = ROOT / "data_samples/digits"
    config = {
        "name": "tiny",
        "data": {role: str(digits / role) for role in ("train", "validation", "holdout")}
        | {"features": {"image": "image"}, "label": "label", "key": "index"},
        "model": {"name": "mlp", "hidden": [16]},
        "training": {"epochs": 2, "checkpoints": 2},
        "detection": {"halves": False, "panel": False, "backdoors": False},
        "verification": {"seeds": 0},
        "compute": {"workers": 1},
    }
    path = tmp_path / "work"
    for name in ("flows", "pipeline"):
        (path / name).mkdir(parents=True)
        (path / name / "__init__.py").write_text("raise RuntimeError('the wrong one')\n")
    (path / "tiny.yaml").write_text(yaml.safe_dump(config))
    return path


def test_the_wheel_has_our_packages_and_what_they_read(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    templates = [path for path in (ROOT / "pipeline/report/templates").iterdir() if path.is_file()]
    assert templates
    ours = [path for name in ("pipeline", "flows") for path in (ROOT / name).rglob("*.py")]
    for path in [*templates, *ours, ROOT / "pipeline/py.typed"]:
        assert path.relative_to(ROOT).as_posix() in names
    assert {name.split("/")[0] for name in names} == {
        "pipeline",
        "flows",
        f"winnow-{pipeline.__version__}.dist-info",
    }


def test_the_sdist_has_the_licence_and_the_changes(products: Path) -> None:
    (path,) = products.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "CHANGELOG.md", "README.md", "pyproject.toml"} <= names


def test_the_metadata_keep_prefect_out_of_what_everybody_gets(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["Version"] == pipeline.__version__
    for_all = [each for each in metadata.get_all("Requires-Dist") if "extra ==" not in each]
    assert any(each.startswith("torch") for each in for_all)
    assert not [each for each in for_all if each.startswith(("prefect", "fastapi", "pytest"))]
    assert {"flows", "dev"} <= set(metadata.get_all("Provides-Extra"))


def test_an_audit_is_the_same_with_prefect_and_without(plain: Path, with_flows: Path, folder: Path) -> None:
    prefect_home = folder.parent / "prefect"
    shown, versions, rows = {}, {}, {}
    for name, programs in (("plain", plain), ("flows", with_flows)):
        arguments = [str(programs / "winnow"), "audit", "tiny.yaml", "--output", "run"]
        done = run(arguments, folder, HOME=str(folder.parent), PREFECT_HOME=str(prefect_home))
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert (folder / "run/report/index.html").exists()
        assert prefect_home.exists() == (name == "flows")
        shown[name] = TOOK.sub("", done.stdout)
        versions[name] = json.loads((folder / "run/record.json").read_text())["versions"]
        rows[name] = (folder / "run/rows.parquet").read_bytes()
        (folder / "run").rename(folder / f"run-{name}")
    assert "NOT TESTED" in shown["plain"]
    assert shown["flows"] == shown["plain"]
    assert rows["flows"] == rows["plain"]
    assert versions["flows"] == versions["plain"] | {"prefect": versions["flows"]["prefect"]}
    assert flow_runs(prefect_home / "prefect.db") == [("winnow-audit", "COMPLETED")]


def flow_runs(database: Path) -> list[tuple[str, str]]:
    """What Prefect keeps of its runs: name of the flow and type of the final state."""
    query = "select flow.name, flow_run.state_type from flow_run join flow on flow.id = flow_run.flow_id"
    connection = sqlite3.connect(database)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_what_needs_prefect_says_what_to_install(plain: Path, folder: Path) -> None:
    done = run([str(plain / "winnow"), "schedule", "tiny.yaml", "--cron", "0 3 * * 1"], folder)
    assert done.returncode == 2
    assert done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert first == "error: winnow schedule needs Prefect (prefect is not installed)"
    assert ".[flows]" in "\n".join(rest)


def test_help_is_there_without_prefect(plain: Path, folder: Path) -> None:
    done = run([str(plain / "winnow"), "--help"], folder)
    assert done.returncode == 0
    assert "  schedule " in done.stdout


def test_a_script_beside_packages_of_our_names_needs_a_safe_path(plain: Path, folder: Path) -> None:
    (folder / "clean.py").write_text("import pipeline\nprint(pipeline.__version__)\n")
    python = str(plain / "python")
    assert "the wrong one" in run([python, "clean.py"], folder).stderr
    assert run([python, "-P", "clean.py"], folder).stdout.strip() == pipeline.__version__
