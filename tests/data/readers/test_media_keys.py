"""Keys that carry media are told whatever their name; what only speaks of images is left in peace."""

from __future__ import annotations

from typing import Any

import pytest

from llava_moe.data.conversation import BadRecord
from llava_moe.data.readers.formats import FORMATS, row_of
from llava_moe.data.readers.media_keys import refuse_unread
from tests.data.readers.raw import base64_text, encoded, turns

NAMED = [
    *("image_path", "img", "imgs", "picture", "photo", "image_file", "image_url", "image_base64", "images_path", "pic"),
    *("video", "videos", "video_path", "audio", "audios", "audio_path", "image_0", "image_10", "image2", "imagePath"),
    *("IMAGE", "Image", "Images", "image_list", "image_urls", "input_image", "target_image", "image_bytes", "imgpath"),
    *("image_files", "pictures", "photos", "screenshot", "frames", "video_url", "image_base64_str", "img_path", "clip"),
]
HELD: list[Any] = ["red.png", "red", ["a.png"], {"path": "red.png", "bytes": None}, {"bytes": b"\x89PNG"}, b"\x00\x01"]
HELD += [{"array": [0.1, -0.1], "sampling_rate": 8000}, [0.5] * 100, [[[7] * 40] * 2]]
CARRIED: list[Any] = [
    *("red.png", "a/b c/red.JPG", "s3://bucket/red.webp", "https://a.b/c.jpeg?size=3", "clip.mp4", "a.wav", "x.nii.gz"),
    *("data:image/png;base64,iVBORw0KGgo=", base64_text(1), encoded(1), encoded(1, "PNG"), ["text", "red.png"]),
    *({"bytes": encoded(1), "path": None}, {"bytes": None, "path": "red.png"}, {"deep": [{"image": "red"}]}),
    *({"a": {"b": [{"c": {"d": [{"e": {"f": "red.png"}}]}}]}}, [[[[[[[["clip.mp4"]]]]]]]]),
]


def told(record: dict[str, Any], *read: str) -> str | None:
    try:
        refuse_unread(record, read)
    except BadRecord as fault:
        assert fault.reason == "unread_media" and "\n" not in fault.detail
        return fault.detail
    return None


@pytest.mark.parametrize("key", NAMED)
def test_a_key_named_for_media_is_told_whatever_it_holds(key: str) -> None:
    for value in HELD:
        assert (told({"id": 1, key: value}) or "").startswith(f"the key {key} holds ")
    for nothing in (None, "", " ", [], {}, {"bytes": None, "path": None}, 3, False, [0.5, 1]):
        assert told({"id": 1, key: nothing}) is None
    assert told({key: "red.png"}, key) is None


@pytest.mark.parametrize("value", CARRIED)
def test_media_under_any_other_name_is_told_by_its_content(value: Any) -> None:
    for key in ("file", "attachment", "path_to_it", "file_name", "meta", "x"):
        assert key in (told({"id": 1, key: value}) or "")


@pytest.mark.parametrize(
    "record",
    [
        {"id": "coco/1.jpg", "image_id": "COCO_1.jpg", "question_id": "q.png", "source": "a.jpg", "video_id": "v.mp4"},
        {"image_size": [3, 4], "image_width": 3, "num_images": 2, "image_caption": "a cat", "has_image": "yes"},
        {"answer": "logo.png", "question": "what is in clip.mp4", "text": "see a.png", "prompt": "a.jpg"},
        {"remark": "The original stands in the folder and is called photo.jpg", "page": "https://a.b/c.html"},
        {"kinds": ["object"], "closed": [False], "licence": "CC0", "score": 0.5, "embedding": [0.1] * 99},
        {
            "domain": {"chest_xray": False, "mri": True},
            "pair_id": "3",
            "fig_caption": "MRI. a.jpg",
            "answer_type": "OPEN",
        },
        {"objects": [{"name": "cat", "bbox": [1, 2, 3, 4]}], "bytes": 3, "path": "folder", "url": "https://a.b/c"},
        {"long": "word " * 200, "code": "print('a.png')\nprint('b')", "image_text": "Stop", "image_type": "x-ray"},
    ],
)
def test_what_speaks_of_images_is_no_image(record: dict[str, Any]) -> None:
    assert told(record) is None


def judge(name: str, record: dict[str, Any]) -> str | None:
    return row_of(FORMATS[name], record, 0)["fault"]


def llava(**more: Any) -> dict[str, Any]:
    return {"id": "a", "image": "coco/red.png", "conversations": turns("<image>\nColour?", "red")} | more


def test_where_an_image_comes_from_is_no_second_image() -> None:
    embedded = {"bytes": encoded(1), "path": None}
    fine = [
        llava(image_path="/data/coco/red.png", file_name="red.jpg", coco_url="http://a.b/red.png"),
        llava(image_url="https://a.b/c/0815"),
        llava(image=embedded, image_path="coco/red.png", url="http://a.b/c.jpg"),
        llava(image={"bytes": encoded(1), "path": "red.png"}, file_name="red.png"),
    ]
    assert [judge("llava", record) for record in fine] == [None] * 4
    wrong: list[dict[str, Any]] = [
        llava(image_path="blue.png"),
        llava(img=["red.png", "blue.png"]),
        llava(video="red.mp4"),
        llava(audio="https://a.b/red"),
        llava(image=embedded, image_2="blue.png"),
        llava(image=embedded, picture=base64_text(2)),
        llava(image=embedded, files=["a.png", "b.png"]),
        llava(image=None, image_url="https://a.b/c/0815", conversations=turns("Colour?", "red")),
    ]
    assert [judge("llava", record) for record in wrong] == ["unread_media"] * len(wrong)


BOTH = ("user", "assistant")
RECORDS: dict[str, dict[str, Any]] = {
    "llava": llava(),
    "records": {"images": ["a.png"], "conversations": [{"role": role, "text": "a"} for role in BOTH]},
    "messages": {"images": ["a.png"], "messages": [{"role": role, "content": "a"} for role in BOTH]},
    "m3it": {"instruction": "Say.", "inputs": "", "outputs": "a", "image_base64_str": [base64_text(1)]},
    "m3it80": {"instruction": "Say.", "inputs": "", "outputs": "a", "image_base64_str": [base64_text(1)]},
    "ureader": {"image": ["a.png"], "prompt": "", "text": "", "system_instruction": "", "task_type": "qa_sft"}
    | {"conversations": turns("<image>?", "a")},
    "pathvqa": {"image": {"bytes": encoded(1), "path": None}, "question": "q", "answer": "yes"},
}  # fmt: skip
RECORDS["conflict"] = RECORDS["part"] = RECORDS["records"]  # rows of our own, made in memory or chosen


def test_every_format_has_a_record_here() -> None:
    assert RECORDS.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", RECORDS)
def test_every_format_refuses_media_that_it_does_not_read(name: str) -> None:
    assert judge(name, RECORDS[name]) is None
    for key, value in (
        ("video", "clip.mp4"),
        ("audio", ["a.wav"]),
        ("attachment", base64_text(3)),
        ("image_2", "b.png"),
    ):
        row = row_of(FORMATS[name], RECORDS[name] | {key: value}, 0)
        assert row["fault"] == "unread_media" and f"the key {key} holds" in row["detail"]


@pytest.mark.parametrize("name", RECORDS)
def test_the_key_that_holds_something_is_read_and_two_that_differ_are_a_fault(name: str) -> None:
    record = RECORDS[name]
    key = next(key for key in ("image", "images", "image_base64_str") if key in record)
    other = "images" if key == "image" else "image"
    expected = row_of(FORMATS[name], record, 0)["images"]
    assert len(expected) == 1
    hollow = {"bytes": None, "path": None}
    for nothing in (None, "", [], hollow, [hollow], {}):
        assert row_of(FORMATS[name], record | {other: nothing}, 0)["images"] == expected
        swapped = record | {key: nothing, other: record[key]}
        assert row_of(FORMATS[name], swapped, 0)["images"] == expected
    assert row_of(FORMATS[name], record | {other: record[key]}, 0)["images"] == expected
    row = row_of(FORMATS[name], record | {other: base64_text(9)}, 0)
    assert row["fault"] == "unread_media" and key in row["detail"] and other in row["detail"]
