"""Protocols: how the papers put their questions and drew their answers, as named presets.

A protocol fixes what a benchmark's page leaves open: the sentence in front of a question, the system prompt, how tokens
are drawn and how many. The wording of each benchmark under each protocol stands on the benchmark's page; where a page
says nothing, the protocol's own wording is used, and results say where each wording comes from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llava_moe.data.template import VICUNA_V1_SYSTEM
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import GREEDY, Decoding
from llava_moe.text.did_you_mean import did_you_mean

SHORT_ANSWER = "{question}\nAnswer the question using a single word or phrase."
OPTION_LETTER = "Answer with the option's letter from the given choices directly."
QUESTION_ALONE = "{question}"
LLAVA_V1_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)


@dataclass(frozen=True)
class Wording:
    """How a question is written.

    Attributes:
        template: text with ``{question}`` and other parts of a question in braces.
        source: where the wording is from.
        max_new_tokens: longest answer; None: the protocol's.
    """

    template: str
    source: str
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Protocol:
    """One preset.

    Attributes:
        name: what ``protocol=`` takes.
        title: a line about it.
        wording: of a benchmark whose page has none for this protocol.
        max_new_tokens: longest answer where a wording does not say.
        prefix: in front of every question.
        system: the sentence before the question; None: the one that the model was trained with.
        decoding: how answers are drawn.
    """

    name: str
    title: str
    wording: Wording
    max_new_tokens: int
    prefix: str = ""
    system: str | None = None
    decoding: Decoding = GREEDY

    def draws(self, seed: int) -> Decoding:
        """The decoding, with the seed where there is something to draw."""
        return replace(self.decoding, seed=seed) if self.decoding.temperature > 0 else self.decoding


LLAVA_1_5 = Protocol(
    name="llava_1_5",
    title="LLaVA-1.5's evaluation scripts: greedy, 'Answer the question using a single word or phrase.'",
    wording=Wording(SHORT_ANSWER, "haotian-liu/LLaVA docs/Evaluation.md, short answers"),
    max_new_tokens=128,
)
LMMS_EVAL = Protocol(
    name="lmms_eval",
    title="lmms-eval 0.7.3's tasks: greedy, their own post prompts and scorers",
    wording=Wording(SHORT_ANSWER, "ours: lmms-eval has no such task; worded as its other tasks are"),
    max_new_tokens=16,
)
LLAVA_MOLE = Protocol(
    name="llava_mole",
    title="LLaVA-MoLE's released wrapper: greedy with repetition penalty 10, its sentence before every question",
    wording=Wording(QUESTION_ALONE, "forwchen/LLaVA-MoLE llava_mole_infer.py"),
    max_new_tokens=256,
    # The misspelling is theirs.
    prefix="Analyze the image and provide brief and accurate answer to the question in Engligh. ",
    system=VICUNA_V1_SYSTEM,
    decoding=Decoding(repetition_penalty=10.0),
)
MIXLORA = Protocol(
    name="mixlora",
    title="Conditional MixLoRA's evaluate.py: sampled at temperature 0.2, prompts as its files have them",
    wording=Wording(QUESTION_ALONE, "VT-NLP/MixLoRA llava/cmoa_eval/evaluate.py"),
    max_new_tokens=1024,
    system=LLAVA_V1_SYSTEM,
    decoding=Decoding(temperature=0.2),
)
PROTOCOLS = (LLAVA_1_5, LMMS_EVAL, LLAVA_MOLE, MIXLORA)
DEFAULT_PROTOCOL = LLAVA_1_5


def find_protocol(name: str) -> Protocol:
    """The preset of a name.

    Raises:
        UserError: there is none; the line names the nearest.
    """
    for protocol in PROTOCOLS:
        if protocol.name == name:
            return protocol
    names = [protocol.name for protocol in PROTOCOLS]
    meant = did_you_mean(name, names, cutoff=0.5)
    raise UserError(f"protocol={name} is not known{meant}: choose one of {', '.join(names)}")
