"""The section `model`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config.sections.fields import Section


class Model(Section):
    """`usual` is tfidf for text, finetuned for a text whose encoder is trained, and mlp for everything else."""

    name: Literal[
        "auto", "usual", "mlp", "table", "convnet", "tfidf", "bag_of_embeddings", "finetuned", "custom"
    ] = Field(
        "usual",
        description="auto: a short trial chooses among the models that take the data, "
        "docs/how-to/which-model.md. `custom` goes with `target`",
    )
    hidden: list[Annotated[int, Field(gt=0)]] = Field(
        [256, 128],
        description="widths of the hidden layers; tfidf and finetuned: of those that join a text "
        "with a table",
    )
    channels: list[Annotated[int, Field(gt=0)]] = Field([32, 64], description="convnet: channels per block")
    embedding: int = Field(64, gt=0, description="bag_of_embeddings: width")
    dropout: float = Field(0.0, ge=0, lt=1, description="between the hidden layers")
    target: str | None = Field(None, description="your own: `package.module:function` that returns a module")
    kwargs: dict[str, Any] = Field(
        {},
        description="arguments of your own function; it gets `encoding` too if it has a parameter of that name: "
        "docs/how-to/own-model.md",
    )

    @model_validator(mode="after")
    def own(self) -> Model:
        if self.name == "custom" and self.target is None:
            raise ValueError("`name: custom` needs `target: package.module:function`")
        if self.target is not None and ":" not in self.target:
            raise ValueError(f"`target` is {self.target!r}; write package.module:function")
        if self.kwargs and self.target is None:
            raise ValueError("`kwargs` are for your own function, and there is no `target`")
        return self
