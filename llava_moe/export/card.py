"""The model card of an export: what it is made of, what it was trained on, what it scores, how it is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_moe.data.images.reading import ImageReading
from llava_moe.export.held_out import StaticCost
from llava_moe.export.proof import Comparison
from llava_moe.text.markdown import markdown_code, markdown_text


@dataclass(frozen=True)
class DomainData:
    """What a run read of one domain."""

    domain: str
    sources: tuple[str, ...]
    samples: int
    supervised_tokens: int


@dataclass(frozen=True)
class Card:
    """Everything that a card says.

    Attributes:
        name: the run's.
        form: ``hf`` or ``peft``.
        base: hub id or words for the base; ``hub_base`` the hub id where there is one.
        method, settings: of the adapter; ``none`` and nothing where the base itself was trained.
        base_folder: where the PEFT folders' base lies: ``base`` beside them, or a published one.
        adapters: the PEFT folders, ``""`` for the export's own folder.
        static: how a mixture that depends on the input was held constant, in words; ``None`` where none was.
        scores: Markdown tables of the run's evaluations.
        num_unread: lines of the run's log that could not be read, of which ``data`` says nothing.
        reading: how training read images, which Hugging Face's processor leaves to its caller.
    """

    name: str
    form: str
    base: str
    hub_base: str | None
    method: str
    settings: Mapping[str, Any]
    steps: int
    data: Sequence[DomainData]
    prompt: str
    comparisons: Sequence[Comparison]
    base_folder: str = ""
    adapters: Sequence[str] = ()
    static: str | None = None
    costs: Sequence[StaticCost] = ()
    scores: Sequence[str] = ()
    num_unread: int = 0
    reading: ImageReading = ImageReading()  # noqa: RUF009

    def write(self, folder: Path, final: Path) -> None:
        """Write ``README.md`` into ``folder``, which will be called as ``final`` is: the code runs from beside it."""
        parts = [
            self._front(),
            f"# {markdown_text(self.name)}\n\n{self._what()}",
            f"## Load\n\n```python\n{self._code(final)}```\n\n{PARSED}",
            f"## Base\n\n{self.base}",
            f"## Adapter\n\n{self._adapter()}",
            f"## Data\n\n{self._data()}",
            f"## Checked\n\n{self._checked()}",
            f"## Scores\n\n{self._scores()}",
            f"## Licences\n\n{LICENCES}",
        ]
        (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")

    def _front(self) -> str:
        library = "peft" if self.form == "peft" else "transformers"
        base = f"base_model: {json.dumps(self.hub_base)}\n" if self.hub_base else ""
        tags = f"pipeline_tag: image-text-to-text\ntags:\n- llava\n- {self.method}"
        return f"---\nlibrary_name: {library}\n{base}{tags}\n---"

    def _what(self) -> str:
        if self.form == "hf":
            merged = "" if self.method == "none" else f" with its {self.method} adapter merged into the weights"
            held = (
                ""
                if self.static is None
                else f" The mixture depends on the input; here it is held constant: {markdown_text(self.static)}."
            )
            return f"A `LlavaForConditionalGeneration`{merged}, with its processor.{held}"
        alone = (
            ' With a PEFT folder as the current one, `AutoPeftModel.from_pretrained(".")` finds the base too.'
            if self.base_folder == "base"
            else ""
        )
        if list(self.adapters) == [""]:
            return f"A PEFT LoRA folder. It carries the projector (`modules_to_save`).{alone}"
        listed = ", ".join(markdown_code(f"{name}/") for name in self.adapters)
        return (
            f"One PEFT LoRA folder for each expert of a {self.method} adapter: {listed}. Each carries the projector "
            "(`modules_to_save`) and the LoRA of the layers that have no experts. `router.safetensors` holds what "
            "chooses between the experts by input, which PEFT does not compute: a folder alone answers as that expert "
            f"would.{alone}"
        )

    def _code(self, final: Path) -> str:
        imports = ["from PIL import Image, ImageOps"] if self.reading.exif == "apply" else ["from PIL import Image"]
        imports += ["from peft import PeftModel"] if self.form == "peft" else []
        imports += ["from transformers import AutoProcessor, LlavaForConditionalGeneration", ""]
        lines = [f"folder = {final.absolute().name!r}  # where this folder lies"]
        if self.form == "hf":
            lines += ["model = LlavaForConditionalGeneration.from_pretrained(folder)"]
        else:
            base = 'f"{folder}/base"' if self.base_folder == "base" else repr(self.base_folder)
            first = f"folder + {'/' + self.adapters[0]!r}" if self.adapters[0] else "folder"
            lines += [f"base = LlavaForConditionalGeneration.from_pretrained({base})"]
            lines += [f"model = PeftModel.from_pretrained(base, {first})"]
        lines += [
            "processor = AutoProcessor.from_pretrained(folder)",
            *self._picture(),
            f"prompt = {self.prompt!r}",
            'inputs = processor(images=picture, text=prompt, return_tensors="pt").to(model.dtype)',
            "tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False)",
            'print(processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        ]
        return "\n".join(imports + lines) + "\n"

    def _picture(self) -> list[str]:
        """Lines that open a picture as training did."""
        opened = 'Image.open("picture.png")'
        lines = [f"picture = {f'ImageOps.exif_transpose({opened})' if self.reading.exif == 'apply' else opened}"]
        if self.reading.alpha == "drop":
            return [*lines, 'picture = picture.convert("RGB")']
        lines.append(f'canvas = Image.new("RGBA", picture.size, "{self.reading.alpha}")')
        return [*lines, 'picture = Image.alpha_composite(canvas, picture.convert("RGBA")).convert("RGB")']

    def _adapter(self) -> str:
        if self.method == "none":
            return "None: the weights themselves were trained."
        rows = "\n".join(
            f"| {markdown_code(name)} | {markdown_code(json.dumps(value))} |" for name, value in self.settings.items()
        )
        return f"Method `{self.method}`.\n\n| setting | value |\n|---|---|\n{rows}"

    def _data(self) -> str:
        rows = "\n".join(
            f"| {markdown_text(one.domain)} | {markdown_text(', '.join(one.sources))} | {one.samples:,} | "
            f"{one.supervised_tokens:,} |"
            for one in self.data
        )
        head = "| domain | sources | samples seen | supervised tokens |\n|---|---|---|---|"
        missing = f" The counts lack {self.num_unread:,} damaged line(s) of its log." if self.num_unread else ""
        return f"{self.steps:,} optimizer steps.{missing}\n\n{head}\n{rows}"

    def _checked(self) -> str:
        lines = [f"- {comparison.line}" for comparison in self.comparisons]
        text = "Loaded back by Hugging Face and PEFT alone, on a square picture and two that are not:\n\n" + "\n".join(
            lines
        )
        if self.costs:
            text += (
                f"\n\nWhat holding the mixture constant ({markdown_text(self.static or '')}) costs on held-out data, "
            )
            text += f"in nats per supervised token:\n\n{cost_table(self.costs)}"
        return text

    def _scores(self) -> str:
        if not self.scores:
            return "The run was not evaluated."
        held = "" if self.static is None else "Of the run as trained, its mixture not held constant.\n\n"
        return held + "\n\n".join(self.scores)


PARSED = (
    "The processor reads `<image>`, `</s>` and other control tokens wherever they stand, also in what a person typed; "
    "here they were trained as text there. Take them out of questions before you pass these on."
)
LICENCES = (
    "This export grants no rights of its own. The weights derive from the base above and from the data above: the "
    "licences of both apply, and a base such as Vicuna passes on the terms of the model that it was made from. Read "
    "them before you publish or sell anything made with this folder, and name them in the card that you publish."
)


def cost_table(costs: Sequence[StaticCost]) -> str:
    """Markdown: nats per supervised token, by domain."""
    rows = "\n".join(
        f"| {markdown_text(cost.domain)} | {cost.routed:.4f} | {cost.static:.4f} | {cost.static - cost.routed:+.4f} | "
        f"{cost.supervised_tokens:,} |"
        for cost in costs
    )
    return f"| domain | as trained | constant | cost | supervised tokens |\n|---|---|---|---|---|\n{rows}"
