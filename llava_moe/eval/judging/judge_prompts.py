"""Five ways to ask a language model whether an answer is right, as Tiny LVLM-eHub's ChatGPT ensemble does.

Each prompt ends its reply with a key of its own and 1 or 0 behind it, which
:func:`~llava_moe.eval.metrics.tiny_lvlm_cee_vote` reads. Rubrics, keys and order are the reference's; the sentences are
ours, so that scores are near the published ones and not the same.

Source: OpenGVLab/Multi-Modality-Arena ``tiny_lvlm_evaluation/chatgpt_ensemble_evaluation/prompt_lib.py`` (the rules of
each prompt) and ``chatgpt_evaluate.py`` (question, true answer and answer behind them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llava_moe.eval.metrics.tiny_lvlm import CEE_KEYS

TEMPERATURE = 0.5
"""The reference's."""


@dataclass(frozen=True)
class Rubric:
    """One prompt: who the judge is, when an answer is worth 1, and what the reply looks like."""

    role: str
    task: str
    rules: str
    heading: str
    key: str

    def messages(self, question: str, references: Sequence[str], prediction: str) -> list[dict[str, str]]:
        """The conversation that asks for one judgement."""
        asked = (
            f"{self.task} {self.rules} Write your reasoning first, in one paragraph that begins with "
            f"'{self.heading}:'. Then finish with your verdict, written as '{self.key}: 1' or '{self.key}: 0', and "
            f"write nothing after it.\n\nQuestion: {question}\nCorrect answer: {' or '.join(references)}\n"
            f"Student's answer: {prediction}"
        )
        return [{"role": "system", "content": self.role}, {"role": "user", "content": asked}]


_EXAM = "You grade exam answers. You reason with care, know many subjects and read English well."
_COMPARE = "Compare a student's answer to an exam question with the correct answer, and give it 1 or 0."

RUBRICS = (
    Rubric(
        _EXAM,
        _COMPARE,
        "1: the answer means the same as the correct one, also where much else that is beside the point follows. "
        "0: it is wrong, or it mixes right and wrong statements.",
        "Analysis",
        CEE_KEYS[0],
    ),
    Rubric(
        "You assess answers to academic tests, with wide knowledge and sound logic.",
        "You get a test question, its correct answer and what a student wrote. Hold the two against each other.",
        "1: the student's answer is right in meaning, also with further explanation that is right and to the point. "
        "0: it is wrong, or it names both right and wrong options.",
        "Assessment",
        CEE_KEYS[1],
    ),
    Rubric(
        "You are a careful examiner at home in many fields, in logic and in the English language.",
        "Judge a student's answer to a test question by the answer that is known to be correct.",
        "1: the answer is right in meaning, with or without further valid explanation. "
        "0: it is wrong, or it holds right and wrong options together.",
        "Analysis",
        CEE_KEYS[2],
    ),
    Rubric(
        "You examine academic answers: logical, versed in the subjects, exact with language.",
        "Examine what a student answered to a test question in the light of the correct answer, strictly.",
        "1: the answer is right in meaning. "
        "0: it is wrong, it mixes right and wrong, or it is right but comes with many wrong explanations.",
        "Evaluation",
        CEE_KEYS[3],
    ),
    Rubric(
        _EXAM,
        _COMPARE,
        "1: the answer means the same as the correct one. "
        "0: it is wrong, it names both right and wrong options, or it names the right option and explains it wrongly.",
        "Analysis",
        CEE_KEYS[4],
    ),
)
