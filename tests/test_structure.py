"""The structure of the package: imports point down, whether they stand at a module's head or inside a function."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import blendbench

ROOT = Path(blendbench.__file__).parent


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, resources left out."""
    found = {}
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[0] not in ("assets", "conf", "data_manifests"):
            found[".".join(("blendbench", *parts)).removesuffix(".__init__")] = file
    return found


def imported(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that a module imports anywhere, for a type checker alone, too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{name}: relative import; write it out"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: {one for one in imported(name, file, known) if one in known} - {"blendbench"}
            for name, file in known.items()}  # fmt: skip


def assert_no_circle(edges: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        raise AssertionError(f"modules import each other: {' <- '.join(error.args[1])}") from None


def test_modules_do_not_import_each_other_in_a_circle():
    assert_no_circle(graph())


def test_packages_do_not_import_each_other_in_a_circle():
    def package(name: str) -> str:
        return name.split(".")[1] if "." in name else name

    edges: dict[str, set[str]] = {}
    for name, others in graph().items():
        edges.setdefault(package(name), set()).update(package(one) for one in others)
    assert_no_circle({name: others - {name} for name, others in edges.items()})


def test_a_circle_of_lazy_imports_is_found(tmp_path):
    """The test's own test: an import inside a function counts."""
    (tmp_path / "a.py").write_text("def f():\n    from blendbench import b\n", encoding="utf-8")
    (tmp_path / "b.py").write_text("from blendbench.a import f\n", encoding="utf-8")
    known = {f"blendbench.{name}": tmp_path / f"{name}.py" for name in "ab"}
    edges = {name: set(imported(name, file, known)) for name, file in known.items()}
    assert edges == {"blendbench.a": {"blendbench.b"}, "blendbench.b": {"blendbench.a"}}
