"""What is imported is declared, what is pinned is needed, and both images can build the wheel."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# A module whose package has another name.
PACKAGE_OF = {"PIL": "pillow", "yaml": "pyyaml", "hydra": "hydra-core", "google": "protobuf"}
# Only ever run inside lmms-eval, which brings it.
FROM_LMMS_EVAL = {"lmms_eval", "tqdm"}
# Known to type checkers alone, and never imported when the code runs.
OF_TYPE_CHECKERS = {"_typeshed"}
# What torch's CUDA build brings on top; the CPU build has none of it.
CUDA = ("nvidia-", "cuda-", "triton")


def names_of(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(one).name) for one in requirements}


def imported_packages() -> dict[str, set[str]]:
    """Package -> the files of ours that import it."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "llava_moe").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            roots = {module.split(".")[0] for module in modules} - {"llava_moe"} - OF_TYPE_CHECKERS
            for root in roots - set(sys.stdlib_module_names):
                found.setdefault(canonicalize_name(PACKAGE_OF.get(root, root)), set()).add(path.name)
    return found


def test_everything_that_is_imported_is_declared() -> None:
    declared = names_of(PROJECT["dependencies"])
    optional = names_of([one for extra in ("train", "peft") for one in PROJECT["optional-dependencies"][extra]])
    unknown = {name: files for name, files in imported_packages().items() if name not in declared | optional}
    assert set(unknown) <= {canonicalize_name(name) for name in FROM_LMMS_EVAL}, unknown
    # What an extra alone brings may not be needed to import anything else.
    homes = {name: files for name, files in imported_packages().items() if name in optional - declared}
    assert homes.keys() <= {"deepspeed", "peft", "wandb"}, homes


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def closure(package: str, extra: str) -> set[str]:
    """Every package that ``package[extra]`` needs here, itself left out, by what is installed says of itself."""
    seen: dict[str, set[str]] = {}
    waiting = [(canonicalize_name(package), {extra})]
    while waiting:
        name, extras = waiting.pop()
        if name in seen and extras <= seen[name]:
            continue
        seen.setdefault(name, set()).update(extras)
        for line in importlib.metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": one}) for one in ("", *seen[name])):
                waiting.append((canonicalize_name(needed.name), set(needed.extras)))
    return set(seen) - {canonicalize_name(package)}


def is_tested_set() -> bool:
    installed = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "datasets", "peft")}
    return all(version.split("+")[0] == pins()[name] for name, version in installed.items())


def test_the_constraints_hold_what_is_needed_and_nothing_else() -> None:
    if not is_tested_set():
        pytest.skip("other versions are installed than the tested ones, and they need other packages")
    needed = {name for name in closure("llava-moe", "dev") if not name.startswith(CUDA)}
    assert pins().keys() == needed
    for name in needed:
        assert importlib.metadata.version(name).split("+")[0] == pins()[name], name


def test_every_pin_lies_within_the_declared_bounds() -> None:
    for line in [
        *PROJECT["dependencies"],
        *(one for extra in PROJECT["optional-dependencies"].values() for one in extra),
    ]:
        requirement = Requirement(line)
        pin = pins().get(canonicalize_name(requirement.name))
        assert pin is None or requirement.specifier.contains(pin), line


@pytest.mark.parametrize("target", ["os.system", "posix.system", "logging.os.system", "pickle.load", "subprocess.run"])
def test_the_hydra_that_is_allowed_instantiates_nothing_that_runs_programs(target: str) -> None:
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    bounds = next(Requirement(one).specifier for one in PROJECT["dependencies"] if one.startswith("hydra-core"))
    # Earlier ones were tried: up to 1.3.3 all of these are called, up to 1.3.5 those under another module's name.
    assert not any(bounds.contains(f"1.3.{patch}") for patch in range(6))
    with pytest.raises(InstantiationException, match="blocklisted"):
        instantiate({"_target_": target, "_args_": ["true"]})


def test_both_commands_of_the_readme_install_the_constraints() -> None:
    for target in ("demo", "test"):
        said = subprocess.run(
            ["make", "--dry-run", "--always-make", target], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        installs = [line for line in said.splitlines() if "pip install" in line and " -e " in line]
        assert installs and all(" -c constraints.txt " in line for line in installs), installs


def copied_by(dockerfile: str) -> list[str]:
    """What a Dockerfile copies into the folder in which it installs the package."""
    text = (ROOT / "docker" / dockerfile).read_text(encoding="utf-8")
    before = text[: text.index("RUN pip install --no-cache-dir -c constraints.txt")]
    return [path for line in re.findall(r"^COPY (.+)$", before, re.MULTILINE) for path in line.split()[:-1]]


def test_both_images_copy_the_same_files() -> None:
    assert copied_by("Dockerfile") == copied_by("Dockerfile.cpu")


@pytest.mark.slow
def test_the_images_copy_what_the_wheel_is_built_from(tmp_path: Path) -> None:
    for path in copied_by("Dockerfile.cpu"):
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, tmp_path / path, ignore=shutil.ignore_patterns("__pycache__", "demo_*"))
        else:
            shutil.copy(ROOT / path, tmp_path / path)
    build = "from hatchling.build import build_wheel; print(build_wheel('dist'))"
    built = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert list((tmp_path / "dist").glob("llava_moe-*.whl"))
    assert (tmp_path / "constraints.txt").is_file()
