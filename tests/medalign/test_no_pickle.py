"""No pickle on any load path: none in the sources, and planted ones do not run."""

import ast
from pathlib import Path

import medalign
import medalign_core


def test_nothing_in_the_sources_loads_a_pickle() -> None:
    roots = [Path(medalign.__file__).parent, Path(medalign_core.__file__).parent]
    files = [path for root in roots for path in root.rglob("*.py")]
    assert len(files) > 80
    found = [f"{path}:{line}" for path in files for line in _pickle_loads(ast.parse(path.read_text()))]
    assert found == []


def test_the_search_for_pickles_finds_them() -> None:
    bad = [
        "import pickle",
        "from cloudpickle import loads",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "np.load(x, allow_pickle=True)",
        "yaml.load(x)",
        "yaml.unsafe_load(x)",
        "joblib.load(x)",
        "pd.read_pickle(x)",
    ]
    assert [len(list(_pickle_loads(ast.parse(text)))) for text in bad] == [1] * len(bad)
    good = ["np.load(x)", "torch.load(x, weights_only=True)", "yaml.safe_load(x)", "checkpoint.load(x, y)"]
    assert [list(_pickle_loads(ast.parse(text))) for text in good] == [[]] * len(good)


def _pickle_loads(tree: ast.AST) -> list[int]:
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt | ast.expr) and _loads_pickle(node)]


def _loads_pickle(node: ast.stmt | ast.expr) -> bool:
    modules = {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in modules for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in modules
    if not isinstance(node, ast.Call):
        return False
    called = ast.unparse(node.func)
    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
    return (
        (called == "torch.load" and given.get("weights_only") != "True")
        or given.get("allow_pickle", "False") != "False"
        or called in {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "joblib.load"}
        or called.endswith("read_pickle")
    )
