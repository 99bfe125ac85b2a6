"""The exception tree of the index package.

HashIndexError
|-- BadCodes            codes of a wrong type, shape or width
|-- BadId               an id that cannot be stored (empty, too long, NUL, not UTF-8)
|-- DuplicateId         one id twice in the same call
|-- BadOptions          a search option out of its range
|-- UnknownOption       a backend name or option that nobody has registered
|-- Unsupported         what this backend cannot do on this machine (no GPU, no client library)
|-- EngineUnavailable   an engine elsewhere that cannot be reached or does not answer in time
|-- CorruptIndex        saved data that is missing, truncated, altered or contradicts itself
`-- GenerationMismatch  a generation that belongs to another model

Every message says what was wanted and what came.
"""


class HashIndexError(Exception):
    """Base of every error that this package raises on purpose."""


class BadCodes(HashIndexError):
    """Codes (or bits) of a wrong type, shape or width."""


class BadId(HashIndexError):
    """An id that cannot be stored: empty, too long, with a NUL byte, or not encodable as UTF-8."""


class DuplicateId(HashIndexError):
    """One id appears twice in the same call; nothing of that call was stored."""


class BadOptions(HashIndexError):
    """A search option out of its range (k, max_distance, after)."""


class UnknownOption(HashIndexError):
    """A backend name, or an option of a backend, that does not exist or is out of its range."""


class Unsupported(HashIndexError):
    """Something that this backend cannot do here, for example a GPU index without a GPU."""


class EngineUnavailable(HashIndexError):
    """An engine elsewhere (PostgreSQL, Milvus) that cannot be reached, refuses, or does not answer in time.

    What was asked may be asked again later; a change was either made whole or not at all.
    """


class CorruptIndex(HashIndexError):
    """Saved data that is missing, truncated, altered, or contradicts itself."""


class GenerationMismatch(HashIndexError):
    """A generation built by another model than the one that is loaded."""
