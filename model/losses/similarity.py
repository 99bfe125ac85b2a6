"""Who is relevant to whom: the field's rule on multi-hot labels."""

from torch import Tensor


def shared_label(labels: Tensor, others: Tensor | None = None) -> Tensor:
    """Relevance of every pair: 1 when two items have a label in common, else 0.

    Args:
        labels: (n, C) multi-hot, any real dtype.
        others: (m, C) multi-hot; ``labels`` itself when absent.

    Returns:
        (n, m) of the dtype of ``labels``, entries 0 or 1.

    """
    second = labels if others is None else others
    return (labels @ second.T > 0).to(labels.dtype)
