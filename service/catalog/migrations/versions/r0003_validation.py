"""Jobs say what was checked before their generation was served, and how much worse it might be."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; earlier jobs have neither."""
    op.add_column("jobs", sa.Column("quality_floor", sa.Float(precision=53), nullable=True))
    op.add_column("jobs", sa.Column("validation", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Drop the columns with what they hold."""
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("validation")
        jobs.drop_column("quality_floor")
