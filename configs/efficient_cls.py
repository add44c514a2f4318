r"""Classification with a share of the labels, of the whole network or of frozen features.

for share in 0.01 0.02 0.05 0.1 0.2 0.5 1; do
    python -m colorize_jax.main --config=configs/efficient_cls.py --config.init_from=/ckpt/cpc \
        --config.data.source=/data/imagenet --config.data.label_share=$share \
        --workdir=/ckpt/cpc_cls_$share
done
python -m colorize_jax.main --config=configs/efficient_cls.py:linear --config.init_from=/ckpt/cpc \
    --config.data.source=/data/imagenet --workdir=/ckpt/cpc_linear

After Hénaff et al. (ICML 2020): all layers are trained with 1 % to 100 % of the labels, or a linear
classifier on the frozen encoder with all labels. The network is that of the checkpoint. A smaller
share is a part of a larger one, and trains for as many steps. Photos of every class lie below
train/ and val/. Rates and steps are ours: choose them on a part of the training photos. It was not
run at its full size yet.

Variants, as in --config=configs/efficient_cls.py:random,resnet50
    linear      trains the classifier alone
    random      a random start
    resnet50    of a ResNet-50, instead of VGG-16
"""

from colorize_jax.config import default_config, transfer, variants


def get_config(variant=""):
    asked = variants(variant, ("linear", "random", "resnet50"))
    config = default_config("classification", optimizer="sgd", schedule="cosine")
    transfer(config, asked, classifier=True)
    config.finetune = "head" if "linear" in asked else "all"
    config.data.labels = "folders"
    config.data.split, config.data.eval_split = "train", "val"
    config.data.scaling = "resized"
    config.data.batch_size = 256
    config.optimizer.rate = 0.1 if "linear" in asked else 0.01
    config.optimizer.weight_decay = 0.0 if "linear" in asked else 1e-4
    config.schedule.warmup = 0.02
    config.steps = 50_000
    config.checkpoint.snapshots = ()
    config.eval.shortest = 256
    config.eval.photos = 0
    return config
