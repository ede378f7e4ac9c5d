"""Which keys of the command line take free text, name files, or may be ones that no file has. It imports nothing.

Free text (paths, prompts) may hold blanks, quotes, commas and ``=``, which Hydra's grammar would take apart.
"""

from __future__ import annotations

FREE_TEXT = (
    *("run", "out", "prompt", "image", "path", "images", "model.path", "init_from", "static"),
    *("data.root", "data.quarantine", "downloads", "benchmark_root"),
    *("model.peft", "model.endpoint", "model.name", "more", "cells", "eval.images"),
)
NO_PATHS = ("prompt", "static", "model.endpoint", "model.name", "more")
"""Those of ``FREE_TEXT`` that name no file."""

MIXTURE_ENDINGS = (".yaml", ".yml")
"""How a file of sources is called, which ``data=`` takes in the place of a name."""

# Mappings whose keys the user names.
OPEN_MAPPINGS = ("benchmark_paths",)
# Below these, a key may be one that the file at hand does not have; elsewhere that is a mistake, plus or no plus.
OPEN_ENDED = ("data.sources.", "parallel.extra.", "stage.learning_rates.", "benchmark_paths.", "hydra.")
