"""The shape of the project: who imports whom, what starts without torch, what is public."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

import crispseg

ROOT = Path(crispseg.__file__).parent

# A package or top-level module may import these, and itself (docs/architecture.md).
MAY_IMPORT = {
    "types": set(),
    "io": {"types"},
    "tiling": {"types", "io"},
    "layers": {"types"},
    "models": {"types", "io", "layers"},
    "runtime": {"types", "io", "layers", "models", "tiling"},
    "refiners": {"types", "io", "layers", "models", "tiling", "runtime"},
    "segmenters": {"types", "layers", "models", "tiling", "runtime"},
    "data": {"types", "io", "metrics"},
    "train": {"types", "io", "layers", "models", "data", "metrics", "runtime"},
    "preview": {"types"},
    "metrics": {"types"},
    "large_rows": {"types", "io"},
    "large": {"types", "io", "tiling", "refiners", "runtime", "large_rows"},
    "large_labels": {"types", "io", "tiling", "segmenters", "runtime", "large"},
    "pipeline": {
        *("types", "io", "models", "refiners", "segmenters", "tiling", "preview", "large"),
        "large_labels",
        "runtime",
    },
    "batch": {"types", "io", "large", "large_labels", "pipeline", "refiners", "segmenters"},
    "bench": {"types", "io", "pipeline", "refiners", "tiling", "runtime"},
    "methods": {"types", "models", "refiners", "segmenters", "tiling", "pipeline"},
    "evaluation": {"__init__", "types", "io", "data", "metrics", "preview", "refiners"},
    "__init__": {"types", "pipeline", "refiners", "segmenters", "runtime"},
    "cli": {
        *("__init__", "types", "io", "models", "refiners", "train", "preview", "pipeline"),
        *("evaluation", "segmenters", "data", "large", "runtime", "methods", "batch", "bench"),
        *("large_labels", "tiling"),
    },
    "__main__": {"cli"},
}
MODULES = sorted(ROOT.rglob("*.py"))
LARGEST_FILE, LARGEST_FUNCTION = 400, 80


def home(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """First names under ``crispseg`` that a module imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "crispseg":
                first = rest.partition(".")[0]
                is_module = (ROOT / first).is_dir() or (ROOT / f"{first}.py").exists()
                yield first if first and is_module else "__init__"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    assert set(imported(path)) - {home(path)} <= MAY_IMPORT[home(path)]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small_and_documented(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{path} says nothing about itself"
    assert text.count("\n") <= LARGEST_FILE
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < LARGEST_FUNCTION, node.name


def test_nobody_imports_what_sits_on_top() -> None:
    for path in MODULES:
        if home(path) not in ("cli", "web", "__main__"):
            assert not {"cli", "web"} & set(imported(path)), path


def test_no_function_is_written_twice() -> None:
    places = defaultdict(set)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                places[ast.unparse(node.args), *map(ast.unparse, body)].add(f"{path}:{node.name}")
    abstract = ((), ("raise NotImplementedError",))  # what every interface says alike
    copies = [w for code, w in places.items() if len(w) > 1 and code[1:] not in abstract]
    assert not copies


@pytest.mark.parametrize(
    "code",
    [
        "import crispseg",
        "import crispseg.types, crispseg.io",
        "import crispseg.tiling.grid, crispseg.tiling.sliding",
        "import crispseg.metrics.boundary, crispseg.metrics.calibration",
        "import crispseg.evaluation.run",
        "from crispseg.cli.main import run; run(['--help'])",
        "from crispseg.cli.main import run; run(['models'])",
    ],
)
def test_starts_without_torch(code: str) -> None:
    check = "\nimport sys; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names() -> None:
    assert crispseg.__all__ == [
        "Box",
        "CascadeRefiner",
        "CrispsegError",
        "InputError",
        "Size",
        "__version__",
        "keep_freed_memory",
        "load_refiner",
        "load_segmenter",
        "refine",
        "refine_file",
        "refine_labels",
        "segment",
    ]
    for name in crispseg.__all__:
        assert getattr(crispseg, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'refin'"):
        crispseg.refin  # noqa: B018


def test_no_machine_is_named() -> None:
    repository = ROOT.parents[1]
    if not (repository / "pyproject.toml").exists():
        pytest.skip("not a checkout")
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=repository, capture_output=True, text=True, check=False
    ).stdout.split()
    wanted = {".py", ".md", ".toml", ".txt", ".yml", ""}
    for name in tracked:
        path = repository / name
        if path.suffix in wanted and path.is_file() and path != Path(__file__):
            text = path.read_text(encoding="utf-8")
            assert "/root/" not in text, name
            assert "file:///" not in text, name


def test_data_files_are_part_of_the_package() -> None:
    project = ROOT.parents[1] / "pyproject.toml"
    if not project.exists():
        pytest.skip("not a checkout")
    settings = tomllib.loads(project.read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["crispseg"]
    for path in ROOT.rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            name = str(path.relative_to(ROOT))
            assert any(fnmatch(name, pattern) for pattern in patterns), name


def test_test_files_have_names_of_their_own() -> None:
    """Without packages, pytest cannot import two of one name."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1]
