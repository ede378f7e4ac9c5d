"""Files of one's own questions among the benchmarks: where their images are, and the benchmarks of a training."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from llava_moe.config.path_mappings import is_mapping, read_mapping
from llava_moe.data.readers.path_suggestion import path_meant
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Benchmark
from llava_moe.eval.tasks import Places, called, is_own, open_benchmark
from llava_moe.run_config import RunConfig
from llava_moe.runs.cache_folder import cache_folder
from llava_moe.runs.named_files import know_benchmarks


def image_folders(key: str, given: str | None, words: Sequence[str]) -> str | Mapping[str, str] | None:
    """The folder of the images of files in ``benchmarks=``, or one for each file by what its scores are called.

    Args:
        key: ``images``, or ``eval.images``.
        given: a folder, ``{NAME: FOLDER, ...}``, or None.
        words: names of benchmarks, and files.

    Raises:
        UserError: no file is among them, a name that is none of theirs, or no such folder.
    """
    if given is None:
        return None
    names = [called(word) for word in words if is_own(word)]
    if not names:
        raise UserError(f"{key}={given}: belongs to a file of your own questions, and no benchmark here is one")
    folders = _folders(key, given, names)
    for name, folder in folders.items():
        if name not in names:
            raise UserError(f"{key}: {name} is none of the files of questions, {', '.join(names)}")
        if not os.path.isdir(folder):
            raise UserError(f"{key}={folder}: no such folder{path_meant(Path(folder), only_folders=True)}")
    return folders


def images_word(key: str, given: str | None, words: Sequence[str]) -> tuple[str, ...]:
    """The word that gives these files their folders, of what was given for more files; none where there is none.

    Args:
        key, given, words: as of :func:`image_folders`.
    """
    names = [called(word) for word in words if is_own(word)]
    if given is None or not names:
        return ()
    folders = _folders(key, given, names)
    kept = {name: folder for name, folder in folders.items() if name in names}
    return (f"{key}={json.dumps(kept, ensure_ascii=False)}",) if kept else ()


def _folders(key: str, given: str, names: Sequence[str]) -> Mapping[str, str]:
    """The folder of each file: one for all, or what a mapping says."""
    return read_mapping(key.rpartition(".")[2], given) if is_mapping(given) else dict.fromkeys(names, given)


def training_benchmarks(config: RunConfig, names: Sequence[str]) -> list[Benchmark]:
    """The benchmarks that a training asks, at its end or on its way.

    Args:
        config: a resolved configuration of ``train``.
        names: ``eval.benchmarks`` or ``eval.during`` of it.

    Raises:
        UserError: there is no such benchmark, or its data cannot be used.
    """
    settings = config.eval
    know_benchmarks(names)
    words = [*settings.benchmarks, *settings.during]
    places = Places(cache=cache_folder(), images=image_folders("eval.images", settings.images, words))
    return [open_benchmark(one, settings.limit, config.seed, places=places) for one in dict.fromkeys(names)]
