"""A feature that a pretrained encoder turns into numbers: a section in the place of a word in `data.features`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.sections.fields import Section
from pipeline.features.registry import is_import_path


class EncodedFeature(Section):
    """A text or an image as a pretrained encoder sees it, in the place of a word: docs/how-to/encoders.md."""

    kind: Literal["text", "image"] = Field(description="what the column holds")
    encoder: str = Field(
        min_length=1,
        description="a model of sentence-transformers, by name or as a folder; or `package.module:function`, which "
        "returns a function from texts or pictures to numbers",
    )
    download: bool = Field(
        False, description="whether the model may be downloaded if it is not on this machine"
    )

    finetune: Annotated[int, Field(ge=1)] | Literal["all"] | None = Field(
        None,
        description="of an encoder of texts: how many of its last layers are trained with the model, or `all`; without "
        "it, the encoder stays as it is",
    )

    @model_validator(mode="after")
    def texts_are_finetuned(self) -> EncodedFeature:
        if self.finetune is not None and (self.kind == "image" or is_import_path(self.encoder)):
            raise ValueError(
                "`finetune` is for texts and a model of sentence-transformers: train other encoders as a model of "
                "your own, docs/how-to/own-model.md"
            )
        return self

    @model_validator(mode="after")
    def pictures_by_a_function(self) -> EncodedFeature:
        if self.kind == "image" and not is_import_path(self.encoder):
            raise ValueError(
                f"an encoder of images is a function, package.module:function, not {self.encoder!r}"
            )
        return self

    @property
    def word(self) -> str:
        """What the registry of kinds calls it."""
        return f"{'encoded' if self.finetune is None else 'finetuned'} {self.kind}"
