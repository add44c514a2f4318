"""The colorization step in PyTorch, as its users would write it: what ours is measured against.

The same networks, targets, losses and update, on the same batches of uint8 photos. Layers are
called as ours are, so that a test can compare the losses of both on the same parameters. Imported
only where PyTorch is installed.
"""

from collections.abc import Iterator

import torch
from torch import nn
import torch.nn.functional as F

from colorize_jax.color.spaces import GRAY_MEAN

Maps = dict[str, torch.Tensor]
_VGG = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions
_RESNET = {152: (3, 8, 36, 3), 101: (3, 4, 23, 3), 50: (3, 4, 6, 3), 26: (2, 2, 2, 2)}


class Layer(nn.Sequential):
    """Convolution, batch norm without parameters, ReLU, and dropout where there is some."""

    def __init__(self, below, channels, size, dropout=0.0, padding=None, **conv):
        padding = size // 2 if padding is None else padding
        super().__init__(
            nn.Conv2d(below, channels, size, padding=padding, bias=False, **conv),
            nn.BatchNorm2d(channels, affine=False),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout) if dropout else nn.Identity(),
        )


class Vgg16(nn.Module):
    """Thirteen convolutions, fc6 and fc7, all read by the hypercolumn."""

    def __init__(self, width=1.0, fc6_kernel=7, dropout=0.5):
        super().__init__()
        self.layers, self.strides, below = nn.ModuleDict(), {"gray": 1}, 1
        for block, (channels, count) in enumerate(_VGG, 1):
            for number in range(1, count + 1):
                name, channels_here = f"conv{block}_{number}", max(1, round(channels * width))
                self.layers[name] = Layer(below, channels_here, 3)
                self.strides[name], below = 2 ** (block - 1), channels_here
        top = max(1, round(4096 * width))
        self.layers["fc6"] = Layer(below, top, fc6_kernel, dropout)
        self.layers["fc7"] = Layer(top, top, 1, dropout)
        self.strides |= {"fc6": 32, "fc7": 32}

    def forward(self, gray: torch.Tensor) -> Maps:
        """Every activation of [batch, 1, height, width]."""
        maps, x, stride = {"gray": gray}, gray, 1
        for name, layer in self.layers.items():
            if self.strides[name] > stride:
                x, stride = F.max_pool2d(x, 2, ceil_mode=True), self.strides[name]
            x = maps[name] = layer(x)
        return maps


class AlexNet(nn.Module):
    """Five convolutions, two of them before LRN, three before pooling; fc6 and fc7."""

    strides = {  # noqa: RUF012 (never changed)
        "gray": 1, "conv1": 4, "conv2": 8, "conv3": 16, "conv4": 16, "conv5": 16, "fc6": 32,
        "fc7": 32,
    }  # fmt: skip

    def __init__(self, width=1.0, fc6_kernel=6, dropout=0.5):
        super().__init__()
        wide = [2 * max(1, round(n * width / 2)) for n in (96, 256, 384, 384, 256, 4096)]
        self.layers = nn.ModuleDict({
            "conv1": Layer(1, wide[0], 11, stride=4, padding=0),
            "conv2": Layer(wide[0], wide[1], 5, groups=2),
            "conv3": Layer(wide[1], wide[2], 3),
            "conv4": Layer(wide[2], wide[3], 3, groups=2),
            "conv5": Layer(wide[3], wide[4], 3, groups=2),
            "fc6": Layer(wide[4], wide[5], fc6_kernel, dropout, padding=0),
            "fc7": Layer(wide[5], wide[5], 1, dropout),
        })  # fmt: skip
        self.lrn = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1)

    def forward(self, gray: torch.Tensor) -> Maps:
        """Every activation of [batch, 1, height, width]; padded as TensorFlow does."""
        maps, x = {"gray": gray}, gray
        for name, layer in self.layers.items():
            if name in ("conv1", "fc6"):
                x = _pad(x, layer[0].kernel_size[0], layer[0].stride[0])
            x = maps[name] = layer(x)
            if name in ("conv1", "conv2"):
                x = self.lrn(x)
            if name in ("conv1", "conv2", "conv5"):
                x = F.max_pool2d(_pad(x, 3, 2, -torch.inf), 3, 2)
        return maps


def _pad(x: torch.Tensor, size: int, stride: int, value: float = 0.0) -> torch.Tensor:
    edges = []
    for side in (x.shape[3], x.shape[2]):
        total = max((-(-side // stride) - 1) * stride + size - side, 0)
        edges += [total // 2, total - total // 2]
    return F.pad(x, edges, value=value)


class _Bottleneck(nn.Module):
    def __init__(self, below, channels, stride):
        super().__init__()

        def conv(below, features, size=1, stride=1):
            return nn.Sequential(
                nn.Conv2d(below, features, size, stride, size // 2, bias=False),
                nn.BatchNorm2d(features),
            )

        self.branch2a = conv(below, channels, stride=stride)
        self.branch2b = conv(channels, channels, 3)
        self.branch2c = conv(channels, 4 * channels)
        first = stride > 1 or below != 4 * channels
        self.branch1 = conv(below, 4 * channels, stride=stride) if first else nn.Identity()

    def forward(self, x):
        below = self.branch1(x)
        x = F.relu(self.branch2a(x), inplace=True)
        x = F.relu(self.branch2b(x), inplace=True)
        return F.relu(self.branch2c(x) + below, inplace=True)


class ResNet(nn.Module):
    """The paper's: maps are halved in 1x1 convolutions; its top alone is read."""

    def __init__(self, depth=152, width=1.0):
        super().__init__()
        below = max(1, round(64 * width))
        self.conv1 = nn.Conv2d(1, below, 7, 2, 3, bias=False)
        self.bn_conv1 = nn.BatchNorm2d(below)
        self.layers = nn.ModuleDict()
        for stage, count in enumerate(_RESNET[depth], 2):
            channels = max(1, round(32 * 2 ** (stage - 1) * width))
            for number in range(count):
                letters = stage in (2, 5) or number == 0
                name = f"res{stage}{'abc'[number] if letters else f'b{number}'}"
                stride = 2 if stage > 2 and number == 0 else 1
                self.layers[name] = _Bottleneck(below, channels, stride)
                below = 4 * channels
        self.strides = {name: 32}

    def forward(self, gray: torch.Tensor) -> Maps:
        """The last activation of [batch, 1, height, width]."""
        x = F.relu(self.bn_conv1(self.conv1(gray)), inplace=True)
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for layer in self.layers.values():
            x = layer(x)
        return dict.fromkeys(self.strides, x)


def make_encoder(config) -> nn.Module:
    """That of a recipe's `config.model`."""
    model, name = config.model, config.model.name
    if name == "vgg16":
        return Vgg16(model.width, model.fc6_kernel or 7)
    if name == "alexnet":
        return AlexNet(model.width, model.fc6_kernel or 6)
    return ResNet(model.depth, model.width)


class Network(nn.Module):
    """Encoder, columns at the points, head.

    Args:
        config: of a recipe of colorization.
    """

    def __init__(self, config):
        super().__init__()
        self.encoder, task = make_encoder(config), config.task
        with torch.no_grad():
            maps = self.encoder.eval()(torch.zeros(1, 1, 64, 64))
        self.encoder.train()
        channels = sum(maps[name].shape[1] for name in self.encoder.strides)
        self.hidden = nn.Linear(channels, config.model.hidden)
        self.drop = nn.Dropout(0.5)
        self.hue = nn.Linear(config.model.hidden, task.bins)
        self.chroma = nn.Linear(config.model.hidden, task.bins)
        self.bins, self.window = task.bins, task.window

    def forward(self, image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """The loss, a mean over points, of uint8 [batch, height, width, 3] at integer (y, x)
        [batch, points, 2]."""
        rgb = image.float() / 255
        targets = histogram_targets(rgb, points, self.window, self.bins)
        maps = self.encoder((rgb.mean(-1) - GRAY_MEAN)[:, None])
        columns = [
            sample(maps[name], points, stride) for name, stride in self.encoder.strides.items()
        ]
        columns = [column.to(columns[-1].dtype) for column in columns]
        hidden = self.drop(F.relu(self.hidden(torch.cat(columns, -1))))
        hue = _divergence(self.hue(hidden), targets["hue"]) * targets["hue_weight"]
        chroma = _divergence(self.chroma(hidden), targets["chroma"]) * targets["chroma_weight"]
        return (5 * hue + chroma).mean()


def sample(features: torch.Tensor, points: torch.Tensor, stride: int) -> torch.Tensor:
    """Bilinear samples [batch, points, channels] of [batch, channels, height, width]."""
    maps = features.permute(0, 2, 3, 1)
    batch = torch.arange(len(maps), device=maps.device)[:, None]
    if stride == 1:
        return maps[batch, points[..., 0], points[..., 1]]
    low, high, weight = [], [], []
    for axis in (0, 1):
        at = (points[..., axis] / stride).clamp(max=maps.shape[1 + axis] - 1)
        low.append(at.floor().long())
        high.append((low[-1] + 1).clamp(max=maps.shape[1 + axis] - 1))
        weight.append((at - low[-1])[..., None].to(maps.dtype))
    (y0, x0), (y1, x1), (fy, fx) = low, high, weight
    top = maps[batch, y0, x0] * (1 - fx) + maps[batch, y0, x1] * fx
    bottom = maps[batch, y1, x0] * (1 - fx) + maps[batch, y1, x1] * fx
    return top * (1 - fy) + bottom * fy


def histogram_targets(rgb: torch.Tensor, points: torch.Tensor, window: int, bins: int) -> Maps:
    """Histograms of hue and chroma in the windows around the points, [batch, points, bins], and how
    much each point counts."""
    high, low = rgb.amax(-1), rgb.amin(-1)
    chroma = high - low
    red, green, blue = rgb.unbind(-1)
    divisor = torch.where(chroma > 0, chroma, 1.0)
    sector = torch.where(
        red == high,
        (green - blue) / divisor,
        torch.where(green == high, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    turn = torch.where(sector < 0, sector / 6 + 1, sector / 6)
    hue = torch.where((turn >= 1) | (chroma <= 0), 0.0, turn)

    batch = torch.arange(len(rgb), device=rgb.device)[:, None]
    offset = torch.arange(window, device=rgb.device) - window // 2
    y, x = (points[..., axis, None] + offset for axis in (0, 1))
    height, width = rgb.shape[1:3]
    inside = ((y >= 0) & (y < height))[..., :, None] & ((x >= 0) & (x < width))[..., None, :]
    y, x = y.clamp(0, height - 1)[..., :, None], x.clamp(0, width - 1)[..., None, :]

    def histogram(values):
        index = (values * bins).int().clamp(max=bins - 1)
        votes = torch.where(inside, index[batch[..., None, None], y, x], -1).flatten(2)
        numbers = torch.arange(bins, device=rgb.device)
        counts = (votes[..., None] == numbers).sum(2).float()
        return counts / inside.flatten(2).sum(2, keepdim=True)

    here = batch, points[..., 0], points[..., 1]
    gray = rgb[here].mean(-1)
    return {
        "hue": histogram(hue),
        "chroma": histogram(chroma),
        "hue_weight": chroma[here],
        "chroma_weight": (3 * torch.minimum(gray, 1 - gray)).clamp(max=1.0),
    }


def _divergence(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    log_p = F.log_softmax(logits.float(), -1)
    log_q = torch.log(torch.where(target > 0, target, 1.0))
    return (target * (log_q - log_p)).sum(-1)


class Step:
    """Updates on one batch of random pixels.

    Args:
        config: of a recipe of colorization.
        rows: photos.
        channels_last: the layout of maps.
        compiled: by torch.compile.
        half: convolutions and products in bfloat16 (autocast).
    """

    def __init__(self, config, rows: int, *, channels_last=False, compiled=False, half=False):
        torch.manual_seed(0)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True  # as JAX does in float32
        self.half, self.crop, self.border = half, config.data.crop, config.task.edge_buffer
        network = Network(config).to(self.device)
        if channels_last:
            network = network.to(memory_format=torch.channels_last)
        self.loss = torch.compile(network) if compiled else network
        kernels, others = _split(network)
        groups = [{"params": kernels, "weight_decay": 5e-4}, {"params": others}]
        # One pass over all parameters, where this version of PyTorch knows it for the device.
        try:
            self.optimizer = torch.optim.SGD(groups, lr=1e-4, momentum=0.9, fused=True)
        except RuntimeError:
            self.optimizer = torch.optim.SGD(groups, lr=1e-4, momentum=0.9)
        shape = rows, self.crop, self.crop, 3
        self.image = torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device)
        self.points = config.task.points

    def run(self, steps: int) -> None:
        """So many updates; waits for the last."""
        for _ in range(steps):
            shape = len(self.image), self.points, 2
            points = torch.randint(self.border, self.crop - self.border, shape, device=self.device)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
                loss = self.loss(self.image, points)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        if self.device == "cuda":
            torch.cuda.synchronize()


def _split(network: nn.Module) -> tuple[list, list]:
    """(kernels, all else) among the parameters."""

    def some(kernels: bool) -> Iterator[torch.Tensor]:
        return (p for p in network.parameters() if (p.ndim > 1) == kernels)

    return list(some(True)), list(some(False))


def device_name() -> str:
    """What PyTorch computes on: "cuda" or "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch gave up for want of memory."""
    return isinstance(error, torch.cuda.OutOfMemoryError)
