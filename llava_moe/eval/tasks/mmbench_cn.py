"""Benchmark ``mmbench_cn``: MMBench in Chinese; a question counts only if every rotation of its options is right.

See ``mmbench``.
"""

from __future__ import annotations

from functools import partial

from llava_moe.eval.protocol import Wording
from llava_moe.eval.published_benchmark import Published
from llava_moe.eval.tasks import mmbench

LETTER = "请直接回答选项字母。"
BENCHMARK = Published(
    domain="general",
    remedy="fetch mmbench_dev_cn_20231003.tsv, or "
    "run `hf download lmms-lab/MMBench --repo-type dataset --local-dir FOLDER`",
    read=partial(mmbench.read, language="cn"),
    scorers=mmbench.SCORERS,
    wordings={
        "llava_1_5": Wording(
            f"{mmbench.OPTIONS}\n{LETTER}", "haotian-liu/LLaVA llava/eval/model_vqa_mmbench.py --lang cn", 1024
        ),
        "lmms_eval": Wording(
            "{hint_blank}{question} 有如下几个选项：\n{options}\n\n请直接使用所提供的选项字母作为答案回答。",  # noqa: RUF001
            "lmms-eval 0.7.3 tasks/mmbench/cn_utils.py",
            256,
        ),
        "llava_mole": Wording(f"{mmbench.OPTIONS}\n{LETTER}", "as LLaVA-1.5: LLaVA-MoLE does not report MMBench-CN"),
        "mixlora": Wording(f"{mmbench.OPTIONS}\n{LETTER}", "as LLaVA-1.5: MixLoRA does not report MMBench-CN"),
    },
    known={4329: "dev: 1,164 questions with rotations", 1164: "dev without rotations: not circular"},
    folder="mmbench",
    notes=mmbench.NOTES,
)
