"""ResNet of bottlenecks or basic blocks, which keeps its batch norm; the paper's has 152 layers."""

import functools
import re
from typing import Any, ClassVar

import flax.linen as nn
import jax

from colorize_jax.models import layers, norm
from colorize_jax.models.encoder import Encoder, Keep, check_known, keep_all

# {depth: blocks of the stages 2 to 5}, of bottlenecks. The small ones, 26 and 14, are ours.
BOTTLENECKS = {
    152: (3, 8, 36, 3),
    101: (3, 4, 23, 3),
    50: (3, 4, 6, 3),
    26: (2, 2, 2, 2),
    14: (1, 1, 1, 1),
}
# The same for basic blocks, which are two 3x3 convolutions.
BASIC = {34: (3, 4, 6, 3), 18: (2, 2, 2, 2)}
DEPTHS = BOTTLENECKS | BASIC
# The convolution of a bottleneck that halves the map, and the padding of pool1.
VARIANTS = {"caffe": ("branch2a", "CEIL"), "torch": ("branch2b", "BOTH")}
# {stage: channels of the inner convolutions}; a bottleneck ends with four times as many.
_CHANNELS = {2: 64, 3: 128, 4: 256, 5: 512}
# {stem: (side of conv1's kernel, stride of conv1, stride of stage 2)}.
STEMS = {"imagenet": (7, 2, 4), "cifar": (3, 1, 1)}
# The blocks of the paper's hypercolumn, with 152 layers.
_READ = {
    "res2a", "res2b", "res2c", "res3b1", "res3b4", "res3b7",
    *(f"res4b{i}" for i in range(5, 36, 5)), "res5c",
}  # fmt: skip


@functools.cache
def _blocks(depth: int) -> dict[str, int]:
    """{block: stage} from the bottom to the top, with Caffe's names."""
    found = {}
    for stage, count in zip(_CHANNELS, DEPTHS[depth], strict=True):
        for i in range(count):
            letters = stage in (2, 5) or i == 0
            found[f"res{stage}{'abc'[i] if letters else f'b{i}'}"] = stage
    return found


class ResNet(Encoder):
    """conv1 and pool1, then four stages of blocks, each added to its input.

    A block is three convolutions, 1x1, 3x3 and 1x1; with 34 and 18 layers it is two, both 3x3.
    Every convolution has no bias and is followed by batch norm with a learned scale and bias. Batch
    norm is never absorbed; it is trained in transfer too.

    See `Encoder` for the other attributes; `norm` is "batch" or "layer".

    Attributes:
        depth: the number of layers in the name, one of `DEPTHS`.
        variant: one of `VARIANTS`. "caffe" halves a map in the first, 1x1 convolution of a block,
            and pool1's last window extends over the border. "torch" halves it in the 3x3
            convolution and pads pool1 on both sides. With the same parameters their outputs differ.
            Basic blocks halve a map in their first convolution in both.
        stem: "imagenet", or "cifar" for small photos: conv1 is then 3x3 with stride 1, and there is
            no pool1.
    """

    depth: int = 152
    variant: str = "caffe"
    stem: str = "imagenet"

    SETTINGS: ClassVar = {
        # The number of layers: 152, 101, 50, 34, 18, and of small ones 26, 14.
        "depth": 152,
        # "caffe" halves maps in the 1x1 convolutions, as the paper's network; "torch" in the 3x3
        # ones, as torchvision's.
        "variant": "caffe",
        # "cifar" has a first convolution of 3x3 with stride 1 and no first pool, for photos of 32
        # pixels; "imagenet" has one of 7x7 with stride 2 and a pool.
        "stem": "imagenet",
    }
    architecture = ("width", "depth", "variant", "stem")
    layer_norm = True

    @property
    def strides(self) -> dict[str, int]:
        """{activation: stride in pixels of the input}, from the bottom to the top."""
        _, conv1, first = STEMS[self.stem]
        blocks = {name: first * 2 ** (stage - 2) for name, stage in _blocks(self.depth).items()}
        return {"gray": 1, "conv1": conv1} | blocks

    @property
    def hypercolumn(self) -> dict[str, int]:
        """{activation: stride} of the hypercolumn, in its order.

        They are those blocks of the paper's that exist, and the last block of every stage.
        """
        last = {stage: name for name, stage in _blocks(self.depth).items()}
        read = {"conv1", *_READ, *last.values()}
        return {name: stride for name, stride in self.strides.items() if name in read}

    @classmethod
    def check_settings(cls, own):
        """See `Encoder.check_settings`."""
        check_known("depth", own["depth"], tuple(DEPTHS))
        check_known("variant", own["variant"], tuple(VARIANTS))
        check_known("stem", own["stem"], tuple(STEMS))

    @property
    def smallest_input(self) -> int:
        """The smallest side of the input, in pixels, for which pool1 has a window."""
        return 3 if self.variant == "caffe" and self.stem == "imagenet" else 1

    @property
    def frozen_groups(self) -> tuple[str, ...]:
        """The groups of parameters that belong to frozen layers."""
        return tuple(
            group
            for layer in self.layers
            if layer in self.frozen
            for conv in convolutions(self.depth, layer)
            for group in (conv, _beside(conv, "scale"))
        )

    @staticmethod
    def layer_of(group: str) -> str:
        """The layer that a group of parameters or of batch statistics belongs to."""
        if group.endswith("conv1"):
            return "conv1"
        return "res" + re.sub("^(res|bn|scale)|_.*", "", group)

    @nn.compact
    def read(self, image: jax.Array, train: bool = False, keep: Keep = keep_all) -> dict[str, Any]:
        """Every activation: conv1 after ReLU and before pooling, blocks after their last ReLU.

        See `Encoder.read`.
        """
        layers.check_channels(image, self.in_channels)
        maps, (size, stride, _) = {}, STEMS[self.stem]
        x, maps["gray"] = keep("gray", image.astype(self.dtype))
        moving = train and "conv1" not in self.frozen
        x = self._conv(x, "conv1", 64, moving, size, stride, relu=True)
        x, maps["conv1"] = keep("conv1", x)
        if self.stem == "imagenet":
            x = layers.overlapping_max_pool(x, VARIANTS[self.variant][1])
        for name in _blocks(self.depth):
            compute = functools.partial(ResNet._block, name=name, train=train)
            x, maps[name] = keep(name, (nn.remat(compute) if self.remat else compute)(self, x))
        return maps

    def _block(self, x, name, train):
        stage, moving = _blocks(self.depth)[name], train and name not in self.frozen
        channels, stride = _CHANNELS[stage], 2 if stage > 2 else 1
        branches = _branches(self.depth, name)
        basic = self.depth in BASIC
        first = "branch2a" if basic else VARIANTS[self.variant][0]
        halving = ("branch1", first) if name.endswith("a") else ()

        def conv(x, branch, features, size=1, relu=False):
            step = stride if branch in halving else 1
            return self._conv(x, f"{name}_{branch}", features, moving, size, step, relu)

        last = channels if basic else 4 * channels
        shortcut = conv(x, "branch1", last) if "branch1" in branches else x
        x = conv(x, "branch2a", channels, 3 if basic else 1, relu=True)
        if basic:
            return layers.relu(conv(x, "branch2b", last, 3) + shortcut)
        x = conv(x, "branch2b", channels, 3, relu=True)
        return layers.relu(conv(x, "branch2c", last) + shortcut)

    def _conv(self, x, group, channels, moving, size, stride, relu):
        x = layers.Conv(
            max(1, round(channels * self.width)),
            size,
            stride,
            # XLA's SAME would put the odd cell of a stride of 2 after the map.
            padding="SAME" if stride == 1 else size // 2,
            use_bias=False,
            dtype=self.dtype,
            name=group,
        )(x)
        affine = norm.Scale(name=_beside(group, "scale"))(x.shape[-1])
        if self.norm == "layer":
            return norm.layer_norm(x, affine, relu)
        batch_norm = norm.BatchNorm(self.norm_decay, self.axis_name, name=_beside(group, "bn"))
        return batch_norm(x, moving, affine, relu)


def convolutions(depth: int, layer: str) -> tuple[str, ...]:
    """The convolutions of conv1 or of a block; the shortcut's is the first, if there is one."""
    if layer == "conv1":
        return ("conv1",)
    return tuple(f"{layer}_{branch}" for branch in _branches(depth, layer))


def _branches(depth: int, block: str) -> tuple[str, ...]:
    """Caffe's names of the convolutions of a block.

    The shortcut of a stage's first block has one, unless the input has the shape of the output.
    """
    inner = ("branch2a", "branch2b") + (() if depth in BASIC else ("branch2c",))
    same = depth in BASIC and _blocks(depth)[block] == 2
    return inner if same or not block.endswith("a") else ("branch1", *inner)


def _beside(conv: str, kind: str) -> str:
    """Caffe's name of the batch norm ("bn") or the scale ("scale") of a convolution."""
    return f"{kind}_conv1" if conv == "conv1" else kind + conv.removeprefix("res")
