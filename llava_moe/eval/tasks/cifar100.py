"""Benchmark ``cifar100``: name the main object of a 32 x 32 photograph, of a hundred (fine) classes.

Source: CIFAR-100; names as torchvision has them, underscores as blanks; scored as ``cifar10``.
"""

from __future__ import annotations

from functools import partial

from llava_moe.eval.class_images import REMEDY_PICKLE, class_names, read_classes
from llava_moe.eval.mixlora_files import REMEDY_MIXLORA
from llava_moe.eval.published_benchmark import Published
from llava_moe.eval.tasks import cifar10

NAMES = class_names(
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard "
    "lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear "
    "pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark "
    "shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone "
    "television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)
BENCHMARK = Published(
    domain="general",
    remedy="run `hf download uoft-cs/cifar100 --repo-type dataset --local-dir FOLDER`, extract cifar-100-binary.tar.gz "
    f"there ({REMEDY_PICKLE}), {REMEDY_MIXLORA}",
    read=partial(
        read_classes,
        names=NAMES,
        question=cifar10.QUESTION,
        task="cifar_100",
        binary="cifar-100-binary/test.bin",
        label_bytes=2,
        columns=("fine_label",),
    ),
    scorers=cifar10.SCORERS,
    known={10000: "test"},
    notes=("The question is Multi-Modality-Arena's for CIFAR-10.", *cifar10.NOTES),
)
