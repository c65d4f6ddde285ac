"""The keys `data.embeddings` and `data.pred_probs`: what a model of the user's own says about every row."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.sections.fields import Section


def _as_column(value: Any) -> Any:
    return {"column": value} if isinstance(value, str) else value


def class_text(value: Any) -> str:
    """A class as text, as the keys and lists of the config name it: true, 3, spam."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _class_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {class_text(name): column for name, column in value.items()}
    return [class_text(name) for name in value] if isinstance(value, list) else value


class Evidence(Section):
    """Columns of the data, or of a file that is joined by key."""

    column: str | None = None
    file: str | None = Field(
        None, description="the file or folder that has the columns; without it, the data have them"
    )
    key: str | None = Field(
        None, description="the column of `file` with the keys of the rows; without it, that of data.key"
    )

    @property
    def columns_read(self) -> list[str]:
        """The columns with values."""
        return [] if self.column is None else [self.column]

    @model_validator(mode="after")
    def key_of_a_file(self) -> Evidence:
        if self.key is not None and self.file is None:
            raise ValueError("`key` is a column of `file`, and there is no `file`")
        return self


class Embeddings(Evidence):
    """Embeddings of the rows by a model of your own: docs/how-to/own-evidence.md. A name alone is the `column`."""

    column: str = Field(description="lists of numbers, of one length")


class Probabilities(Evidence):
    """Class probabilities by a model of your own that has not seen the row: docs/how-to/own-evidence.md. A name alone
    is the `column`."""

    column: str | None = Field(
        None, description="lists of probabilities, one per class, in the order of the sorted classes"
    )
    classes: Annotated[list[str] | None, BeforeValidator(_class_texts)] = Field(
        None, description="the classes in the order of `column`, if it is another one"
    )
    columns: Annotated[dict[str, str] | None, BeforeValidator(_class_texts)] = Field(
        None, description="instead of `column`: class → the column with its probability"
    )

    @property
    def columns_read(self) -> list[str]:
        return super().columns_read if self.columns is None else list(self.columns.values())

    @property
    def names(self) -> list[str] | None:
        """The classes in the order of the values, as text; None for the sorted classes."""
        return self.classes if self.columns is None else list(self.columns)

    @model_validator(mode="after")
    def one_form(self) -> Probabilities:
        if (self.column is None) == (self.columns is None):
            raise ValueError("give either `column` or `columns`")
        if self.classes is not None and self.column is None:
            raise ValueError("`classes` is the order of `column`, and there is no `column`")
        if self.names is not None and len(set(self.names)) < len(self.names):
            raise ValueError("`classes` names a class twice")
        if len(set(self.columns_read)) < len(self.columns_read):
            raise ValueError("`columns` names a column twice")
        return self


EmbeddingsKey = Annotated[Embeddings | None, BeforeValidator(_as_column)]
ProbabilitiesKey = Annotated[Probabilities | None, BeforeValidator(_as_column)]
