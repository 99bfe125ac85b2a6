"""What each importer makes of its own format: texts, labels, splits, and what it names as refused."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_set_files import (
    coco,
    coco_file,
    flickr8k,
    mirflickr,
    nuswide,
    picture_bytes,
    pictures,
    sidecars,
    table,
    write,
)

from model.data.importers.base import MAX_LINE_CHARS, Entry, Found, Refused, numbered_lines
from model.data.importers.coco import Coco
from model.data.importers.flickr8k import Flickr8k
from model.data.importers.mirflickr import MirFlickr
from model.data.importers.nuswide import NusWide
from model.data.importers.sidecars import Sidecars
from model.data.importers.table import Table
from model.errors import DataError


def found(entries: Iterator[Entry]) -> dict[str, Found]:
    """By id; fails on anything refused."""
    everything = list(entries)
    assert not [entry for entry in everything if isinstance(entry, Refused)]
    return {entry.id: entry for entry in everything if isinstance(entry, Found)}


def refused(entries: Iterator[Entry]) -> dict[str, str]:
    """Reason by record, of what was refused."""
    return {entry.record: entry.reason for entry in entries if isinstance(entry, Refused)}


class TestCoco:
    def test_captions_and_category_names(self, tmp_path: Path) -> None:
        items = found(Coco().entries(coco(tmp_path).source))
        assert list(items) == ["9", "139", "285", "632"]
        assert items["139"].texts == (
            "A woman stands in the dining area at the table.",
            "A room with chairs.",
        )
        assert items["139"].labels == ("chair", "person")
        assert items["139"].image == "val2017/000000000139.jpg"
        assert items["9"].image == "images/train2017/000000000009.jpg"
        assert (items["632"].texts, items["632"].labels) == ((), ())
        assert items["9"].metadata == {"part": "train2017"}

    def test_captions_alone(self, tmp_path: Path) -> None:
        source = coco(tmp_path).source
        (source / "annotations" / "instances_val2017.json").unlink()
        with pytest.raises(DataError, match=r"wanted the file instances_val2017\.json"):
            list(Coco().entries(source))
        assert all(not item.labels for item in found(Coco(labels=False).entries(source)).values())

    def test_records_that_are_wrong_are_named(self, tmp_path: Path) -> None:
        source = coco(tmp_path).source
        images = [
            {"id": 139, "file_name": "000000000139.jpg"},
            {"id": "x", "file_name": "y.jpg"},
            7,
            {"id": True},
        ]
        captions = [
            {"image_id": 139, "caption": "fine"},
            {"image_id": 139, "caption": "  "},
            {"image_id": None, "caption": "lost"},
            {"image_id": 4, "caption": "of no image"},
            "text",
        ]
        write(source / "annotations" / "captions_val2017.json", coco_file("c", images, captions))  # type: ignore[arg-type]
        entries = list(Coco().entries(source))
        assert [entry.id for entry in entries if isinstance(entry, Found)] == ["9", "139"]
        reasons = [entry.reason for entry in entries if isinstance(entry, Refused)]
        assert sum("a file_name" in reason for reason in reasons) == 3
        assert sum("a caption that is no blank" in reason for reason in reasons) == 3
        assert reasons[-1] == "no such image in the file"

    @pytest.mark.parametrize(
        ("categories", "boxes", "words"),
        [
            ([{"id": 1}], [], "wanted a category's id and name"),
            ([], [{"image_id": 1, "category_id": 5}], r"categories that it does not name: \[5\]"),
            ([{"id": 1, "name": "x"}], [{"image_id": 1}], "wanted image_id and category_id"),
        ],
    )
    def test_instances_that_cannot_be_read(
        self, tmp_path: Path, categories: list[object], boxes: list[dict[str, object]], words: str
    ) -> None:
        source = coco(tmp_path).source
        text = coco_file("i", [], boxes, categories=categories)
        write(source / "annotations" / "instances_val2017.json", text)
        with pytest.raises(DataError, match=words):
            list(Coco().entries(source))

    def test_no_image_folder(self, tmp_path: Path) -> None:
        source = coco(tmp_path).source
        (source / "val2017").rename(source / "other")
        with pytest.raises(DataError, match="no images of val2017"):
            list(Coco().entries(source))

    def test_a_file_name_that_leaves_is_refused_by_the_writer(self, tmp_path: Path) -> None:
        source = coco(tmp_path).source
        write(
            source / "annotations" / "captions_val2017.json",
            coco_file("c", [{"id": 1, "file_name": "../../x"}], []),
        )
        assert found(Coco().entries(source))["1"].image == "val2017/../../x"


class TestMirFlickr:
    def test_tags_and_potential_labels(self, tmp_path: Path) -> None:
        items = found(MirFlickr().entries(mirflickr(tmp_path).source))
        assert list(items) == [f"im{number}" for number in range(1, 12)]
        assert items["im1"].texts == ("sky bluesky",)
        assert items["im2"].labels == ("animals", "sky")
        assert (items["im3"].texts, items["im3"].labels) == ((), ("animals",))
        assert items["im4"].labels == ()
        assert items["im1"].image == "mirflickr/im1.jpg"

    def test_relevant_labels_raw_tags_common_tags(self, tmp_path: Path) -> None:
        source = mirflickr(tmp_path).source
        relevant = found(MirFlickr(relevant=True).entries(source))
        assert [relevant[f"im{number}"].labels for number in (1, 2, 3)] == [("sky",), ("dog",), ()]
        assert found(MirFlickr(raw_tags=True).entries(source))["im1"].texts == ("Sky X Bluesky X",)
        common = found(MirFlickr(common_tags=True).entries(source))
        assert [common[f"im{number}"].texts for number in (1, 2, 5)] == [("sky",), ("dog",), ()]

    def test_images_may_lie_at_the_top_beside_annotations(self, tmp_path: Path) -> None:
        source = mirflickr(tmp_path).source
        (source / "mirflickr25k_annotations_v080").rename(source / "mirflickr" / "annotations")
        items = found(MirFlickr().entries(source / "mirflickr"))
        assert items["im1"].image == "im1.jpg"

    def test_lines_and_files_that_are_wrong_are_named(self, tmp_path: Path) -> None:
        source = mirflickr(tmp_path).source
        notes = source / "mirflickr25k_annotations_v080"
        (notes / "animals.txt").write_text("2\n-1\nx\n999\n99999999999\n\u0663\n")
        (source / "mirflickr" / "meta" / "tags" / "tags5.txt").unlink()
        reasons = refused(MirFlickr().entries(source))
        assert list(reasons) == [f"animals.txt line {line}" for line in range(2, 7)] + ["im5.jpg"]
        assert reasons["animals.txt line 4"] == "no image of the number '999'"
        assert reasons["im5.jpg"] == "no tags5.txt"

    def test_what_must_be_there(self, tmp_path: Path) -> None:
        source = mirflickr(tmp_path).source
        for path in (source / "mirflickr25k_annotations_v080").glob("*_r1.txt"):
            path.unlink()
        with pytest.raises(DataError, match="wanted files of relevant labels"):
            list(MirFlickr(relevant=True).entries(source))
        (source / "mirflickr" / "doc" / "common_tags.txt").unlink()
        with pytest.raises(DataError, match=r"wanted the file common_tags\.txt"):
            list(MirFlickr(common_tags=True).entries(source))


class TestNusWide:
    def test_tags_and_concepts(self, tmp_path: Path) -> None:
        items = found(NusWide().entries(nuswide(tmp_path).source))
        assert list(items) == ["0001_2124494179", "0002_174174086", "0001_2209", "0002_77"]
        assert items["0001_2124494179"].texts == ("actor portrait",)
        assert items["0002_174174086"].texts == ()
        assert items["0001_2209"].labels == ("animal", "sky")
        assert items["0002_77"].labels == ("animal", "person")
        assert items["0001_2209"].image == "Flickr/zoo/0001_2209.jpg"

    def test_the_papers_tags_and_most_frequent_concepts(self, tmp_path: Path) -> None:
        items = found(NusWide(top=2, tags="1k").entries(nuswide(tmp_path).source))
        assert items["0001_2209"].texts == ("lion sky",)
        assert items["0002_174174086"].texts == ()
        assert items["0001_2209"].labels == ("animal",)
        assert found(NusWide(top=1).entries(tmp_path))["0001_2209"].labels == ()

    def test_a_flat_image_folder_elsewhere(self, tmp_path: Path) -> None:
        source = nuswide(tmp_path / "set").source
        pictures(tmp_path / "flat", "0001_2209.jpg")
        items = found(NusWide(images=tmp_path / "flat").entries(source))
        assert items["0001_2209"].image == "0001_2209.jpg"
        assert items["0001_2209"].root == (tmp_path / "flat").resolve()

    @pytest.mark.parametrize("top", [0, -1, 4])
    def test_no_such_number_of_concepts(self, tmp_path: Path, top: int) -> None:
        with pytest.raises(DataError, match="wanted the most frequent 1 to 3 concepts"):
            list(NusWide(top=top).entries(nuswide(tmp_path).source))

    @pytest.mark.parametrize(
        "content", ["0\n0\n1\n", "0\n0\n1\n1\n0\n", "0\n0\n1\n-1130179\n", "0\n0\n1\n2\n"]
    )
    def test_labels_out_of_step_are_never_forgiven(self, tmp_path: Path, content: str) -> None:
        source = nuswide(tmp_path).source
        write(source / "Groundtruth" / "AllLabels" / "Labels_sky.txt", content)
        with pytest.raises(DataError, match=r"Labels_sky\.txt: wanted 0 or 1 on each of 4 lines"):
            list(NusWide().entries(source))

    def test_tags_of_another_photograph_are_refused(self, tmp_path: Path) -> None:
        source = nuswide(tmp_path).source
        write(source / "NUS_WID_Tags" / "All_Tags.txt", "2124494179 a\n1 b\n2209 c\n77 d\n")
        reasons = refused(NusWide().entries(source))
        assert list(reasons) == ["Imagelist.txt line 2"]
        assert "about photograph '1', not about 'actor/0002_174174086.jpg'" in reasons["Imagelist.txt line 2"]

    def test_marks_that_are_no_marks_are_refused(self, tmp_path: Path) -> None:
        source = nuswide(tmp_path).source
        write(source / "NUS_WID_Tags" / "AllTags1k.txt", "0 1 0 0\n0 1\n0 1 x 0\n1 1 1 1\n")
        assert list(refused(NusWide(tags="1k").entries(source))) == [
            "Imagelist.txt line 2",
            "Imagelist.txt line 3",
        ]

    @pytest.mark.parametrize(("name", "tags"), [("All_Tags.txt", "all"), ("AllTags1k.txt", "1k")])
    def test_tags_that_end_early(self, tmp_path: Path, name: str, tags: str) -> None:
        source = nuswide(tmp_path).source
        path = source / "NUS_WID_Tags" / name
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
        with pytest.raises(DataError, match="ends before the image list does"):
            list(NusWide(tags=tags).entries(source))  # type: ignore[arg-type]

    def test_concepts_and_their_files_agree(self, tmp_path: Path) -> None:
        source = nuswide(tmp_path).source
        write(source / "ConceptsList" / "Concepts81.txt", "animal\nzebra\n")
        with pytest.raises(DataError, match=r"without a label file: \['zebra'\]"):
            list(NusWide().entries(source))
        for path in (source / "Groundtruth" / "AllLabels").iterdir():
            path.unlink()
        with pytest.raises(DataError, match="wanted Labels_<concept>"):
            list(NusWide().entries(source))

    def test_a_folder_in_place_of_a_label_file(self, tmp_path: Path) -> None:
        source = nuswide(tmp_path).source
        (source / "Groundtruth" / "AllLabels" / "Labels_zoo.txt").mkdir()
        with pytest.raises(DataError, match=r"unreadable Labels_zoo\.txt"):
            list(NusWide().entries(source))


class TestFlickr8k:
    def test_captions_and_official_splits(self, tmp_path: Path) -> None:
        items = found(Flickr8k().entries(flickr8k(tmp_path).source))
        assert [item.split for item in items.values()] == ["train", "train", "database", "query", "database"]
        first = next(iter(items.values()))
        assert first.id == "1000268201_003b9ee1a9"
        assert first.texts == ("A child number 0 of 1000 .", "A child number 1 of 1000 .")
        assert first.image == "Flicker8k_Dataset/1000268201_003b9ee1a9.jpg"

    def test_without_split_files_the_split_is_left_open(self, tmp_path: Path) -> None:
        source = flickr8k(tmp_path).source
        for path in (source / "Flickr8k_text").glob("Flickr_8k*"):
            path.unlink()
        assert {item.split for item in found(Flickr8k().entries(source)).values()} == {None}

    def test_some_split_files_are_not_enough(self, tmp_path: Path) -> None:
        source = flickr8k(tmp_path).source
        (source / "Flickr8k_text" / "Flickr_8k.devImages.txt").unlink()
        with pytest.raises(DataError, match="or none, found Flickr_8k"):
            list(Flickr8k().entries(source))

    def test_the_kaggle_copy(self, tmp_path: Path) -> None:
        pictures(tmp_path / "Images", "a.jpg")
        write(
            tmp_path / "captions.txt",
            'image,caption\na.jpg,"A dog , running ."\na.jpg,A dog .\na.jpg\n,x\na.jpg,\n',
        )
        entries = list(Flickr8k().entries(tmp_path))
        assert [entry.texts for entry in entries if isinstance(entry, Found)] == [
            ("A dog , running .", "A dog .")
        ]
        assert list(refused(iter(entries))) == [f"captions.txt row {row}" for row in (4, 5, 6)]

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("name,text\na.jpg,b\n", "wanted the header image,caption"),
            ('image,caption\na.jpg,"' + "x" * 200_000, "row"),
        ],
    )
    def test_a_kaggle_file_that_is_something_else(self, tmp_path: Path, content: str, words: str) -> None:
        pictures(tmp_path / "Images", "a.jpg")
        write(tmp_path / "captions.txt", content)
        with pytest.raises(DataError, match=words):
            list(Flickr8k().entries(tmp_path))

    def test_lines_and_pictures_without_a_partner_are_named(self, tmp_path: Path) -> None:
        source = flickr8k(tmp_path).source
        token = source / "Flickr8k_text" / "Flickr8k.token.txt"
        token.write_text(token.read_text() + "no tab\nx.jpg#0\t \nx.jpg\ttext\nx.jpg#a\ttext\n#1\ttext\n")
        pictures(source / "Flicker8k_Dataset", "alone.jpg")
        reasons = refused(Flickr8k().entries(source))
        assert list(reasons) == [f"Flickr8k.token.txt line {line}" for line in range(11, 16)] + ["alone.jpg"]
        assert reasons["alone.jpg"] == "no caption in Flickr8k.token.txt"


class TestTable:
    def test_default_columns_and_metadata(self, tmp_path: Path) -> None:
        items = found(Table().entries(table(tmp_path).source))
        assert items["a"].texts == ("Grüne Bluse,\nklein",)
        assert items["a"].metadata == {"code": "007"}
        assert items["b"].metadata == {}
        assert (items["c"].image, items["d"].texts) == (None, ())

    def test_other_columns(self, tmp_path: Path) -> None:
        write(
            tmp_path / "x.tsv",
            "key\tpic\tt1\tt2\ttags\tpart\nk1\ta.jpg\tone\ttwo\tred|big| \ttrain\nk2\t\tone\t\t\t\n",
        )
        pictures(tmp_path / "pics", "a.jpg")
        importer = Table("key", "pic", ("t1", "t2"), "tags", "part", "|", "\t", tmp_path / "pics")
        items = found(importer.entries(tmp_path / "x.tsv"))
        assert items["k1"].texts == ("one", "two")
        assert items["k1"].labels == ("red", "big")
        assert items["k1"].split == "train"
        assert items["k1"].root == (tmp_path / "pics").resolve()
        assert (items["k2"].texts, items["k2"].labels, items["k2"].split) == (("one",), (), None)

    def test_no_image_column(self, tmp_path: Path) -> None:
        write(tmp_path / "x.csv", "\ufeffid,text\na,b\n")
        assert found(Table(image_column=None).entries(tmp_path / "x.csv"))["a"].texts == ("b",)

    def test_rows_with_too_few_or_too_many_cells_are_named(self, tmp_path: Path) -> None:
        write(tmp_path / "x.csv", "id,image,text\na,,one\nb,\nc,,two,more\n")
        assert refused(Table().entries(tmp_path / "x.csv")) == {
            "line 3": "wanted 3 cells",
            "line 4": "wanted 3 cells",
        }

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("", "got the header"),
            ("id,text\na,b\n", "wanted each of the columns"),
            ("id,image,text,id\na,b,c,d\n", "once"),
            ('id,image,text\na,b,"c" d\n', "no CSV file as wanted"),
            ("id,image,text\na,b," + "x" * 200_000, "no CSV file as wanted"),
        ],
    )
    def test_a_file_that_is_no_such_table(self, tmp_path: Path, content: str, words: str) -> None:
        write(tmp_path / "x.csv", content)
        with pytest.raises(DataError, match=words):
            list(Table().entries(tmp_path / "x.csv"))

    @pytest.mark.parametrize(
        "importer", [Table(delimiter=";;"), Table(delimiter='"'), Table(label_separator="")]
    )
    def test_separators_that_separate_nothing(self, tmp_path: Path, importer: Table) -> None:
        with pytest.raises(DataError, match="one character as delimiter"):
            list(importer.entries(table(tmp_path).source))


class TestSidecars:
    def test_texts_objects_and_folders(self, tmp_path: Path) -> None:
        items = found(Sidecars().entries(sidecars(tmp_path).source))
        assert set(items) == {"a", "b", "c", "dogs:my_dog"}
        assert items["a"].texts == ("first", "second")
        assert (items["b"].texts, items["b"].labels, items["b"].split) == (("one",), ("x",), "query")
        assert items["b"].metadata == {"n": 1}
        assert items["c"].texts == ()
        assert items["dogs:my_dog"].labels == ()

    def test_folder_names_as_labels(self, tmp_path: Path) -> None:
        items = found(Sidecars(folder_labels=True).entries(sidecars(tmp_path).source))
        assert (items["dogs:my_dog"].labels, items["b"].labels) == (("dogs",), ("x",))

    def test_files_without_a_partner_are_named(self, tmp_path: Path) -> None:
        source = sidecars(tmp_path).source
        write(source / "lonely.txt", "text")
        write(source / "old.gif", b"GIF89a")
        assert refused(Sidecars().entries(source)) == {
            "lonely.txt": "neither an image nor the text of one",
            "old.gif": "neither an image nor the text of one",
        }

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"nonsense", "not JSON"),
            (b"[]", "wanted a JSON object"),
            (b"\xff", "not UTF-8"),
            (b'{"caption": "x"}', "wanted some of id, text"),
            (b'{"text": "x", "texts": ["y"]}', "text or texts, not both"),
            (b'{"texts": "x"}', "wanted lists as texts and labels"),
            (b'{"labels": "x"}', "wanted lists as texts and labels"),
            (b'{"metadata": []}', "wanted an object as metadata"),
            (b'{"split": 1}', "a name as split"),
            (b'{"id": 1}', "wanted a string as id"),
            (b" " * (1 << 20) + b"{}", "longer than"),
        ],
    )
    def test_an_object_that_is_wrong_costs_its_item(self, tmp_path: Path, content: bytes, words: str) -> None:
        source = sidecars(tmp_path).source
        write(source / "b.json", content)
        for importer in (Sidecars(), Sidecars(folder_labels=True)):
            (reason,) = refused(importer.entries(source)).values()
            assert words in reason

    def test_two_sidecars_are_one_too_many(self, tmp_path: Path) -> None:
        source = sidecars(tmp_path).source
        write(source / "b.txt", "text")
        assert refused(Sidecars().entries(source)) == {"b.JPG": "has both b.txt and b.json"}

    def test_a_sidecar_that_leads_out_is_refused(self, tmp_path: Path) -> None:
        source = sidecars(tmp_path / "set").source
        write(tmp_path / "secret.txt", "secret")
        (source / "a.txt").unlink()
        (source / "a.txt").symlink_to(tmp_path / "secret.txt")
        assert refused(Sidecars().entries(source)) == {
            "a.txt": "is a link that leaves the folder, or no regular file"
        }

    def test_two_names_with_one_id_are_refused_later_by_the_writer(self, tmp_path: Path) -> None:
        write(tmp_path / "x y.jpg", picture_bytes())
        write(tmp_path / "x_y.jpg", picture_bytes())
        assert [entry.id for entry in Sidecars().entries(tmp_path) if isinstance(entry, Found)] == [
            "x_y",
            "x_y",
        ]


def test_a_line_without_end_is_given_up(tmp_path: Path) -> None:
    write(tmp_path / "x.txt", "a\n" + "x" * (MAX_LINE_CHARS + 5))
    with pytest.raises(DataError, match=r"x\.txt line 2 is longer than"):
        list(numbered_lines(tmp_path / "x.txt"))


def test_the_fixtures_are_what_the_sets_look_like(tmp_path: Path) -> None:
    """The JSON fixtures parse, so that a test of bad JSON cannot pass by accident."""
    coco(tmp_path)
    assert set(json.loads((tmp_path / "annotations" / "instances_val2017.json").read_text())) == {
        "info", "licenses", "images", "categories", "annotations"
    }  # fmt: skip
