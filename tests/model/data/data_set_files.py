"""Small data sets in exactly the files that the public ones come in, made in code.

Each builder writes one below a folder and says where an importer starts to read it; each has a picture
that the contract tests may damage (`victim`), used by one item.
"""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture_bytes(seed: int = 0, size: tuple[int, int] = (24, 20), kind: str = "JPEG") -> bytes:
    """A small noisy picture; another seed gives another picture."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@dataclass(frozen=True)
class Built:
    """Where to read, the picture to damage, and how many items an undamaged source gives."""

    source: Path
    victim: Path
    items: int


def write(path: Path, content: str | bytes) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pictures(folder: Path, *names: str) -> None:
    """Different pictures under these names."""
    for number, name in enumerate(names):
        write(folder / name, picture_bytes(number))


def coco_file(kind: str, images: list[dict[str, Any]], annotations: list[dict[str, Any]], **more: Any) -> str:
    """A COCO JSON file with the head that the real ones have."""
    head = {
        "info": {"description": "COCO 2017 Dataset", "year": 2017, "contributor": kind},
        "licenses": [{"url": "http://example.org/by-nc/2.0/", "id": 1, "name": "Attribution"}],
    }
    return json.dumps({**head, "images": images, **more, "annotations": annotations})


def coco(root: Path) -> Built:
    """Two parts, 2017 style names; one image with no object, one with no caption."""
    names = {139: "000000000139.jpg", 285: "000000000285.jpg", 632: "000000000632.jpg"}
    images = [
        {
            "license": 1,
            "file_name": name,
            "height": 20,
            "width": 24,
            "date_captured": "2013-11-21",
            "id": number,
        }
        for number, name in names.items()
    ]
    captions = [
        {"image_id": 139, "id": 1, "caption": "A woman stands in the dining area\nat the table. "},
        {"image_id": 285, "id": 2, "caption": "A big burly grizzly bear."},
        {"image_id": 139, "id": 3, "caption": "A room with chairs."},
    ]
    boxes = [
        {"segmentation": [[1.5, 2.0, 3.25]], "area": 6.1, "iscrowd": 0, "image_id": 139, "bbox": [1, 2, 3, 4],
         "category_id": 62, "id": 10},
        {"segmentation": {"counts": [1, 2], "size": [20, 24]}, "area": 1, "iscrowd": 1, "image_id": 139,
         "bbox": [0, 0, 1, 1], "category_id": 1, "id": 11},
        {"segmentation": [], "area": 1, "iscrowd": 0, "image_id": 139, "category_id": 62, "id": 12},
        {"segmentation": [], "area": 1, "iscrowd": 0, "image_id": 285, "category_id": 23, "id": 13},
    ]  # fmt: skip
    categories = [
        {"supercategory": "person", "id": 1, "name": "person"},
        {"supercategory": "furniture", "id": 62, "name": "chair"},
        {"supercategory": "animal", "id": 23, "name": "bear"},
    ]
    notes = root / "annotations"
    write(notes / "captions_val2017.json", coco_file("captions", images, captions))
    write(notes / "instances_val2017.json", coco_file("instances", images, boxes, categories=categories))
    one = [{"file_name": "000000000009.jpg", "id": 9}]
    write(
        notes / "captions_train2017.json", coco_file("c", one, [{"image_id": 9, "id": 4, "caption": "Food."}])
    )
    write(notes / "instances_train2017.json", coco_file("i", one, [], categories=categories))
    pictures(root / "val2017", *names.values())
    pictures(root / "images" / "train2017", "000000000009.jpg")
    return Built(root, root / "val2017" / names[285], 4)


def mirflickr(root: Path) -> Built:
    """Eleven images, so that numeric and alphabetic order differ; im3 has no tag, im4 no label."""
    base = root / "mirflickr"
    pictures(base, *[f"im{number}.jpg" for number in range(1, 12)])
    tags = {1: ["sky", "bluesky"], 2: ["dog"], 4: ["night", "sky"]}
    for number in range(1, 12):
        words = tags.get(number, [] if number == 3 else [f"tag{number}"])
        write(base / "meta" / "tags" / f"tags{number}.txt", "".join(f"{word}\r\n" for word in words))
        write(
            base / "meta" / "tags_raw" / f"tags{number}.txt", "".join(f"{word.title()} X\n" for word in words)
        )
    write(base / "doc" / "common_tags.txt", "sky 845\ndog 30\n")
    notes = root / "mirflickr25k_annotations_v080"
    write(notes / "README.txt", "MIRFLICKR-25000 annotations\n")
    write(notes / "sky.txt", "1\n2\n5\n6\n7\n8\n9\n10\n11\n")
    write(notes / "sky_r1.txt", "1\n")
    write(notes / "animals.txt", "2\n3\n")
    write(notes / "dog_r1.txt", "2\n")
    return Built(root, base / "im2.jpg", 11)


def nuswide(root: Path) -> Built:
    """Four photographs, three concepts, four tags; Windows separators in the list."""
    photos = [
        "actor\\0001_2124494179.jpg",
        "actor\\0002_174174086.jpg",
        "zoo\\0001_2209.jpg",
        "zoo\\0002_77.jpg",
    ]
    write(root / "ImageList" / "Imagelist.txt", "".join(f"{photo}\r\n" for photo in photos))
    truth = root / "Groundtruth" / "AllLabels"
    write(truth / "Labels_animal.txt", "0\n0\n1\n1\n")
    write(truth / "Labels_person.txt", "1\n1\n0\n1\n")
    write(truth / "Labels_sky.txt", "0\n0\n1\n0\n")
    write(root / "ConceptsList" / "Concepts81.txt", "animal\nperson\nsky\n")
    tags = root / "NUS_WID_Tags"
    write(
        tags / "All_Tags.txt",
        "2124494179       actor portrait  \n174174086   \n2209  zoo lion sky\n77  zebra\n",
    )
    write(tags / "TagList1k.txt", "lion\nportrait\nsky\nzebra\n")
    write(tags / "AllTags1k.txt", "0\t1\t0\t0\t\n0\t0\t0\t0\t\n1\t0\t1\t0\t\n0\t0\t0\t1\t\n")
    pictures(root / "Flickr", *[photo.replace("\\", "/") for photo in photos])
    return Built(root, root / "Flickr" / "zoo" / "0001_2209.jpg", 4)


def flickr8k(root: Path) -> Built:
    """The original layout: five photographs, two captions each, one of them in no split file."""
    names = [f"{number}_{number:010x}.jpg" for number in (1000268201, 1001773457, 1002674143, 1003163366, 99)]
    lines = [f"{name}#{turn}\tA child number {turn} of {name[:4]} ." for name in names for turn in range(2)]
    text = root / "Flickr8k_text"
    write(text / "Flickr8k.token.txt", "\n".join(lines) + "\n")
    write(text / "Flickr_8k.trainImages.txt", f"{names[0]}\n{names[1]}\n")
    write(text / "Flickr_8k.devImages.txt", f"{names[2]}\n")
    write(text / "Flickr_8k.testImages.txt", f"{names[3]}\n")
    pictures(root / "Flicker8k_Dataset", *names)
    return Built(root, root / "Flicker8k_Dataset" / names[1], 5)


def table(root: Path) -> Built:
    """The default columns and one that becomes metadata; a quoted cell with a line end."""
    path = root / "items.csv"
    root.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "image", "text", "code"])
        writer.writerow(["a", "pics/a.jpg", "Grüne Bluse,\nklein", "007"])
        writer.writerow(["b", "pics/b.jpg", "two", ""])
        writer.writerow(["c", "", "only text", "x"])
        writer.writerow(["d", "pics/d.jpg", "", "x"])
    pictures(root / "pics", "a.jpg", "b.jpg", "d.jpg")
    return Built(path, root / "pics" / "b.jpg", 4)


def sidecars(root: Path) -> Built:
    """Texts, an object, no sidecar, a sub-folder, a name that is no id as it stands."""
    pictures(root, "a.jpg", "b.JPG", "c.jpeg", "dogs/my dog.jpg")
    write(root / "a.txt", "first\n\n second \n")
    write(
        root / "b.json", json.dumps({"text": "one", "labels": ["x"], "split": "query", "metadata": {"n": 1}})
    )
    write(root / "dogs" / "my dog.txt", "a dog\n")
    return Built(root, root / "b.JPG", 4)


SOURCES: dict[str, Callable[[Path], Built]] = {
    "coco": coco,
    "csv": table,
    "flickr8k": flickr8k,
    "folder": sidecars,
    "mirflickr": mirflickr,
    "nuswide": nuswide,
}
