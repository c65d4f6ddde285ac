"""The model on weighted terms: its terms against scikit-learn's, its attribution against dense matrices."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

from pipeline.attribution import (
    Batch,
    cross_entropy,
    mean_gradient_sums,
    prepare_segment,
    query_filters,
    score_rows,
    source_spectrum,
)
from pipeline.features.kinds.text import FIRST, TOKENS, TextEncoder
from pipeline.features.words import tokens
from pipeline.models.features import features_and_outputs
from pipeline.models.tfidf import ALWAYS, SCALE, TermTables, TfIdf, WeightedTerms, parts_of, term_tables

from ..attribution.oracles import split
from ..features.fitted import fit

WORDS = (
    *("the", "film", "was", "good", "bad", "very", "dull", "bright", "acting", "actor", "acted"),
    *("plot", "plotting", "slow", "slower", "slowly", "好", "看"),
)
TEXTS = [" ".join(np.random.RandomState(row).choice(WORDS, 3 + row % 6)) for row in range(40)]


def dense(encoder: TextEncoder, texts: list[str]) -> np.ndarray:
    """The weights of all terms, float64 `[texts, terms]`."""
    return weights_of(term_tables(encoder.facts), rows_of(encoder, texts))


def weights_of(tables: TermTables, rows: Tensor) -> np.ndarray:
    """The weights of all terms, float64 `[rows, terms]`."""
    terms, weights = WeightedTerms(tables)(rows)
    return (
        torch.zeros(len(rows), len(tables.idf), dtype=torch.float64)
        .scatter_add_(1, terms, weights.double())
        .numpy()
    )


def frequent_terms(texts: list[str]) -> np.ndarray:
    """scikit-learn's TF-IDF of words, and of pairs in at least two texts, float64 `[texts, terms]`."""
    peer = TfidfVectorizer(analyzer=with_pairs, sublinear_tf=True, norm=None).fit(texts)
    found = peer.transform(texts).toarray()
    once = [
        place for name, place in peer.vocabulary_.items() if " " in name and (found[:, place] > 0).sum() < 2
    ]
    return np.delete(found, once, axis=1)


def rows_of(encoder: TextEncoder, texts: list[str]) -> Tensor:
    return torch.from_numpy(encoder.encode(pa.array(texts)))


def unit(matrix: Any) -> np.ndarray:
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)


def with_pairs(text: str) -> list[str]:
    found = tokens(text)
    return found + [f"{first} {second}" for first, second in pairwise(found)]


def test_words_and_pairs_are_the_tf_idf_of_scikit_learn() -> None:
    encoder = fit("text", pa.array(TEXTS))
    tables = term_tables(encoder.facts)
    found = dense(encoder, TEXTS)
    assert (found[:, ALWAYS] == SCALE).all()
    expected = unit(frequent_terms(TEXTS))
    words = found[:, FIRST : tables.first_part] / SCALE
    np.testing.assert_allclose(words @ words.T, expected @ expected.T, atol=1e-6)
    assert words.shape[1] == expected.shape[1]


def test_words_and_pairs_of_two_columns_are_terms_of_their_own() -> None:
    bodies = TEXTS[::-1]
    encoders = [fit("text", pa.array(TEXTS)), fit("text", pa.array(bodies))]
    TOKENS.settle(encoders)
    facts = TOKENS.statistics(encoders)["text"]
    tables = term_tables(facts)
    rows = torch.cat([rows_of(encoder, texts) for encoder, texts in zip(encoders, (TEXTS, bodies))], 1)
    found = weights_of(tables, rows)[:, FIRST : tables.first_part] / SCALE
    expected = unit(np.hstack([frequent_terms(texts) for texts in (TEXTS, bodies)]))
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-6)


def test_parts_are_those_that_two_words_share() -> None:
    encoder = fit("text", pa.array(TEXTS))
    tables = term_tables(encoder.facts)
    found = dense(encoder, TEXTS)[:, tables.first_part :] / SCALE
    vocabulary = {word for text in TEXTS for word in tokens(text)}
    rows = {word: np.mean([word in tokens(text) for text in TEXTS]) for word in vocabulary}
    holders: dict[str, list[str]] = {}
    for word in vocabulary:
        for part in parts_of(word):
            holders.setdefault(part, []).append(word)
    shared = {part: words for part, words in holders.items() if len(words) > 1}
    assert found.shape[1] == len(shared)
    expected = np.zeros((len(TEXTS), len(shared)))
    for place, words in enumerate(shared.values()):
        frequency = len(TEXTS) * (1 - np.prod([1 - rows[word] for word in words]))
        idf = np.log((1 + len(TEXTS)) / (1 + frequency)) + 1
        counts = np.array([sum(word in words for word in tokens(text)) for text in TEXTS])
        expected[:, place] = np.where(counts > 0, (1 + np.log(np.maximum(counts, 1))) * idf, 0)
    expected = unit(expected)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)


def test_parts_of_a_word() -> None:
    assert parts_of("acts") == [" ac", "act", "cts", "ts ", " act", "acts", "cts ", " acts", "acts "]
    assert parts_of("好") == [" 好 "]
    assert len(parts_of("x1y2z3" * 1000)) == 24


def model_of(encoder: TextEncoder, outputs: int = 3, **options: Any) -> TfIdf:
    torch.manual_seed(0)
    model = TfIdf(term_tables(encoder.facts), outputs, **options)
    with torch.no_grad():
        model.embedding.weight.normal_(std=0.3)
        model.embedding.weight[0] = 0
    return model


def test_a_row_gives_the_same_in_every_batch() -> None:
    encoder = fit("text", pa.array(TEXTS))
    rows, model = rows_of(encoder, [*TEXTS, "", "zzz unknown"]), model_of(encoder)
    together = model(rows)
    for row in range(len(rows)):
        torch.testing.assert_close(model(rows[row : row + 1]), together[row : row + 1])
    assert torch.isfinite(together).all()
    assert model(rows[:0]).shape == (0, 3)
    torch.testing.assert_close(together[-1], SCALE * model.embedding.weight[ALWAYS])  # the intercept alone


def test_features_are_the_outputs_and_need_no_gradients() -> None:
    encoder = fit("text", pa.array(TEXTS))
    features, outputs = features_and_outputs(model_of(encoder), rows_of(encoder, TEXTS))
    outputs.requires_grad_()  # as for the gradient of a loss with respect to the outputs
    assert torch.equal(features, outputs)
    assert not features.requires_grad


def test_a_text_beside_a_table() -> None:
    encoder = fit("text", pa.array(TEXTS))
    model = model_of(encoder, dense=2, hidden=[4])
    rows = {"tokens": rows_of(encoder, TEXTS), "dense": torch.zeros(len(TEXTS), 2)}
    changed = rows | {"dense": torch.ones(len(TEXTS), 2)}
    assert model(rows).shape == (len(TEXTS), 3)
    assert not torch.allclose(model(rows), model(changed))


@pytest.mark.parametrize("texts", [["a"], ["a", None], ["", ""]])
def test_a_vocabulary_without_pairs_or_parts(texts) -> None:
    encoder = fit("text", pa.array(texts, pa.string()))
    assert model_of(encoder)(rows_of(encoder, texts)).shape == (len(texts), 3)


def test_facts_survive_the_encoding_on_disk() -> None:
    encoder = fit("text", pa.array(TEXTS))
    again = TextEncoder(**asdict(encoder))
    assert again.facts == encoder.facts
    np.testing.assert_array_equal(dense(again, TEXTS), dense(encoder, TEXTS))


def test_source_equals_ek_fac_with_dense_matrices() -> None:
    """One segment; every matrix of the oracle is formed from the weights of all terms, row by row."""
    random = np.random.RandomState(0)
    words = [
        f"{first}{second}"
        for first in ("mor", "tal", "ri", "ven", "lu", "sab")
        for second in ("tan", "osi", "ilun", "kare")
    ]
    texts = [" ".join(random.choice(words, 9)) for _ in range(60)]
    rows, objective = len(texts), cross_entropy()
    encoder = fit("text", pa.array(texts))
    model, inputs = model_of(encoder).double(), rows_of(encoder, texts)
    labels = torch.from_numpy(random.randint(0, 3, rows))
    features = torch.from_numpy(dense(encoder, texts))
    assert 150 < features.shape[1] <= 500
    rate, decay = 2.0, 0.05
    state = {name: value.clone() for name, value in model.state_dict().items()}
    batch = Batch(inputs, labels, torch.arange(rows))
    segment = prepare_segment(
        model,
        lambda _: model.load_state_dict(state) and None,
        objective,
        split(batch, 7),
        (0,),
        source_spectrum(rate, decay),
        fisher="exact",
    )
    query = {
        name: value / 5
        for name, value in mean_gradient_sums(model, objective, inputs[:5], labels[:5]).items()
    }
    found = score_rows(
        model,
        lambda _: None,
        objective,
        split(batch, 6),
        [segment],
        rows,
        {"validation": query_filters(query, [segment])},
        self_influence_tolerance=0.0,
    )
    probabilities = (features @ state["embedding.weight"]).softmax(1)
    gradients = (probabilities - torch.nn.functional.one_hot(labels, 3))[:, :, None] * features[:, None, :]
    hessians = torch.diag_embed(probabilities) - probabilities[:, :, None] * probabilities[:, None, :]
    output_factor = (features.square().sum(1)[:, None, None] * hessians).sum(0)
    rotation = torch.linalg.eigh(output_factor).eigenvectors
    curvature = torch.einsum("ko,rop,kp,rt->kt", rotation.T, hessians, rotation.T, features.square()) / rows
    damped = curvature + decay
    kernel = (1 - torch.exp(-rate * damped)) / damped
    rotated = torch.einsum("ok,rot->rkt", rotation, gradients)
    own = torch.einsum("rkt,kt,rkt->r", rotated, kernel, rotated) / rows
    harm = -torch.einsum("kt,kt,rkt->r", rotated[:5].mean(0), kernel, rotated) / rows
    assert found.self_influence is not None
    torch.testing.assert_close(found.self_influence, own, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(found.harm["validation"], harm, rtol=1e-5, atol=1e-9)
