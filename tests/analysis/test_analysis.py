"""The one pass behind the report, against the same quantities from plainly captured tensors."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from qtx.analysis import FloatingPoint, load_analysis, measure_outliers, save_analysis
from qtx.analysis.analysis import EXPECTED
from qtx.analysis.capture import values_at
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import read_npz, sealed_npz
from tests.analysis.conftest import make_batch

SITES = (
    "layers/mlp/out",
    "layers/mlp_residual",
    "layers/attention/probs",
    "layers/attention/value",
    "layers/attention/gate",
    "layers/attention/gated_context",
)


def planted(params):
    """Parameters that put one giant value in dimension 5 of the residual at position 3 (OPT offsets positions by 2)."""
    table = params["embeddings"]["positions"]["embedding"].at[3 + 2, 5].set(60.0)
    return {**params, "embeddings": {**params["embeddings"], "positions": {"embedding": table}}}


@pytest.fixture(scope="module")
def gated_opt(make_model):
    """(batches, captured tensors by site, analysis) of an OPT with outliers; the last sample of all is padding."""
    module, params = make_model("opt", "gated_linear")
    params = planted(params)
    batches = [make_batch("opt", seed) for seed in (0, 1)]
    batches[1]["weights"][3] = 0
    model = FloatingPoint(module, params)
    captured = [jax.device_get(jax.jit(lambda m, b: values_at(m, b, SITES))(model, batch)) for batch in batches]
    values = {site: np.concatenate([c[site] for c in captured], axis=1)[:, :7] for site in SITES}
    shifted = jax.tree.map(lambda x: x, params)
    shifted["final_norm"] = {"scale": params["final_norm"]["scale"], "bias": params["final_norm"]["bias"] + 1}
    return batches, values, measure_outliers(module, params, batches, quantized=FloatingPoint(module, shifted))


def real(batches):
    return np.concatenate([batch["mask"] for batch in batches])[:7]


@pytest.mark.slow
def test_outliers_are_found_where_they_were_planted(gated_opt):
    batches, values, analysis = gated_opt
    x, mask = values["layers/mlp_residual"], real(batches)
    expected = np.zeros(x.shape, bool)
    for layer in range(2):
        for sample in range(7):
            tokens = x[layer, sample][mask[sample]].astype(np.float64)
            expected[layer, sample] = np.abs(x[layer, sample] - tokens.mean()) > 6 * tokens.std(ddof=1)
    expected &= mask[None, :, :, None]
    assert expected[:, :, 3, 5].all()
    np.testing.assert_array_equal(analysis.outliers_by_dimension, expected.sum((1, 2)))
    np.testing.assert_array_equal(analysis.outliers_by_position, expected.sum((1, 3)))
    assert analysis.metrics["outliers"] == expected.sum()
    assert analysis.metrics["outlier_share"] == pytest.approx(expected.sum() / (2 * mask.sum() * 32))
    tokens = np.concatenate([batch["tokens"] for batch in batches])[:7]
    by_token = np.bincount(tokens.ravel(), expected.sum((0, 3)).ravel(), minlength=50)
    assert list(analysis.outlier_tokens.values()) == sorted(by_token[by_token > 0].tolist(), reverse=True)[:12]
    assert all(by_token[int(token)] == count for token, count in analysis.outlier_tokens.items())


@pytest.mark.slow
def test_axes_of_histograms_do_not_reach_for_what_padding_holds(make_model):
    module, params = make_model("opt")
    words = params["embeddings"]["words"]["embedding"].at[0].set(50.0)
    params = {**params, "embeddings": {**params["embeddings"], "words": {"embedding": words}}}
    batch = make_batch("opt")
    batch["tokens"] = np.maximum(batch["tokens"], 1)
    large = {**batch, "tokens": np.where(batch["mask"], batch["tokens"], 0)}
    expected, found = (measure_outliers(module, params, [b]).histogram_range for b in (batch, large))
    for name, ends in expected.items():
        np.testing.assert_allclose(found[name], ends, rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_head_statistics_are_means_over_real_tokens(gated_opt):
    batches, values, analysis = gated_opt
    mask = real(batches)
    probs, gate = values["layers/attention/probs"], values["layers/attention/gate"]
    mass = (probs * mask[None, :, None, :, None]).sum(3) / mask.sum(1)[None, :, None, None]  # [L, S, H, T]
    np.testing.assert_allclose(analysis.heads["sink_mass"], mass.max(-1).mean(1), rtol=1e-5)
    np.testing.assert_allclose(analysis.heads["first_mass"], mass[..., 0].mean(1), rtol=1e-5)
    np.testing.assert_allclose(analysis.column_mass, mass.mean((1, 2)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(analysis.heads["openness"], gate[:, mask].mean(1), rtol=1e-5)
    context = np.abs(values["layers/attention/gated_context"]) * mask[None, ..., None]
    loudest = context.reshape(2, 7, 16, 4, 8).max((2, 4)).mean(1)
    np.testing.assert_allclose(analysis.heads["context_norm"], loudest, rtol=1e-5)
    assert analysis.metrics["sink_mass"] == pytest.approx(analysis.heads["sink_mass"].mean())


@pytest.mark.slow
def test_histograms_count_every_real_value_in_floating_point_and_quantized(gated_opt):
    batches, values, analysis = gated_opt
    mask = real(batches)
    assert analysis.histograms.keys() == analysis.histogram_range.keys() == analysis.quantized_histograms.keys()
    for name, counts in analysis.histograms.items():
        x = values[name.split()[0]]
        for layer in range(2):
            ends = analysis.histogram_range[name][layer]
            inside = np.clip(x[layer][mask], *ends)
            expected, _ = np.histogram(inside, counts.shape[1], ends)
            assert counts[layer].sum() == inside.size
            # A value on the edge of two bins may fall in either.
            assert np.abs(np.cumsum(counts[layer]) - np.cumsum(expected)).max() <= 2, name
        np.testing.assert_array_equal(analysis.quantized_histograms[name], counts)  # only final_norm was changed


@pytest.mark.slow
def test_maps_show_the_first_example_of_the_chosen_heads(gated_opt):
    batches, values, analysis = gated_opt
    sink, loud = analysis.maps["sink"], analysis.maps["outlier"]
    assert analysis.heads["sink_mass"][sink.layer, sink.head] == analysis.heads["sink_mass"].max()
    assert loud.layer == np.abs(values["layers/mlp/out"]).max((2, 3)).mean(1).argmax()
    assert loud.head == analysis.heads["context_norm"][loud.layer].argmax()
    length = int(batches[0]["mask"][0].sum())
    for shown in (sink, loud):
        probs = values["layers/attention/probs"][shown.layer, 0, shown.head, :length, :length]
        np.testing.assert_allclose(shown.probs, probs, rtol=1e-4, atol=1e-7)
        columns = slice(8 * shown.head, 8 * shown.head + 8)
        value = values["layers/attention/value"][shown.layer, 0, :length, columns]
        context = values["layers/attention/gated_context"][shown.layer, 0, :length, columns]
        np.testing.assert_allclose(shown.value_norm, np.linalg.norm(value, axis=-1), rtol=1e-5)
        np.testing.assert_allclose(shown.context_norm, np.linalg.norm(context, axis=-1), rtol=1e-5)
        gate = values["layers/attention/gate"][shown.layer, 0, :length, shown.head]
        np.testing.assert_allclose(shown.openness, gate, rtol=1e-5)
        assert shown.tokens == [str(token) for token in batches[0]["tokens"][0, :length]]


@pytest.mark.slow
def test_images_have_patches_and_no_tokens(make_model):
    module, params = make_model("vit", "none")
    analysis = measure_outliers(module, params, [make_batch("vit")])
    assert analysis.outlier_tokens == {} and analysis.quantized_histograms == {}
    assert analysis.outliers_by_position.shape == (2, 17)
    assert analysis.maps["sink"].tokens[:3] == ["class", "1", "2"] and len(analysis.maps["sink"].tokens) == 17
    assert analysis.maps["sink"].openness is None
    assert (analysis.heads["zero_share"] == 1).all() and analysis.metrics["sink_mass"] == 0


@pytest.mark.slow
def test_what_is_saved_is_loaded(gated_opt, tmp_path):
    _, _, analysis = gated_opt
    analysis = dataclasses.replace(analysis, outlier_tokens={"a/b": 3, "$": 2, "array": 1})
    save_analysis(analysis, tmp_path / "analysis.npz")
    loaded = load_analysis(tmp_path / "analysis.npz")

    def same(a, b):
        assert type(a) is type(b)
        if isinstance(a, dict):
            assert a.keys() == b.keys()
            for key in a:
                same(a[key], b[key])
        elif dataclasses.is_dataclass(a):
            same(vars(a), vars(b))
        else:
            np.testing.assert_array_equal(a, b)

    same(analysis, loaded)


@pytest.mark.parametrize("content", [b"not a zip file", None])
def test_a_file_of_another_kind_is_told(tmp_path, content):
    path = tmp_path / "analysis.npz"
    if content is None:
        np.savez(path, something=np.zeros(3))
    else:
        path.write_bytes(content)
    with pytest.raises(QtxError, match="analysis of this version"):
        load_analysis(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.pop("maps"),
        lambda tree: tree.update(site=3),
        lambda tree: tree["heads"].update(openness={"array": "absent"}),
        lambda tree: tree["maps"]["sink"].update(tokens="abc"),
        lambda tree: tree["maps"]["sink"].pop("layer"),
        lambda tree: tree["metrics"].update(outliers="many"),
    ],
)
def test_a_file_that_was_made_up_is_told(gated_opt, tmp_path, change):
    """With a checksum that fits: whoever edits a file can compute it anew."""
    path = tmp_path / "analysis.npz"
    save_analysis(gated_opt[2], path)
    arrays, tree = read_npz(path, EXPECTED)
    change(tree)
    path.write_bytes(sealed_npz(arrays, tree))
    with pytest.raises(QtxError, match="is not an analysis of this version"):
        load_analysis(path)


def test_no_batches_is_an_error(make_model):
    with pytest.raises(QtxError, match="no batches"):
        measure_outliers(*make_model("vit", "none"), [])
