"""What `winnow check` finds: lines with a status, the cost of layers, and estimated seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

OK, TOO_MUCH = "ok", "error: "


@dataclass(frozen=True)
class CheckLine:
    """One line of the output; `status` is empty, `ok`, or begins with `warning: ` or `error: ` and says what to do."""

    name: str
    text: str
    status: str = ""


@dataclass(frozen=True)
class LayerCost:
    """How attribution computes one layer.

    Attributes:
        layer: its name.
        parameters: how many parameters attribution covers in it.
        form: the form of its gradients in self-influence, the one with the fewest operations and bytes.
        operations, bytes: for one row, at all checkpoints.
    """

    layer: str
    parameters: int
    form: str
    operations: int
    bytes: int


@dataclass(frozen=True)
class Preflight:
    """The result of `check`; it is not `ok` if the audit can't run with this config.

    Attributes:
        lines: the output.
        layers: the cost of each covered layer.
        seconds: stage → estimated seconds.
    """

    lines: list[CheckLine]
    layers: list[LayerCost] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not any(line.status.startswith(TOO_MUCH) for line in self.lines)

    def as_dict(self) -> dict[str, Any]:
        lines, layers = ([asdict(each) for each in found] for found in (self.lines, self.layers))
        return {"ok": self.ok, "lines": lines, "layers": layers, "seconds": self.seconds}
