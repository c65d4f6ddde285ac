from __future__ import annotations

import torch
from torch import nn

from pipeline.attribution import has_batchnorm, reestimate_batchnorm


def test_statistics_become_the_mean_over_batches_and_modes_are_put_back() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3, momentum=0.2), nn.Linear(3, 2)).eval()
    model[0].train()
    batches = [torch.randn(8, 3) * 3 + 1 for _ in range(4)]
    model[0].eval()
    reestimate_batchnorm(model, batches)
    torch.testing.assert_close(model[1].running_mean, torch.stack([b.mean(0) for b in batches]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([b.var(0) for b in batches]).mean(0))
    assert model[1].momentum == 0.2
    assert not any(module.training for module in model.modules())


def test_dropout_stays_off_meanwhile() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3)).train()
    inputs = torch.randn(8, 3)
    reestimate_batchnorm(model, [inputs])
    torch.testing.assert_close(model[1].running_mean, inputs.mean(0))
    assert all(module.training for module in model.modules())


def test_models_without_running_statistics_are_left_alone() -> None:
    assert not has_batchnorm(nn.Linear(2, 2))
    assert not has_batchnorm(nn.BatchNorm1d(2, track_running_stats=False))
    assert has_batchnorm(nn.Sequential(nn.BatchNorm2d(2)))
    reestimate_batchnorm(nn.Linear(2, 2), [torch.zeros(1, 2)])
