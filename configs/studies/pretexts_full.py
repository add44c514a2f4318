r"""Which pretext helps which data, and how many photos does it need: the pretexts at full width.

python -m colorize_jax.study pretexts_full --workdir=/ckpt/pretexts_full --data=/data

It is the study `pretexts` with the recipes of the papers: their networks, photos, batches, rates
and schedules. It was not run yet. --data holds, or has links to,

- imagenet/train and imagenet/val, with a folder for every class;
- cifar-10-batches-py, svhn and flowers, as published;
- VOCdevkit/VOC2007 and VOCdevkit/VOC2012.

With `PLACES = TFDS` below, the first two lines are data sets that TFDS has prepared.

--only='*-0' does seed 0 of everything, --only='*_30k-*' one number of photos, and --only='*simclr*'
one pretext.

By an estimate, training takes 110 hours of one H100 for one seed and 330 for all three: these are
the FLOPs of the steps at the 126, 141 and 399 TFLOP/s that docs/speed.md measured with AlexNet, a
ResNet and VGG-16 (for Zhang's network), and at 200 for the ViT. The 16 cores of that machine read
about as fast as an AlexNet learns. Scores, which fit classifiers to features on disk, come on top.
SimCLR compares 4,096 photos, which need 49 GB on each of eight cards (docs/tasks.md), and CPC 256,
which one card may not hold. The others run on any number of cards. The workdir takes about 300 GB,
and features, which are deleted once they are scored, 30 GB more.
"""

import dataclasses

from colorize_jax.studies.plan import Frozen, Grid, Run, Sensitivity, Study

SIZES = (30_000, 60_000, 120_000)
MIDDLE = 60_000  # The size that comes first.
SEEDS = (0, 1, 2)
SEEN = 200 * SIZES[-1]  # Photos that every training sees, again and again, whatever the size.
CLASSES = 1000  # of ImageNet

# Where each data set is, and the names of the photos to learn from and to score.
FOLDERS = {
    "imagenet": ("$DATA/imagenet", "train", "val"),
    "cifar10": ("$DATA/cifar-10-batches-py", "train", "test"),
    "svhn": ("$DATA/svhn", "train", "test"),
    "flowers": ("$DATA/flowers", "train", "test"),
}
TFDS = {
    "imagenet": ("tfds:imagenet2012", "train", "validation"),
    "cifar10": ("tfds:cifar10", "train", "test"),
    "svhn": ("tfds:svhn_cropped", "train", "test"),
    "flowers": ("tfds:oxford_flowers102", "train", "test"),
}
PLACES = FOLDERS

# The same for pretexts, labels and random starts, whatever their recipe says.
TRAINING = {
    "model.dtype": "bfloat16",
    "checkpoint.every": 20_000,
    "checkpoint.keep": 2,
    "checkpoint.snapshots": (),
    "eval.every": 20_000,
    "eval.photos": 1000,
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A network with its input.

    Attributes:
        labels, settings: the recipe of its training with labels, and what it lacks to be the same
            encoder as that of the pretexts.
        layers: what classifiers may read.
    """

    labels: str
    settings: dict
    layers: str


COLOR, CONVOLUTIONS = {"model.in_channels": 3}, "conv1,conv2,conv3,conv4,conv5"
RESNET, BLOCKS = COLOR | {"model.variant": "torch"}, "conv1,res2c,res3b3,res4b5,res5c"
# No photo of a batch of a ViT sees another one: its batch may be computed in parts.
PARTS = {"model.drop_path": 0.0, "microbatches": 0}
LABELS = "imagenet_subset_cls:{},random"
PADDED = {"model.fc6_padding": "SAME"}  # As all layers of AlexNet are in its pretexts.
NETWORKS = {
    "AlexNet": Network(LABELS.format("alexnet"), PADDED | COLOR, CONVOLUTIONS),
    "gray AlexNet": Network(LABELS.format("alexnet"), PADDED, CONVOLUTIONS),
    "AlexNet, stride 2": Network(
        LABELS.format("alexnet"), PADDED | COLOR | {"model.conv1_stride": 2}, CONVOLUTIONS
    ),
    "AlexNet in halves": Network(
        LABELS.format("alexnet"),
        PADDED | COLOR | {"model.split": True, "model.lrn": False},
        CONVOLUTIONS,
    ),
    "AlexNet, batch norm": Network(LABELS.format("alexnet_bn"), COLOR, CONVOLUTIONS),
    "ResNet-50": Network(LABELS.format("resnet50"), RESNET, BLOCKS),
    "ResNet-50, layer norm": Network(
        LABELS.format("resnet50"), RESNET | {"model.norm": "layer"}, BLOCKS
    ),
    "ViT-B": Network("vit_cls:random", PARTS, "block3,block6,block9,norm"),
    "gray Zhang": Network(
        LABELS.format("zhang"), {}, "conv2_2,conv3_3,conv4_3,conv5_3,conv6_3,conv7_3"
    ),
}


@dataclasses.dataclass(frozen=True)
class Pretext:
    """A recipe, its network, and the settings in which it differs from its own."""

    recipe: str
    network: str
    settings: dict = dataclasses.field(default_factory=dict)


# A random start has the network of the first pretext of its kind.
PRETEXTS = {
    "rotation": Pretext("rotation", "AlexNet, batch norm"),
    "jigsaw": Pretext("jigsaw", "AlexNet, stride 2"),
    "relative_patch": Pretext("relative_patch", "AlexNet"),
    "counting": Pretext("counting", "AlexNet"),
    "context_encoder": Pretext("context_encoder", "AlexNet"),
    "split_brain": Pretext("split_brain", "AlexNet in halves"),
    "colorization": Pretext("alexnet_col", "gray AlexNet"),
    "lab_decoder": Pretext("lab_decoder", "gray AlexNet"),
    "zhang": Pretext("zhang_col", "gray Zhang"),
    "instances": Pretext("instances", "ResNet-50"),
    "simclr": Pretext("simclr", "ResNet-50"),
    "cpc": Pretext("cpc", "ResNet-50, layer norm"),
    "mae": Pretext("mae", "ViT-B", {"microbatches": 0}),
}

# What classifiers see. Tiles are normalized, and some tasks show noise: the averages of batch norm
# would not fit whole photos.
WHOLE = {"shortest": 256, "crop": 224, "norm_photos": 2000}
SMALL = {"shortest": 64, "crop": 64, "norm_photos": 2000}
SOFTMAX = {"kinds": "softmax"}  # With the rate and the epochs of VISSL.
SQUEEZED = WHOLE | {
    "labels": "lists",
    "kinds": "svm",
    "squeeze": True,
    "cost": "0.01,0.1,1,10,100",
}
OPTIONS = {
    # Of the photos of ImageNet only those that are learned from are read.
    "imagenet": WHOLE | {"kinds": "softmax,knn", "per_class": "100,10"},
    "cifar10": SMALL | SOFTMAX,
    "svhn": SMALL | SOFTMAX,
    # Ten photos of each of 102 classes are four batches.
    "flowers": WHOLE | SOFTMAX | {"epochs": 280, "rate": "0.01,0.1"},
    "voc2007": SQUEEZED
    | {"source": "$DATA/VOCdevkit/VOC2007", "split": "trainval", "eval_split": "test"},
    "voc2012": SQUEEZED
    | {"source": "$DATA/VOCdevkit/VOC2012", "split": "train", "eval_split": "val"},
}
COLUMNS = {
    "ImageNet, 100 a class": ("imagenet", "eval/softmax_100/top1"),
    "10 a class": ("imagenet", "eval/softmax_10/top1"),
    "k-NN": ("imagenet", "eval/knn_100/top1"),
    "CIFAR-10": ("cifar10", "eval/softmax/top1"),
    "SVHN": ("svhn", "eval/softmax/top1"),
    "Flowers": ("flowers", "eval/softmax/top1"),
    "VOC 2007, mAP": ("voc2007", "eval/svm/map"),
    "VOC 2012, mAP": ("voc2012", "eval/svm/map"),
}
# Every data set counts once in the sensitivity.
ONCE = [heading for heading in COLUMNS if heading not in ("10 a class", "k-NN")]


def length(photos: int) -> dict:
    """The settings of a training that sees `SEEN` photos."""
    return {"steps": 0, "schedule.epochs": SEEN / photos}


def scored(name: str, seed: int, network: str) -> list[Frozen]:
    """The frozen features of a run on all data sets."""
    found = []
    for kind, options in OPTIONS.items():
        if kind in PLACES:
            place = dict(zip(("source", "split", "eval_split"), PLACES[kind], strict=True))
            options = place | options
        own = {"layers": NETWORKS[network].layers, "seed": seed}
        found.append(Frozen(f"{kind}_{name}", options | own, name))
    return found


def without_labels(name: str) -> dict:
    """The settings of a pretext on photos of ImageNet."""
    source, split, _ = PLACES["imagenet"]
    photos = f"{source}:{split}" if source.startswith("tfds:") else f"{source}/{split}"
    return TRAINING | {"data.source": photos} | PRETEXTS[name].settings


def pretrained(name: str, photos: int, seed: int) -> list:
    """The pretraining with so many photos, and its scores."""
    run, pretext = of_size(name, photos, seed), PRETEXTS[name]
    settings = without_labels(name) | length(photos) | {"data.photos": photos, "seed": seed}
    return [Run(run, pretext.recipe, settings), *scored(run, seed, pretext.network)]


def random(network: str, seed: int) -> list:
    """A random start, whose averages of batch norm are found with the scores."""
    name = next(name for name, pretext in PRETEXTS.items() if pretext.network == network)
    run, still = start_of(network, seed), {"optimizer.rate": 0.0, "steps": 1, "seed": seed}
    settings = without_labels(name) | {"data.photos": MIDDLE} | still
    return [Run(run, PRETEXTS[name].recipe, settings), *scored(run, seed, network)]


def labelled(network: str, photos: int, seed: int) -> list:
    """The top line: the labels of as many photos."""
    run, own = of_size(f"labels_{word(network)}", photos, seed), NETWORKS[network]
    source, split, eval_split = PLACES["imagenet"]
    data = {"data.source": source, "data.split": split, "data.eval_split": eval_split}
    chosen = {"data.per_class": photos // CLASSES, "seed": seed}
    settings = TRAINING | data | own.settings | length(photos) | chosen
    return [Run(run, own.labels, settings), *scored(run, seed, network)]


def of_size(stem: str, photos: int, seed: int) -> str:
    """The name of a training."""
    return f"{stem}_{photos // 1000}k-{seed}"


def start_of(network: str, seed: int) -> str:
    """The name of a random start."""
    return f"random_{word(network)}-{seed}"


def word(network: str) -> str:
    """A network in the names of runs."""
    return network.lower().replace(",", "").replace(" ", "_").replace("-", "")


def row(names, headings=COLUMNS) -> dict[str, list[str]]:
    """{heading: names of the scores} of the runs with all seeds."""
    names = list(names)
    return {heading: [f"{COLUMNS[heading][0]}_{name}" for name in names] for heading in headings}


def rows(photos: int) -> dict:
    """The lines of a table: every network, with its random start, its pretexts and labels."""
    found = {}
    for network in NETWORKS:
        found[f"{network}: random"] = row(start_of(network, seed) for seed in SEEDS)
        for name, stem in trained(network).items():
            found[name] = row(of_size(stem, photos, seed) for seed in SEEDS)
    return found


def trained(network: str) -> dict[str, str]:
    """{line of a table: name of its runs} of what is trained on more and more photos."""
    own = {f"`{name}`": name for name in PRETEXTS if PRETEXTS[name].network == network}
    return own | {f"{network}: labels": f"labels_{word(network)}"}


def get_study() -> Study:
    """The whole study; the middle size seed by seed first, so that it can be read at any time."""
    found = []
    for photos in (MIDDLE, *(size for size in SIZES if size != MIDDLE)):
        for seed in SEEDS:
            for network in NETWORKS:
                if photos == MIDDLE:
                    found += random(network, seed)
                found += labelled(network, photos, seed)
            for name in PRETEXTS:
                found += pretrained(name, photos, seed)
    scores = {heading: score for heading, (_, score) in COLUMNS.items()}
    return Study(
        title="Pretexts compared at full size",
        text=TEXT,
        steps=found,
        sections=[
            *(Grid(f"{photos:,} photos", TABLE, scores, rows(photos)) for photos in SIZES),
            Sensitivity(
                "Score and sensitivity",
                "The sensitivity is the standard deviation over the three numbers of photos,\n"
                "averaged over the data sets, each with one column. It means something only where\n"
                "it is larger than the spread of seeds, which stands beside it.",
                "pretexts_full.png",
                {heading: scores[heading] for heading in ONCE},
                {
                    line: {
                        photos: row((of_size(stem, photos, seed) for seed in SEEDS), ONCE)
                        for photos in SIZES
                    }
                    for network in NETWORKS
                    for line, stem in trained(network).items()
                },
            ),
        ],
    )  # fmt: skip


TABLE = """
Mean and standard deviation over seeds of the pretraining, in percent: top-1, and of VOC mean
average precision. Pretexts stand between the random start and the labels of their own network and
input: only these may be compared with them.
"""
TEXT = f"""
Which pretext helps which data, and how much does it depend on the number of photos? Every pretext
trains the network of its paper on photos of ImageNet. Then the network is frozen, and classifiers
read labels off its features. [pretexts.md](pretexts.md) asks the same of one small network.

- **Photos.** {SIZES[0]:,}, {SIZES[1]:,} and {SIZES[2]:,} of ImageNet, without labels. The seed
  chooses them; the smaller sets are parts of the larger ones.
- **Training.** The recipes of [tasks.md](tasks.md) as they are, in bfloat16, but for the length:
  all see {SEEN:,} photos, whatever the size, with rates that change at the same fractions of the
  run. That is {SEEN // SIZES[0]:,} epochs of the smallest set and {SEEN // SIZES[2]:,} of the
  largest. The papers' own lengths are those of all of ImageNet, and differ a hundredfold.
- **Random start and labels** get the same treatment, for every network and input by itself. Labels
  are those of as many photos, with {SIZES[0] // CLASSES} to {SIZES[2] // CLASSES} of each class,
  and the same number of photos seen.
- **Score.** `python -m colorize_jax.frozen` ([protocols.md](protocols.md)), of at most 9,600 values
  of a layer. A tenth of the training photos chooses the layer, for Flowers also the rate, and folds
  of them the costs; test photos choose nothing. Averages of batch norm are taken anew from 2,000 of
  the photos that are labelled.
- **Data sets.** ImageNet: a linear softmax with 100 and with 10 photos of each class, and k-NN with
  100 (200 neighbors, temperature 0.07), on the 50,000 of val. CIFAR-10 and SVHN, scaled to 64
  pixels, and Oxford Flowers in the official splits: a linear softmax. VOC 2007 (trainval, test) and
  VOC 2012 (train, val): linear SVMs of the 20 classes.
"""
