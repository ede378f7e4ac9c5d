"""Mixtures in files of one's own: ``data=FILE.yaml``, and ``FOLDER/data/NAME.yaml`` of ``--config-dir FOLDER``.

Paths in such a file start from the folder it lies in, and its sources are all it needs. So do the files of questions
that ``FOLDER/exp/NAME.yaml`` names in ``eval.benchmarks`` and ``eval.during``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from llava_moe.config.as_word import as_word
from llava_moe.config.config_folder import config_folder
from llava_moe.config.free_text import MIXTURE_ENDINGS
from llava_moe.config.known_keys import data_keys, source_keys
from llava_moe.config.nearest_key import suggest
from llava_moe.config.own_yamls import MOST_BYTES
from llava_moe.embedded_base import EMBEDDED
from llava_moe.errors import UserError
from llava_moe.files.regular_file import read_regular
from llava_moe.plugins import config_folders
from llava_moe.text.escape_control import visible
from llava_moe.text.structured_text import StructuredTextError, parse_yaml

Tell = Callable[[str], None]
GROUP = "data"
_QUESTIONS = ("benchmarks", "during")
# The format whose path is none: it names what is made up.
_NO_FILE = "conflict"


@contextmanager
def own_mixtures() -> Iterator[None]:
    """Have Hydra find mixtures by the path of their file, and read all that are not shipped by :func:`read_mixture`."""
    initialize = ConfigRepository.initialize_sources
    told: set[str] = set()

    # Trap: Hydra copies its sources in depth before each reading, and a set with them; a function stays itself.
    def tell_once(line: str) -> None:
        if line not in told and os.environ.get("RANK", "0") == "0":
            sys.stderr.write(visible(f"llava-moe: {line}") + "\n")
        told.add(line)

    def with_ours(self: ConfigRepository, config_search_path: ConfigSearchPath) -> None:
        initialize(self, config_search_path)
        shipped = str(config_folder())
        sources = [
            # Trap: Hydra loads the module of its own class a second time, so isinstance says no.
            _Folder(one, tell_once) if one.scheme() == _Folder.scheme() and one.path != shipped else one
            for one in self.sources
        ]
        kind = next(type(one) for one in self.sources if one.scheme() == _Folder.scheme())
        packaged = [_Folder(kind("plugin", f"file://{folder}"), tell_once) for folder in config_folders()]
        # Hydra holds that its own is the last.
        self.sources = [*sources[:-1], *packaged, _Files(), *sources[-1:]]

    ConfigRepository.initialize_sources = with_ours  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigRepository.initialize_sources = initialize  # type: ignore[method-assign]


class _Files(ConfigSource):
    """Hydra's view of the files that ``data=`` names by their path."""

    def __init__(self) -> None:
        super().__init__("llava-moe", f"{self.scheme()}://")

    @staticmethod
    def scheme() -> str:
        return "mixture"

    def load_config(self, config_path: str) -> ConfigResult:
        place = _place_of(config_path)
        assert place is not None
        return _result(self, read_mixture(place))

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return False

    def is_config(self, config_path: str) -> bool:
        return _place_of(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return []


class _Folder(ConfigSource):
    """Hydra's view of a folder of the user's own, whose mixtures are read by :func:`read_mixture`.

    Args:
        inner: Hydra's own, which does all else.
        tell: says a line to the user.
    """

    def __init__(self, inner: ConfigSource, tell: Tell) -> None:
        super().__init__(inner.provider, inner.full_path())
        self.inner, self.tell = inner, tell

    @staticmethod
    def scheme() -> str:
        return "file"

    def load_config(self, config_path: str) -> ConfigResult:
        place = Path(self.path) / self._normalize_file_name(config_path)
        if config_path.startswith(f"{GROUP}/") and place.is_file():
            content = place.read_bytes()[:512].decode(errors="replace")
            # A file that says itself where its keys go is none of sources.
            if self._get_header_dict(content)["package"] is None:
                return _result(self, read_mixture(_shown(place), self.tell))
        result = self.inner.load_config(config_path)
        if config_path.startswith("exp/") and place.is_file():
            result.config = _with_questions(result.config, _shown(place))
        return result

    def available(self) -> bool:
        return self.inner.available()

    def is_group(self, config_path: str) -> bool:
        return self.inner.is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        return self.inner.is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return self.inner.list(config_path, results_filter)


def _shown(place: Path) -> Path:
    """A path from the current folder, where it lies below it."""
    shown = Path(os.path.relpath(place))
    return place if str(shown).startswith("..") else shown


def _with_questions(config: Any, file: Path) -> Any:
    """An experiment in which the files among its benchmarks, and the folder of their images, start from its folder."""
    content = OmegaConf.to_container(config, resolve=False)
    told = content.get("eval") if isinstance(content, dict) else None
    if not isinstance(told, dict) or not any(key in told for key in (*_QUESTIONS, "images")):
        return config
    from llava_moe.eval.tasks import is_own

    for key in _QUESTIONS:
        if isinstance(told.get(key), list):
            told[key] = [
                _rebased(one, file, None) if isinstance(one, str) and is_own(one) else one for one in told[key]
            ]
    images = told.get("images")
    if isinstance(images, dict):
        # As the command line says it.
        told["images"] = json.dumps({name: _rebased(str(one), file, None) for name, one in images.items()})
    elif isinstance(images, str) and not images.startswith("{"):
        told["images"] = _rebased(images, file, None)
    return OmegaConf.create(content)


def _place_of(config_path: str) -> Path | None:
    group, _, name = config_path.partition("/")
    if group != GROUP or not name.endswith(MIXTURE_ENDINGS):
        return None
    place = Path(name).expanduser()
    return place if place.is_file() else None


def _result(source: ConfigSource, content: Mapping[str, Any]) -> ConfigResult:
    return ConfigResult(
        provider=source.provider,
        path=source.full_path(),
        config=OmegaConf.create(dict(content)),
        header={"package": None},
    )


def read_mixture(path: Path, tell: Tell | None = None) -> dict[str, Any]:
    """The keys of a file of sources, its paths as they are written from the folder of the command.

    Where a source says no folder of images, their paths start from the folder of the file, too.

    Args:
        tell: says a line of each path that starts from the folder of the command, as they all did in an earlier
            release; None: no path does.

    Raises:
        UserError: it cannot be read, holds no sources, or has a key that none has.
    """
    try:
        content = parse_yaml(read_regular(path, MOST_BYTES))
    except StructuredTextError as error:
        twice = "; two sources need two names" if "stands twice" in str(error) else ""
        raise UserError(f"{path}: {error}{twice}: fix that file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check data=") from error
    _check_keys(path, content)
    sources = content.get("sources") or {}
    for name, source in sources.items():
        if "defaults" not in content:
            source.setdefault("domain", str(name))
        typed = source.get("path")
        for key in ("path", "images"):
            if isinstance(source.get(key), str) and not (key == "path" and source.get("format") == _NO_FILE):
                source[key] = _rebased(source[key], path, tell)
        is_elsewhere = path.parent != Path() and (
            source.get("path") != typed or os.path.isabs(os.path.expanduser(str(typed)))
        )
        if source.get("images") is None and is_elsewhere:
            source["folder"] = str(path.parent)
    return dict(content)


def _check_keys(path: Path, content: Any) -> None:
    wanted = "sources: {NAME: {path: FILE}}"
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no sources: write {wanted}")
    is_whole = "defaults" not in content
    if is_whole and set(content) == {"data"} and isinstance(content["data"], dict):
        raise UserError(f"{path}: its keys stand one level too deep: leave the line data: out")
    known = [*data_keys(), "defaults"]
    if unknown := [key for key in content if key not in known]:
        keys = ", ".join(one for one in known if one != "defaults")
        raise UserError(f"{path}: unknown key {unknown[0]}{suggest(str(unknown[0]), known)}: the keys there are {keys}")
    sources = content.get("sources")
    if (is_whole and not sources) or not isinstance(sources, dict | None):
        raise UserError(f"{path}: holds no sources: write {wanted}")
    for name, source in (sources or {}).items():
        if not isinstance(source, dict):
            example = source if isinstance(source, str) else "FILE"
            raise UserError(f"{path}: sources.{name}={as_word(source)}: write {name}: {{path: {example}}}")
        if unknown := [key for key in source if key not in source_keys()]:
            near = suggest(str(unknown[0]), source_keys())
            raise UserError(
                f"{path}: unknown key sources.{name}.{unknown[0]}{near}: the keys there are {', '.join(source_keys())}"
            )
        if is_whole and source.get("path") is None:
            raise UserError(f"{path}: sources.{name} has no path: add path: FILE")


def _rebased(place: str, file: Path, tell: Tell | None) -> str:
    if "://" in place or place.startswith(("/", "~", "${", EMBEDDED)):
        return place
    rebased = os.path.join(file.parent, place) if file.parent != Path() else place
    if tell is None or _is_there(rebased) or not _is_there(place):
        return rebased
    tell(
        f"{file}: {place} is read from the folder of the command, as in an earlier release; paths in a file start from "
        f"its own folder: write {os.path.relpath(place, file.parent)} there"
    )
    return place


def _is_there(place: str) -> bool:
    return os.path.exists(place) or (has_magic(place) and bool(glob(place)))
