"""A small ViT on Fashion-MNIST: 60,000 training and 10,000 test images of clothes, 28 x 28 pixels.

Needs the four IDX files of Fashion-MNIST (github.com/zalandoresearch/fashion-mnist, folder `data/fashion`, MIT
licence), plain or .gz, in the folder `config.data.path`.

    qtx compare --config=configs/fashion_mnist_vit.py --workdir=runs/fashion_mnist_vit --config.data.path=FOLDER

Cost: about 50 minutes a run on one busy CPU core (3,750 steps; 430 images a second when the core was free).
Expected: softmax, seed 0: test accuracy 88.2 %, W8A8 87.9 %, W6A8 87.7 %, W6A6 87.2 %, W4A8 86.1 %
(`experiments/results/fashion_mnist_vit`). The other variants have not been measured.
"""

from ml_collections import ConfigDict

from qtx.experiment import default


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("vit", variant)
    config.name = "fashion_mnist_vit"

    config.model.num_layers = 4
    config.model.width = 64
    config.model.num_heads = 4
    config.model.mlp_width = 256
    config.model.patch_size = 4  # 49 patches and the class token
    config.model.init_std = 0.125  # 1 / sqrt(width)
    config.model.dropout = 0.0

    config.data.source = "idx"
    config.data.path = "../shared/data/fashion-mnist"
    config.data.flip = True

    config.training.steps = 3750  # 8 epochs
    config.training.batch_size = 128
    config.training.learning_rate = 1e-3
    config.training.schedule = "cosine"
    config.training.final_learning_rate = 1e-5
    config.training.warmup_steps = 375
    config.training.weight_decay = 0.03
    config.training.eval_every = 750
    config.training.checkpoint_every = 375

    config.quantization.schemes = ("w8a8", "w6a8", "w6a6", "w4a8")
    config.compare.variants = ("softmax", "clipped_softmax,alpha=2", "gated_linear")
    config.compare.seeds = (0,)
    return config
