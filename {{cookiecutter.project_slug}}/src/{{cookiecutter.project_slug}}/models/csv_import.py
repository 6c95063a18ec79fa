"""What the flow `import_csv` has loaded: the files, and one row for each of their records."""

from datetime import UTC, datetime

from sqlalchemy import JSON, BigInteger, ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .meta import Base, UTCDateTime

# SQLite numbers rows by itself in a column declared INTEGER only.
Id = BigInteger().with_variant(Integer, "sqlite")


class CsvFile(Base):
    """A CSV file that was loaded; delete it, and its content is loaded again."""

    __tablename__ = "csv_files"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    row_count: Mapped[int] = mapped_column(Integer, default=0)
    imported_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))

    records: Mapped[list["CsvRecord"]] = relationship(
        back_populates="file",
        cascade="all, delete-orphan",
        passive_deletes=True,
        order_by="CsvRecord.row_number",
    )


class CsvRecord(Base):
    """One row of a CSV file, its fields by column name."""

    __tablename__ = "csv_records"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    file_id: Mapped[int] = mapped_column(
        ForeignKey("csv_files.id", ondelete="CASCADE"),
        index=True,
    )
    row_number: Mapped[int] = mapped_column(Integer)
    data: Mapped[dict[str, str]] = mapped_column(JSON)

    file: Mapped[CsvFile] = relationship(back_populates="records")
