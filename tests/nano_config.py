"""A config file for tests of the command line: trains in seconds."""

from ml_collections import ConfigDict

from qtx.experiment import default


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("opt", variant)
    config.name = "nano"
    config.model.num_layers = 1
    config.model.width = 8
    config.model.num_heads = 2
    config.model.mlp_width = 16
    config.model.max_length = 8
    config.data.source = "bigram_backcopy"
    config.data.sequence_length = 8
    config.data.vocab_size = 16
    config.training.steps = 4
    config.training.batch_size = 128
    config.training.warmup_steps = 1
    config.training.log_every = 2
    config.training.eval_every = 4
    config.training.checkpoint_every = 2
    config.mesh.data = 1
    config.quantization.schemes = ("w8a8", "w4a4")
    config.quantization.weight_estimator = "minmax"  # one for all bits: everything is compiled once
    config.quantization.calibration_batches = 2
    config.compare.variants = ("softmax", "clipped_softmax,alpha=1", "none")
    config.compare.seeds = (0, 1)
    return config
