"""Training in two processes, by DistributedDataParallel and FSDP2, against the same training in one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from pipeline.attribution import Trajectory, TrajectoryRecorder, attribute

ROWS, BATCH, STEPS, PROCESSES = 16, 8, 6, 2


def rows() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, 5, generator=generator), torch.randint(3, (ROWS,), generator=generator)


def plain_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


def record(model: nn.Module, directory: Path, process: int = 0, processes: int = 1) -> None:
    inputs, labels = rows()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    recorder = TrajectoryRecorder(
        model, optimizer, directory, steps=STEPS, train_rows=ROWS, batch_size=BATCH, checkpoints=3
    )
    for step in range(STEPS):
        batch = (torch.arange(BATCH) + step * BATCH) % ROWS
        mine = batch[process::processes]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[mine]), labels[mine])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        recorder.step(loss=loss)


def work(process: int, kind: str, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=process, world_size=PROCESSES
    )
    model: nn.Module = plain_model()
    if kind == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    else:
        mesh = init_device_mesh("cpu", (PROCESSES,))
        for layer in (model[0], model[2]):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    record(model, Path(folder) / "trajectory", process, PROCESSES)
    distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_the_trajectory_of_two_processes_is_that_of_one(kind: str, tmp_path: Path) -> None:
    record(plain_model(), tmp_path / "one")
    multiprocessing.spawn(work, (kind, str(tmp_path)), nprocs=PROCESSES)
    one, two = Trajectory.load(tmp_path / "one"), Trajectory.load(tmp_path / "trajectory")
    assert one.stages == two.stages
    assert [each.step for each in two.checkpoints] == [2, 4, 6]
    for place in range(3):
        torch.testing.assert_close(one.load_weights(place), two.load_weights(place))
        torch.testing.assert_close(one.load_second_moments(place), two.load_second_moments(place))
    torch.testing.assert_close(one.load_tail(), two.load_tail())
    assert [each.gradient_norm for each in two.measured] == pytest.approx(
        [each.gradient_norm for each in one.measured], rel=1e-4
    )
    harm = [attribute(plain_model(), each, [rows()], [rows()]).harm for each in (one, two)]
    assert harm[0] is not None
    torch.testing.assert_close(harm[0], harm[1], rtol=1e-3, atol=1e-7)
