r"""Supervised pretraining on gray ImageNet, with fewer, wrong or coarser labels (Table 4).

python -m colorize_jax.main --config=configs/imagenet_labels.py \
    --config.data.source=/data/imagenet --workdir=/ckpt/c1000
python -m colorize_jax.main --config=configs/imagenet_labels.py:e50 \
    --config.data.source=/data/imagenet --workdir=/ckpt/e50
python -m colorize_jax.main --config=configs/imagenet_labels.py:r16,double \
    --config.data.source=/data/imagenet --workdir=/ckpt/r16_double

VGG-16 from a random start, with the batch norm of the method, on the photos below train/ (a folder
for every class). What it has learned is transferred by configs/voc2012_seg.py. 20 epochs, with 10
or 100 photos a class 250. The paper gives the epochs and no more: SGD in batches of 128, the rate
of 0.01 with drops after 1/2 and 3/4 of the run, and the photos' sizes are our choice. The score is
the top-1 of the variant's own classes below val/. It was not run at its full size yet.

Variants, as in --config=configs/imagenet_labels.py:r50,double
    100k    100 photos a class
    10k     10 photos a class
    e10     a tenth of the photos get one random label of all classes, for the whole run
    e50     half of them
    h16     the classes joined to 16 by WordNet
    h2      joined to 2: artifacts, and all else
    r50     the classes joined at random to 50 of equal size; buckets.tsv says how
    r16     joined to 16
    double  twice as many epochs
"""

from colorize_jax.config import default_config, transfer, variants
from colorize_jax.errors import ConfigError

# {variant: config.data.relabel or config.data.per_class}.
LABELS = {
    "e10": "noise:0.1", "e50": "noise:0.5", "h16": "wordnet:16", "h2": "wordnet:2",
    "r50": "random:50", "r16": "random:16",
}  # fmt: skip
FEWER = {"100k": 100, "10k": 10}


def get_config(variant=""):
    asked = variants(variant, (*FEWER, *LABELS, "double"))
    chosen = sorted(asked - {"double"})
    if len(chosen) > 1:
        raise ConfigError(f"the config's variants name two kinds of labels: {' and '.join(chosen)}")
    config = default_config("classification")
    transfer(config, {"random"}, classifier=True)
    config.data.labels = "folders"
    config.data.split, config.data.eval_split = "train", "val"
    for name in chosen:
        config.data.relabel = LABELS.get(name, "")
        config.data.per_class = FEWER.get(name, 0)
    config.data.scale = (256, 481)
    config.data.batch_size = 128
    config.optimizer.rate = 0.01
    config.optimizer.bias_rate = 1.0
    config.schedule.epochs = 250.0 if config.data.per_class else 20.0
    if "double" in asked:
        config.schedule.epochs *= 2
    config.schedule.drops = (0.5, 0.75)
    config.checkpoint.snapshots = ()
    config.eval.shortest = 256
    config.eval.photos = 5000
    return config
