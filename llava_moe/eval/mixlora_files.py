"""The files Conditional MixLoRA is evaluated on: JSON Lines of ``unique_id, prompt, target, image_path``.

Source: VT-NLP/MixLoRA llava/cmoa_eval/evaluate.py. The prompts are whole; ``[Options]`` becomes ``Options``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llava_moe.eval.benchmark import ALL_DOMAINS
from llava_moe.eval.download import Download
from llava_moe.eval.published_benchmark import Item

REMEDY_MIXLORA = "or extract MixLoRA's evaluation data there"


def mixlora_items(
    download: Download,
    task: str,
    *,
    part: str = ALL_DOMAINS,
    closed: bool = False,
    references: Callable[[str], tuple[str, ...]] = lambda target: (target,),
) -> Iterator[Item]:
    """The items of ``<task>.jsonl``; none where the file is not there.

    Args:
        references: the answers that count, from a line's target.
    """
    for file in download.find(f"{task}.jsonl")[:1]:
        for row in download.rows(file):
            yield Item(
                id=f"{task}/{download.text(row, 'unique_id')}",
                images=(download.image(download.text(row, "image_path"), beside=file),),
                words={"question": download.text(row, "prompt").replace("[Options]", "Options")},
                references=references(download.text(row, "target")),
                part=part,
                closed=closed,
                is_ready=True,
            )
