"""Perplexity at a stride and the likelihoods of choices, against computations in transformers and PyTorch alone."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest

from qtx.analysis.capture import FloatingPoint
from qtx.experiment import read
from qtx.pipeline.importing import config_of_checkpoint, found, import_run
from qtx.pipeline.measure import metrics_of
from qtx.pipeline.run import restore_run
from tests.data.samples import prose

try:
    import torch
    import transformers
except ImportError as error:
    if os.environ.get("QTX_REQUIRE_TRANSFORMERS"):
        raise
    pytest.skip(f"needs transformers (pip install qtx[hf]): {error}", allow_module_level=True)

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: E402

pytestmark = pytest.mark.slow
T = 24


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """(folder, model, tokenizer) of a small random OPT, far from a uniform one."""
    folder = tmp_path_factory.mktemp("opt")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "<pad>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([prose(0, 500)], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", 2)]
    )
    roles = dict(bos_token="</s>", eos_token="</s>", unk_token="</s>", pad_token="<pad>")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, word_embed_proj_dim=16, num_hidden_layers=2, ffn_dim=32, num_attention_heads=2)
    config = transformers.OPTConfig(vocab_size=304, max_position_embeddings=32, init_std=0.5, **sizes)
    model = transformers.OPTForCausalLM(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model, tokenizer


def measured(folder, workdir, objective, **options):
    there = found(str(folder))
    config = config_of_checkpoint(there)
    config.objective = objective
    config.data.update(dict.fromkeys(config.data, None))
    config.data.update({"tokenizer": str(folder), "sequence_length": T, **options})
    config.training.batch_size = 8
    assembled = import_run(read(config), workdir, there)
    run = restore_run(assembled, workdir)
    return metrics_of(assembled, FloatingPoint(assembled.module, run.floating_point))


def log_likelihoods(model, ids):
    """Of every id after the first, float64."""
    ids = torch.tensor(ids)
    with torch.no_grad():
        log = torch.log_softmax(model(ids[None]).logits[0, :-1].double(), -1)
    return log[torch.arange(len(ids) - 1), ids[1:]].numpy()


@pytest.mark.parametrize(("stride", "each"), [(T, False), (7, False), (7, True), (T - 1, True)])
def test_perplexity_is_that_of_the_guide_of_transformers(checkpoint, stride, each, tmp_path):
    """The loop of https://huggingface.co/docs/transformers/perplexity, but that tokens count one by one."""
    folder, model, tokenizer = checkpoint
    rows = [prose(i, 40) for i in range(3)] + ["", "\u00e9t\u00e9"]
    for name in ("a", "b"):
        lines = (json.dumps({"text": row}) + "\n" for row in (rows if name == "b" else [prose(9, 99)]))
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    options = dict(source="text_windows", files=(f"{tmp_path}/a.jsonl",), validation_files=(f"{tmp_path}/b.jsonl",))
    ours = measured(folder, tmp_path / "run", "clm", **options, joint="\n\n", stride=stride, begin_windows=each)
    text = "\n\n".join(rows)
    ids = tokenizer(text, add_special_tokens=not each)["input_ids"]
    total, count, previous = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + T - each, len(ids))
        log = log_likelihoods(model, [tokenizer.bos_token_id] * each + ids[begin:end])
        log = log[-min(end - previous, len(log)) :]
        total, count, previous = total - log.sum(), count + len(log), end
        if end == len(ids):
            break
    assert ours["predictions"] == count
    assert ours["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)
    if stride < T:  # every token counts, and so every byte
        assert ours["bits_per_byte"] == pytest.approx(total / len(text.encode()) / math.log(2), rel=1e-5)
        assert ours["word_perplexity"] == pytest.approx(math.exp(total / len(text.split())), rel=1e-3)


def test_choices_have_the_likelihoods_of_lm_evaluation_harness(checkpoint, tmp_path):
    """Its rules, by its source: `_encode_pair`, `_loglikelihood_tokens` and `process_results` of multiple_choice."""
    folder, model, tokenizer = checkpoint
    rng, rows = np.random.default_rng(0), []
    for i in range(40):
        context = ("", prose(i, 4), prose(i, 5).strip(), prose(i, 40).strip() + "  ")[i % 4]
        choices = [prose(100 * i + j, int(rng.integers(1, 5))).strip() for j in range(2 + i % 3)]
        rows.append({"query": context, "choices": choices, "gold": int(rng.integers(len(choices)))})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = (f"{tmp_path}/a.jsonl",)
    ours = measured(
        *(folder, tmp_path / "run", "choices"), source="choices", files=files, validation_files=files, delimiter=" "
    )
    by_sum, by_letter, total, count = [], [], 0.0, 0
    for row in rows:
        of_choices = []
        for choice in row["choices"]:
            context, continuation = row["query"], " " + choice
            if not context:
                before = [tokenizer.bos_token_id]
                after = tokenizer.encode(continuation, add_special_tokens=False)
            else:
                blanks = len(context) - len(context.rstrip())
                if blanks > 0:
                    context, continuation = context[:-blanks], context[-blanks:] + continuation
                before = tokenizer.encode(context)
                after = tokenizer.encode(context + continuation)[len(before) :]
            log = log_likelihoods(model, (before + after)[-(T + 1) :])
            of_choices.append((log[-len(after) :].sum(), len(after)))
        log = np.array([x for x, _ in of_choices])
        by_sum.append(np.argmax(log) == row["gold"])
        by_letter.append(np.argmax(log / [len(choice) for choice in row["choices"]]) == row["gold"])
        total, count = total - log[row["gold"]], count + of_choices[row["gold"]][1]
    assert 0 < np.mean(by_sum) < 1 and by_sum != by_letter
    assert (ours["accuracy"], ours["accuracy_norm"]) == pytest.approx((np.mean(by_sum), np.mean(by_letter)))
    assert ours["predictions"] == count and ours["loss"] == pytest.approx(total / count, rel=1e-5)
