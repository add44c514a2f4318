r"""The paper's numbers, cell by cell: Tables 1 to 6 and Figure 4, with full networks.

python -m colorize_jax.study paper --workdir=/ckpt/paper --data=/data \
    --only=vgg16 --only='seg_rates-*' --only=seg

runs one row: its pretraining, the search for its rate and schedule, and the transfer. --data holds
imagenet/train and imagenet/val, places205, VOCdevkit/VOC2007 and VOCdevkit/VOC2012,
benchmark_RELEASE/dataset (SBD), and imagenet_vgg16 (ImageNet's classifier; the page explains how to
import it). If a data set is in another place, a link to it is enough.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
from typing import Any, NamedTuple

from colorize_jax.config import transfer_rates
from colorize_jax.studies.plan import Row, Run, Search, Study, Table

PHOTOS = 3_700_000  # of the pretraining: the steps of its checkpoints follow from it
BATCH = 8  # of the pretraining
RANDOM = "random"
# Not trained here, but imported: the public VGG-16, which reads color.
COLOR_CLASSIFIER, GRAY_CLASSIFIER = "$DATA/imagenet_vgg16", "imagenet_vgg16_gray"
FROM_FILE = {"init_from": COLOR_CLASSIFIER, "rebalance_photos": 100}
# Of Table 3: a label, the variant of a transfer recipe, the prefix of names, the start that is not
# random, and the paper's numbers: mean IoU without and with FoV blocks, top-5 with 100 and with 10
# photos a class, each from a random start and from that one.
NETWORKS = (
    ("VGG-16", "", "", "vgg16",
     ("32.8", "50.7", "35.1", "52.9"), ("43.2", "59.0", "8.6", "23.3")),
    ("AlexNet", "alexnet", "alexnet_", "alexnet",
     ("23.5", "36.2", "24.6", "40.8"), ("39.1", "48.2", "6.7", "17.4")),
    ("ResNet-152", "resnet152", "resnet152_", "resnet152_short",
     ("9.9", "52.3", "10.5", "53.9"), ("42.5", "63.1", "8.1", "29.6")),
)  # fmt: skip
# Of Table 6: a label, the part of a name, `config.finetune`, and the paper's numbers from a random
# start, from colorization and from classification.
LAYERS = (
    ("none", "_head", "head", ("3.6", "36.5", "60.8")),
    ("fc6 and fc7", "_fc", "fc6,fc7", ("", "42.6", "63.1")),
    ("conv4_1 to fc7", "_conv4", "conv4_1..fc7", ("", "53.6", "64.2")),
)
# Of Table 4: a label, the name of a start, the variant of its recipe, and the paper's number.
LABELS = (
    ("C1000, 1.3 million photos, 20 epochs", "c1000", "", "62.0"),
    ("C1000, 100,000 photos, 250 epochs", "c1000_100k", "100k", "57.1"),
    ("C1000, 10,000 photos, 250 epochs", "c1000_10k", "10k", "44.4"),
    ("E10, 20 epochs", "e10", "e10", "61.8"),
    ("E50, 20 epochs", "e50", "e50", "59.4"),
    ("H16, 20 epochs", "h16", "h16", "60.0"),
    ("H2, 20 epochs", "h2", "h2", "46.1"),
    ("R50, 20 epochs", "r50", "r50", "57.3"),
    ("R50, 40 epochs", "r50_double", "r50,double", "59.4"),
    ("R16, 20 epochs", "r16", "r16", "42.6"),
    ("R16, 40 epochs", "r16_double", "r16,double", "53.5"),
)


class Target(NamedTuple):
    """A recipe of a transfer, where its data are, and the rates that are tried."""

    recipe: str
    data: dict[str, Any]
    rates: Sequence[float]


SEG = Target(
    "voc2012_seg",
    {"data.source": "$DATA/VOCdevkit/VOC2012", "data.sbd": "$DATA/benchmark_RELEASE/dataset"},
    (3e-4, 1e-3, 3e-3),
)
VOC07 = Target("voc2007_cls", {"data.source": "$DATA/VOCdevkit/VOC2007"}, (3e-4, 1e-3, 3e-3))
IMAGENET = Target("imagenet_subset_cls", {"data.source": "$DATA/imagenet"}, (1e-3, 3e-3, 1e-2))


class Cell(NamedTuple):
    """A row of a table: the paper's number, and what gives ours, of which the run is the last."""

    label: str
    paper: str
    steps: Sequence[Run | Search]


def step(epochs: float) -> int:
    """Of the pretraining, after so many epochs."""
    return round(epochs * PHOTOS / BATCH)


def pretrainings() -> Iterator[Run]:
    """All starts that are trained here."""
    photos = {"data.source": "$DATA/imagenet/train,$DATA/places205"}
    for name, recipe in (
        ("vgg16", "vgg16_col"),
        ("vgg16_long", "vgg16_col:long"),
        ("vgg16_regression", "vgg16_col:regression"),
        ("vgg16_no_hypercolumn", "vgg16_col:no_hypercolumn"),
        ("alexnet", "alexnet_col"),
        ("alexnet_long", "alexnet_col:long"),
        ("resnet152", "resnet152_col"),
        ("resnet152_short", "resnet152_col:short"),
    ):
        yield Run(name, recipe, photos)
    # Until its first drop it is the same run.
    yield Run("vgg16_no_drop", "vgg16_col:no_drop", photos, branch=f"vgg16@{step(2)}")
    more = {"data.per_class": 0, "schedule.epochs": 4.0}
    yield Run(GRAY_CLASSIFIER, IMAGENET.recipe, IMAGENET.data | FROM_FILE | more)
    for _, name, variant, _ in LABELS:
        recipe = f"imagenet_labels:{variant}".rstrip(":")
        yield Run(name, recipe, IMAGENET.data)


def transfer(
    name: str, target: Target, start: str, *variants: str, searched: bool = True, **settings: Any
) -> list[Run | Search]:
    """The run of a row, after the search for its rate and schedule, which is called NAME_rates.

    Args:
        name: of the run.
        target: recipe and data.
        start: an earlier run by its name, with a step after @; RANDOM, or COLOR_CLASSIFIER.
        variants: of the recipe; "" is none.
        searched: False: rate and schedule are those of the recipe.
        settings: besides those of the data, as in data__per_class=10.
    """
    settings = target.data | {key.replace("__", "."): value for key, value in settings.items()}
    settings |= FROM_FILE if start == COLOR_CLASSIFIER else {}
    asked = [variant for variant in (*variants, RANDOM if start == RANDOM else "") if variant]
    start = "" if start in (RANDOM, COLOR_CLASSIFIER) else start
    run = Run(name, ":".join([target.recipe, ",".join(asked)]).rstrip(":"), settings, start)
    if not searched:
        return [run]
    recipe = f"{target.recipe}:{','.join([*asked, 'crossval'])}"
    candidates = tuple(transfer_rates(",".join(asked), target.rates))
    search = Search(f"{name}_rates", recipe, settings, candidates, start)
    return [search, dataclasses.replace(run, search=search.name)]


def get_study() -> Study:
    """The whole study: the pretrainings, then the transfers in the order of the tables."""
    seg, seg_long = transfer("seg", SEG, "vgg16"), transfer("seg_long", SEG, "vgg16_long")
    seg_random = transfer("seg_random", SEG, RANDOM)
    seg_gray = transfer("seg_imagenet", SEG, GRAY_CLASSIFIER)
    seg_color = transfer("seg_imagenet_color", SEG, COLOR_CLASSIFIER, model__in_channels=3)
    table_1_cls, table_3_seg, table_3_imagenet, table_6 = [], [], [], []
    for label, paper, name, start, variant in (
        ("ImageNet, VGG-16", "86.9", "cls_imagenet", GRAY_CLASSIFIER, ""),
        ("Random, AlexNet", "46.2", "alexnet_cls_random", RANDOM, "alexnet"),
        ("Colorization, AlexNet", "65.9", "alexnet_cls_long", "alexnet_long", "alexnet"),
        ("Colorization, VGG-16", "77.2", "cls_long", "vgg16_long", ""),
        ("Colorization, ResNet-152", "77.3", "resnet152_cls_long", "resnet152", "resnet152"),
    ):
        table_1_cls.append(Cell(label, paper, transfer(name, VOC07, start, variant)))
        if start != RANDOM:
            again = transfer(f"{name}_release", VOC07, start, variant, searched=False)
            table_1_cls.append(Cell(f"{label}, the release's schedule", paper, again))
    for network, variant, prefix, pretrained, *papers in NETWORKS:
        starts = ("Random", RANDOM, "_random"), ("Colorization", pretrained, "")
        fovs = ("seg", "no_fov", "seg_no_fov"), ("+FoV", "", "seg")
        for ((what, fov, stem), (kind, start, suffix)), paper in zip(
            itertools.product(fovs, starts), papers[0], strict=True
        ):
            steps = transfer(f"{prefix}{stem}{suffix}", SEG, start, variant, fov)
            table_3_seg.append(Cell(f"{kind}, {network}, {what}", paper, steps))
        for (photos, (kind, start, suffix)), paper in zip(
            itertools.product((100, 10), starts), papers[1], strict=True
        ):
            name = f"{prefix}imnt{photos}k{suffix}"
            steps = transfer(name, IMAGENET, start, variant, data__per_class=photos)
            table_3_imagenet.append(Cell(f"{kind}, {network}, ImNt-{photos}k", paper, steps))
    for layers, part, finetune, papers in LAYERS:
        for (kind, name, start), paper in zip(
            (
                ("Random", f"seg{part}_random", RANDOM),
                ("Colorization", f"seg{part}", "vgg16_long"),
                ("Classification", f"seg_imagenet{part}", GRAY_CLASSIFIER),
            ),
            papers,
            strict=True,
        ):
            steps = transfer(name, SEG, start, finetune=finetune)
            table_6.append(Cell(f"{kind}, {layers}", paper, steps))
    alexnet_random = transfer("alexnet_seg_no_fov_random", SEG, RANDOM, "alexnet", "no_fov")
    tables = [
        ("Table 1: classification of VOC 2007", TABLE_1_CLS, MAP, table_1_cls),
        ("Table 1: segmentation of VOC 2012", TABLE_1_SEG, MIOU, [
            Cell("ImageNet, VGG-16, color", "69.5", seg_color),
            Cell("Random, AlexNet", "23.5", alexnet_random),
            Cell("Colorization, AlexNet", "38.4", transfer(
                "alexnet_seg_no_fov_long", SEG, "alexnet_long", "alexnet", "no_fov")),
            Cell("Colorization, VGG-16", "56.0", seg_long),
            Cell("Colorization, ResNet-152", "60.0", transfer(
                "resnet152_seg_long", SEG, "resnet152", "resnet152")),
            Cell("Colorization, ResNet-152, the release's schedule", "60.0", transfer(
                "resnet152_seg_long_release", SEG, "resnet152", "resnet152", searched=False)),
        ]),
        ("Table 2: what is predicted in pretraining", TABLE_2, MIOU, [
            Cell("Regression", "48.0", transfer("seg_regression", SEG, "vgg16_regression")),
            Cell("Histograms, no hypercolumn in pretraining", "52.7", transfer(
                "seg_no_hypercolumn", SEG, "vgg16_no_hypercolumn")),
            Cell("Histograms", "52.9", seg),
        ]),
        ("Table 3: segmentation without and with FoV blocks", TABLE_3_SEG, MIOU, table_3_seg),
        ("Table 3: a few photos of every class of ImageNet", TABLE_3_IMAGENET, TOP5,
         table_3_imagenet),
        ("Table 4: how many labels, and which", TABLE_4, MIOU, [
            Cell("no pretraining", "35.1", seg_random),
            Cell("C1000, 1.3 million photos, 80 epochs", "66.5", seg_gray),
            *(Cell(label, paper, transfer(f"seg_{name}", SEG, name))
              for label, name, _, paper in LABELS),
        ]),
        ("Table 5: gray and color", TABLE_5, MIOU, [
            Cell("Classification, gray", "66.5", seg_gray),
            Cell("Classification, color", "69.5", seg_color),
            Cell("Colorization, gray", "56.0", seg_long),
            Cell("Colorization, color", "55.9", transfer(
                "seg_color", SEG, "vgg16_long", model__in_channels=3)),
        ]),
        ("Table 6: which layers are fine-tuned", TABLE_6, MIOU, [
            *table_6,
            Cell("Random, all", "35.1", seg_random),
            Cell("Colorization, all", "56.0", seg_long),
            Cell("Classification, all", "66.5", seg_gray),
        ]),
        ("Figure 4: more pretraining, and its drops", FIGURE_4, MIOU, [
            Cell("no pretraining", "35.1", seg_random),
            *(Cell(label, paper, transfer(f"seg_{step(epochs)}", SEG, f"vgg16@{step(epochs)}"))
              for label, epochs, paper in (
                  ("0.2 epochs", 0.2, "about 41"), ("1 epoch", 1, ""),
                  ("2 epochs, before the first drop", 2, ""))),
            Cell("3 epochs", "52.9", seg),
            Cell("3 epochs, no drop", "49.1", transfer("seg_no_drop", SEG, "vgg16_no_drop")),
            Cell("10 epochs", "56.0", seg_long),
        ]),
    ]  # fmt: skip
    steps = {step.name: step for *_, cells in tables for cell in cells for step in cell.steps}
    sections = [
        Table(
            title, text, score, f"ours, {unit}", paper=f"paper, {unit}",
            rows=[Row(cell.label, (cell.steps[-1].name,), cell.paper) for cell in cells],
        )
        for title, text, (score, unit), cells in tables
    ]  # fmt: skip
    title = "The paper's numbers, cell by cell"
    return Study(title, TEXT, [*pretrainings(), *steps.values()], sections)


# Scores in results.json, with what the page calls them.
MAP = "eval/map_trapezoid", "mAP, %"
MIOU = "eval/miou", "mIoU, %"
TOP5 = "eval/top5", "top-5, %"

TEXT = """
This page has Tables 1 to 6 of the paper and its Figure 4, with the commands for every row. "Not
run" says that a row was not reached.

The folder of the data holds `imagenet/train` and `imagenet/val` with a folder for every class
(pretraining does not use the classes), `places205`, `VOCdevkit/VOC2007`, `VOCdevkit/VOC2012`, and
SBD as `benchmark_RELEASE/dataset`. If a data set is in another place, a link to it is enough.
[transfer.md](transfer.md) describes a devkit and SBD. This runs one row, with what it needs:

```sh
python -m colorize_jax.study paper --workdir=$STUDY --data=$DATA \\
    --only=vgg16 --only='seg_rates-*' --only=seg
```

On a cluster, give the commands at the end of this page to `launch/` ([launch.md](launch.md)).

## Pretraining

The photos are those of ImageNet and Places205, 3.7 million, in batches of 8. AlexNet is pretrained
like VGG-16. ResNet-152 is pretrained on crops of 224 pixels, and its head reads only the last
block.

| start | epochs | what |
|---|---|---|
| `vgg16` | 3 | the recipe; the rate drops after 2.0, 2.5 and 2.75 epochs |
| `vgg16_long` | 10 | the same, with drops at the same fractions |
| `vgg16_regression` | 3 | Lab's a and b instead of histograms |
| `vgg16_no_hypercolumn` | 3 | the head reads only fc7 |
| `vgg16_no_drop` | 3 | the rate never drops; it continues from the second epoch of `vgg16` |
| `alexnet` | 3 | as `vgg16`; with local response norm, as in the release |
| `alexnet_long` | 10 | the same, with drops at the same fractions |
| `resnet152` | 35 | with drops at the same fractions |
| `resnet152_short` | 3 | the same, but shorter |

The starts of Table 4 are classifiers; see there.

## ImageNet's classifier

The rows called "ImageNet" in Table 1 and "Classification" in Tables 5 and 6 start from the public
VGG-16 of Simonyan and Zisserman, which reads color. Save it as HDF5 with Caffe, and import it:

```sh
python -m colorize_jax.convert caffe VGG_ILSVRC_16_layers.caffemodel.h5 $DATA/imagenet_vgg16 \\
    --pixels=255 --mean=123.68,116.779,103.939
```

`imagenet_vgg16_gray` is this network, rebalanced and trained on gray for 4 more epochs.
[weights.md](weights.md#caffe) explains what the import does to the file. The network has no batch
norm, so every run from it rebalances its layers. A gray run then sums the first layer over the
channels. The classifier's last layer is not imported: the four epochs begin with a random one.

The network, the rebalancing and the 4 epochs are those of the paper. It does not give the rest:

- The schedule of the epochs. Here they have batches of 128, a rate of 0.001, and drops after 2 and
  3 epochs. This was not searched for.
- How many photos the rebalancing uses, and whether it is done before or after the epochs. Here it
  uses 100, before the epochs, in color, and is not repeated in the transfers.
- The input for its 86.9 on VOC 2007 (Table 1). Here it is gray.
- What was done to the network for color (Table 5). Here it is transferred after import and
  rebalancing, with no epochs in between.

torchvision's VGG-16 (`convert torch vgg16.safetensors $DATA/imagenet_vgg16 --color`) can take the
place of the file, but it was trained with another recipe than the paper's.

## How a transfer is run

Every start, random ones included, gets the same search, `NAME_rates`. It trains at three rates on
90 % of the training split, until early stopping ends it, and scores the other 10 %. So the photos
of the test decide nothing. The run `NAME` then trains on the whole split, with the best rate and
the schedule that was found for it, and ends with the evaluation. (The paper says this about
Table 1; here it is done for all rows.)

For a random start, the search tries batch norm and no batch norm: six runs instead of three. The
better one counts. (A ResNet always has batch norm.) All inputs are gray unless the row says color.

| | the number | in `results.json` |
|---|---|---|
| VOC 2012 | mean IoU of 21 classes, background included | `eval/miou` |
| VOC 2007 | mean average precision of 20 classes | `eval/map_trapezoid` |
| ImNt | top-5 accuracy | `eval/top5` |

- VOC 2012: there is one confusion matrix of all pixels, except void, of the 1,449 photos of val.
  Each photo is seen whole at its own size, at one scale, and not mirrored.
- VOC 2007: the 4,952 photos of test are scored. The logits of ten random crops are averaged, as in
  the release. The release's average precision draws straight lines between the points; the paper's
  number presumably is of this kind. Elsewhere we use `eval/map`.
- ImNt: the 50,000 photos of ImageNet's val are scored, with one central crop of 224 pixels each
  (AlexNet: 227). The paper does not give the size of the photo before the crop; here it is 256.

`python -m colorize_jax.evaluate` scores a run again, here with other crops:

```sh
python -m colorize_jax.evaluate --config=voc2007_cls \\
    --config.data.source=$DATA/VOCdevkit/VOC2007 --config.eval.view=ten \\
    --checkpoint=$STUDY/cls_long --output=$STUDY/cls_long/ten
```
"""

TABLE_1_CLS = """
The starts are from 10 epochs of colorization; ResNet-152 is from 35. The release has its own
schedule: 80,000 steps, and the rate is halved after every eighth of them.
"""
TABLE_1_SEG = """
With the FoV blocks, except for AlexNet. The starts are from 10 epochs of colorization; ResNet-152
is from 35. The release has its own schedule for ResNet-152, 40,000 steps.
"""
TABLE_2 = "VOC 2012, with the FoV blocks and a hypercolumn, from 3 epochs of colorization."
TABLE_3_SEG = """
VOC 2012, from 3 epochs of colorization. A hypercolumn reads a random ResNet-152 too, as in the
paper.
"""
TABLE_3_IMAGENET = """
100 and 10 photos of each of ImageNet's thousand classes, from 3 epochs of colorization.
"""
TABLE_4 = """
VOC 2012, from a classifier of ImageNet that was trained on gray photos from a random start, with
batch norm, which is absorbed before the transfer. The recipe is `imagenet_labels`
([transfer.md](transfer.md#other-labels)). C1000 has ImageNet's own classes; the row of 80 epochs is
the public VGG-16 with 4 epochs on gray. In E10 and E50, 10 % and 50 % of the photos have one random
label each. In H16 and H2 WordNet joins the classes to 16 and 2 buckets; the paper does not say how,
so the rule is ours. In R50 and R16 they are joined at random. The paper gives the epochs of these
runs, and nothing else about their optimizer.
"""
TABLE_5 = """
VOC 2012, from 10 epochs of colorization. For color input, the first layer after colorization is
repeated for three channels and divided by three. The first layer of the classifier has three
channels.
"""
TABLE_6 = """
VOC 2012, from 10 epochs of colorization. The head and the FoV blocks are always trained. The paper
leaves two cells of the random start empty. Frozen layers of a random start keep their first batch
statistics, mean 0 and variance 1, so batch norm does not change their activations.
"""
FIGURE_4 = """
VOC 2012 with the FoV blocks, from the checkpoints that `vgg16` keeps, and from other runs. The
checkpoints are named by steps, which follow from 3.7 million photos in batches of 8: with other
photos, change `PHOTOS` in the study's file. The figure's curve of the training loss and its drops
are `train/loss` and `train/rate` in each start's `metrics.jsonl`. A dash says that the paper gives
no number for the point, if it has the point at all.
"""
