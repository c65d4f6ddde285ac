from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.attribution import (
    Batch,
    attribute,
    get_objective,
    mean_gradient_sums,
    prepare_segment,
    query_filters,
    reestimate_batchnorm,
    score_rows,
    source_spectrum,
)

from .test_attribute import classifier


@pytest.mark.parametrize("batchnorm", [False, True])
def test_fast_source_is_source_at_the_mean_weights_of_each_segment(tmp_path: Path, batchnorm: bool) -> None:
    """Put together by hand from averaged state dicts; one fit and one pass a segment."""
    model, trajectory, train, query = classifier(tmp_path, batchnorm)
    found = attribute(model, trajectory, train, query, method="fast_source", segments=2, query_at="final")
    assert found.losses.shape == (2, 60)
    states = []
    for places in ((0, 1, 2), (3, 4, 5)):
        loaded = [trajectory.load_weights(place) for place in places]
        mean = {name: sum(state[name] for state in loaded) / 3 for name in loaded[0]}
        model.load_state_dict({name: value.to(loaded[0][name].dtype) for name, value in mean.items()})
        reestimate_batchnorm(model, [inputs for inputs, _ in train])
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    states.append(trajectory.load_weights(5))

    def load(place: int) -> None:
        model.load_state_dict(states[place])

    objective, rows = get_objective("cross_entropy"), []
    for inputs, labels in train:
        first = sum(len(batch.row_ids) for batch in rows)
        rows.append(Batch(inputs, labels, torch.arange(first, first + len(labels))))
    # The points are numbered on from the six checkpoints, which drawn labels depend on.
    segments = [
        prepare_segment(
            model,
            lambda place: load(place - 6),
            objective,
            rows,
            [6 + place],
            source_spectrum(cut.lr_sum),
        )
        for place, cut in enumerate(trajectory.segments(2))
    ]
    load(2)
    sums: dict[str, torch.Tensor] = {}
    for inputs, labels in query:
        for name, value in mean_gradient_sums(model, objective, inputs, labels).items():
            sums[name] = sums.get(name, 0) + value / 40
    filters = {"query": query_filters(sums, segments)}
    expected = score_rows(model, lambda place: load(place - 6), objective, rows, segments, 60, filters)
    torch.testing.assert_close(found.harm, expected.harm["query"])
    torch.testing.assert_close(found.self_influence, expected.self_influence)
    torch.testing.assert_close(found.losses, expected.losses)


def test_fast_source_ranks_about_as_source_does(tmp_path: Path) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    full = attribute(model, trajectory, train, query)
    fast = attribute(model, trajectory, train, query, method="fast_source")
    ranks = torch.stack([each.argsort().argsort().double() for each in (full.harm, fast.harm)])
    assert torch.corrcoef(ranks)[0, 1] > 0.9
