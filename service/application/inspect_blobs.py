"""Inspects the images: whether each is there, whole and readable, and what lies there that nobody has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice

from service.application.errors import ServiceError, Unavailable
from service.application.findings import Fault, Finding, some
from service.application.inspection_ports import AuditRepository, BlobEntry, BlobListing
from service.application.ports import BlobStore, Clock, Encoder

_PAGE = 500
_NAMED = 5
_QUICK = 100
_AGAIN = "PUT the image again (the item's other content as well), or DELETE the item"
_READ = f"mend what keeps it from being read, and look again; or {_AGAIN}"
_ROWS = "first row-missing: it may be the image of an item that lost its row, which a back-up has"


@dataclass(frozen=True)
class BlobInspection:
    """Finds what is wrong with the blobs; `grace` is how old must be what counts as orphaned."""

    audit: AuditRepository
    blobs: BlobStore
    listing: BlobListing
    clock: Clock
    grace: timedelta

    def find(self, decoder: Encoder | None, watch: Callable[[int], None]) -> Iterator[Finding]:
        """Read every image, decode it where a model is there for that, and list the store.

        `watch` hears how many images were read.
        """
        yield from self._images(self._digests(), decoder, watch)
        yield from self._orphans()

    def glance(self, watch: Callable[[int], None]) -> Iterator[Finding]:
        """Read the first few images, and list nothing."""
        return self._images(islice(self._digests(), _QUICK), None, watch)

    def _digests(self) -> Iterator[str]:
        after = ""
        while page := self.audit.digests(after, _PAGE):
            yield from page
            after = page[-1]

    def _images(
        self, digests: Iterator[str], decoder: Encoder | None, watch: Callable[[int], None]
    ) -> Iterator[Finding]:
        for done, digest in enumerate(digests, 1):
            try:
                data = self.blobs.read(digest)
            except ServiceError as error:
                missing = error.code == "blob_missing"
                fault = Fault.BLOB_MISSING if missing else Fault.BLOB_DAMAGED
                yield from self._image(fault, digest, error.detail)
            except (OSError, ValueError) as error:
                yield from self._image(Fault.BLOB_UNREADABLE, digest, _reason(error), _READ)
            else:
                yield from self._decoded(digest, data, decoder)
            watch(done)

    def _decoded(self, digest: str, data: bytes, decoder: Encoder | None) -> Iterator[Finding]:
        try:
            if decoder is not None and "image" in decoder.modalities:
                decoder.decode(data)
        except Unavailable:
            raise
        except ServiceError as error:
            yield from self._image(Fault.BLOB_UNDECODABLE, digest, f"its bytes are whole, but {error.detail}")

    def _image(self, fault: Fault, digest: str, detail: str, next_step: str = _AGAIN) -> Iterator[Finding]:
        count, ids = self.audit.owners(digest, _NAMED)
        if count:  # else its items have gone since their digests were read
            yield Finding(fault, digest, f"{detail}; it is the image of {some(count, ids)}", next_step)

    def _orphans(self) -> Iterator[Finding]:
        entries = self.listing.entries()
        rows_lost = bool(self.audit.strays())
        while page := [*islice(entries, _PAGE)]:
            unused = set(self.audit.unused([one.digest for one in page if one.digest is not None]))
            left = [one for one in page if one.digest is None or one.digest in unused]
            yield from self._old(left, rows_lost)

    def _old(self, entries: Sequence[BlobEntry], rows_lost: bool) -> Iterator[Finding]:
        now = self.clock()
        for entry in entries:
            written = self.listing.modified(entry.path)
            if written is None or now - written < self.grace:
                continue  # a writer stores its blobs before its items
            hours = (now - written).total_seconds() / 3600
            if entry.digest is not None:
                yield self._orphan(entry.digest, hours, rows_lost)
            else:
                yield self._partial(entry.path, hours)

    def _orphan(self, digest: str, hours: float, rows_lost: bool) -> Finding:
        return Finding(
            Fault.BLOB_ORPHANED,
            digest,
            f"no item has this image, which was stored {hours:.1f} hours ago",
            _ROWS if rows_lost else "run again with --repair",
            None if rows_lost else lambda: self._swept(digest),
        )

    def _swept(self, digest: str) -> str:
        gone = self.audit.remove_unused([digest], self.blobs.remove)
        return "removed" if gone else "an item has it by now"

    def _partial(self, path: str, hours: float) -> Finding:
        name = path.rpartition("/")[2]
        ours = _is_partial(name)
        return Finding(
            Fault.BLOB_PARTIAL,
            path.encode(errors="backslashreplace").decode(),  # a name need not be UTF-8
            f"{'a write that was cut off' if ours else 'no blob of this service'}, {hours:.1f} hours ago",
            "run again with --repair" if ours else "see whose file it is",
            (lambda: self._removed(path)) if ours else None,
        )

    def _removed(self, path: str) -> str:
        self.listing.discard(path)
        return "removed"


def _reason(error: Exception) -> str:
    return f"it cannot be read ({type(error).__name__}: {error})"


def _is_partial(name: str) -> bool:
    """Whether a name is `.<SHA-256>.<32 hexadecimal digits>`, as the blob store writes beside a place."""
    parts = name.split(".")
    lengths = [len(part) for part in parts]
    return lengths == [0, 64, 32] and all(set(part) <= set("0123456789abcdef") for part in parts)
