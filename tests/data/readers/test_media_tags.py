"""Marks in a text that stand for media are told; HTML that people write about is text."""

from __future__ import annotations

import time

import pytest

from llava_moe.data.readers.media_tags import media_tag

TOKENS = [
    *("<|image_1|>", "<|image|>", "<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|AUDIO|>", "<|audio_bos|>"),
    *(
        "<ImageHere>",
        "<IMG_CONTEXT>",
        "<image_1>",
        "<image 2>",
        "<img1>",
        "<video_3>",
        "<image_placeholder>",
        "<photo_1>",
    ),
    *("<start_of_image>", "<image_soft_token>", "<|begin_of_video|>", "<im_patch>", "[IMG]", "[IMG_BREAK]"),
    *(
        "<img>red.png</img>",
        "<img>a b.png</img>",
        "<audio>speech.wav</audio>",
        "<video>clip.mp4</video>",
        "<vid_start>",
    ),
]
OPEN = [
    *("<video>", "<audio>", "<img>", "<Img>", "<Image>", "<IMAGE>", "<image/>", "<picture>", "< image >", "<speech>"),
    *("<images>", "<pictures>", "<pic>", "<photo>", "<videos>"),
]


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
@pytest.mark.parametrize("tag", TOKENS)
def test_a_models_own_token_stands_for_media_wherever_it_stands(tag: str, role: str) -> None:
    for text in (tag, f"{tag}\nWhat is this?", f"See {tag} and tell.", f"<image>\nAnd {tag}?"):
        assert media_tag(text, role) == tag


@pytest.mark.parametrize("tag", OPEN)
def test_a_mark_that_html_has_too_stands_for_media_in_a_question(tag: str) -> None:
    for text in (tag, f"{tag}\nWhat elements are seen?", f"What happens in {tag} here?", f"<image>\n{tag} differ?"):
        assert media_tag(text, "user") == tag
    assert media_tag(f"Look at {tag}", "assistant") is None


@pytest.mark.parametrize(
    "text",
    [
        "<image>\nWhat is this?",
        "<image><image> Differ?",
        '<img src="red.png"> is broken, why?',
        "What does the <video> tag do?",
        "How do I use <audio> in HTML5?",
        "Use `<picture>` here.",
        "Why is <video><source src=a></video> empty?",
        "My page:\n```\n<video>\n```",
        "<div><video></div> does not show",
        "Is the <Image> component of React fine?",
        "return (\n<View><Image/></View>\n)",
        "const Logo = () => <Image/>",
        "import Image from 'next/image'\n<Image/>",
        "Is 3 < 5 and [image credits] there? a[i] < b",
        "<|im_start|>user\nhi<|im_end|>",
        "[IMG]http://a/b.jpg[/IMG]",
        "<s>, <pad> and <unk> are tokens",
        "Read this XML: <photos><photo>1</photo></photos>",
        "![picture](a.png) and [img]",
        "",
    ],
)
def test_text_that_speaks_of_html_or_of_nothing_is_text(text: str) -> None:
    assert media_tag(text, "user") is None


@pytest.mark.parametrize(
    "text",
    [
        "<video> " * 100_000 + "</video>",
        "`<video>` " * 100_000,
        "<video> tag " * 100_000,
        "<video> " + "import " * 100_000,
        "<video>" + " " * 500_000,
        "<" * 300_000,
        "<video " * 100_000,
        "</ " * 200_000 + "<video>",
        "[IMG" * 100_000,
    ],
    ids=lambda text: text[:12],
)
def test_a_long_text_is_read_in_seconds(text: str) -> None:
    begin = time.process_time()
    media_tag(text, "user")
    assert time.process_time() - begin < 5
