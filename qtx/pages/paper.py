"""The paper's own numbers (Bondarenko et al. 2023), to be shown beside what is measured here."""

from __future__ import annotations

TABLE_2_HEADER = ("attention", "FP", "max inf. norm", "avg. kurtosis", "W8A8")

# By family: model and metric, and the rows of the paper's Table 2. Rows marked "matched" (tables 6 and 7) are softmax
# models trained with the same other change as the clipped and gated ones: the baseline to compare those with.
TABLE_2 = {
    "bert": (
        "BERT-base, perplexity",
        (
            ("softmax", "4.49", "735 ± 55", "3076 ± 262", "1294 ± 1046"),
            ("clipped softmax (γ −.025)", "4.39", "21.5", "80", "4.52"),
            ("gated (MLP)", "4.45", "39.2", "201", "4.65"),
        ),
    ),
    "opt": (
        "OPT-125m, perplexity",
        (
            ("softmax", "15.84", "340", "1778", "21.18"),
            ("softmax, decay on LayerNorm γ (matched)", "15.96", "87.7", "2080", "39.46"),
            ("clipped softmax (γ −12/512)", "16.29", "63.2", "19728", "37.20"),
            ("gated (linear, π .25)", "15.55", "8.7", "18.9", "16.02"),
        ),
    ),
    "vit": (
        "ViT-S/16, ImageNet top-1 accuracy, %",
        (
            ("softmax", "80.75", "359", "1018", "69.24"),
            ("softmax, LayerNorm on patches (matched)", "80.98", "81.1", "24.5", "79.62"),
            ("clipped softmax (γ −1e-4)", "80.89", "73.7", "22.9", "79.77"),
            ("gated (linear, π .5)", "81.01", "79.8", "19.9", "79.82"),
        ),
    ),
}
