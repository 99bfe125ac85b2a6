"""Which importers there are: adding one here is enough to put it under the importers' contract tests."""

from collections.abc import Callable, Mapping

from model.data.importers.base import Importer
from model.data.importers.coco import Coco
from model.data.importers.flickr8k import Flickr8k
from model.data.importers.mirflickr import MirFlickr
from model.data.importers.nuswide import NusWide
from model.data.importers.sidecars import Sidecars
from model.data.importers.table import Table

IMPORTERS: Mapping[str, Callable[[], Importer]] = {
    "coco": Coco,
    "csv": Table,
    "flickr8k": Flickr8k,
    "folder": Sidecars,
    "mirflickr": MirFlickr,
    "nuswide": NusWide,
}
