"""Our networks as plain torch.nn modules, for comparison.

VGG-16 and ResNet name their parameters as torchvision does; torchvision's own classes cannot be
imported beside the CPU build of torch. Each `forward` takes [batch, channels, height, width] and
returns every activation by our names, after ReLU and before LRN and pooling, channels second.
"""

import torch
from torch import nn
import torch.nn.functional as F


class Vgg16(nn.Module):
    """torchvision's vgg16, or vgg16_bn, of inputs of 32 * fc6_kernel pixels: fc6 is dense."""

    def __init__(self, width=1.0, in_channels=3, fc6_kernel=7, batch_norm=False):
        super().__init__()
        layers, names, below = [], {}, in_channels
        for block, (channels, convolutions) in enumerate(
            ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1
        ):
            for i in range(1, convolutions + 1):
                features = round(channels * width)
                layers.append(nn.Conv2d(below, features, 3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(features))
                layers.append(nn.ReLU())
                names[len(layers) - 1] = f"conv{block}_{i}"
                below = features
            layers.append(nn.MaxPool2d(2, 2))
        self.features, self.names = nn.Sequential(*layers), names
        top = round(4096 * width)
        self.classifier = nn.Sequential(
            nn.Linear(below * fc6_kernel**2, top),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(top, top),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(top, 1000),
        )

    def forward(self, x):
        """Every activation."""
        maps = {"gray": x}
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.names:
                maps[self.names[i]] = x
        x = x.flatten(1)
        for i, layer in enumerate(self.classifier):
            x = layer(x)
            if name := {1: "fc6", 4: "fc7"}.get(i):
                maps[name] = x[:, :, None, None]
        return maps


# {depth: blocks of the four stages}; 14 and 26 are no published networks.
RESNET_BLOCKS = {
    14: (1, 1, 1, 1),
    26: (2, 2, 2, 2),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and the shortcut; the 3x3 ("torch") or the first 1x1 has the stride."""

    def __init__(self, below, width, stride, variant):
        super().__init__()
        first, second = (stride, 1) if variant == "caffe" else (1, stride)
        self.conv1 = nn.Conv2d(below, width, 1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=second, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride != 1 or below != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(below, 4 * width, 1, stride=stride, bias=False),
                nn.BatchNorm2d(4 * width),
            )

    def forward(self, x):
        """The block's output."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut; the stride is that of the first."""

    def __init__(self, below, width, stride, variant):
        super().__init__()
        self.conv1 = nn.Conv2d(below, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or below != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(below, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x):
        """The block's output."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet(nn.Module):
    """torchvision's resnet152 and its smaller siblings; variant "caffe" is that of the paper.

    With `cifar` conv1 is 3x3 with a stride of 1, and there is no pool.
    """

    def __init__(self, depth=152, width=1.0, in_channels=3, variant="torch", cifar=False):
        super().__init__()
        below = round(64 * width)
        kernel, stride = (3, 1) if cifar else (7, 2)
        self.conv1 = nn.Conv2d(
            in_channels, below, kernel, stride=stride, padding=kernel // 2, bias=False
        )
        self.bn1 = nn.BatchNorm2d(below)
        if cifar:
            self.maxpool = nn.Identity()
        elif variant == "caffe":
            self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        else:
            self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.depth = depth
        for stage, blocks in enumerate(RESNET_BLOCKS[depth]):
            channels, layer = round(64 * 2**stage * width), []
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                kind = BasicBlock if depth in (18, 34) else Bottleneck
                layer.append(kind(below, channels, stride, variant))
                below = channels if depth in (18, 34) else 4 * channels
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(below, 1000)

    def forward(self, x):
        """Every activation."""
        maps = {"gray": x}
        x = maps["conv1"] = F.relu(self.bn1(self.conv1(x)))
        x = self.maxpool(x)
        for stage in (2, 3, 4, 5):
            for i, block in enumerate(getattr(self, f"layer{stage - 1}")):
                x = maps[resnet_block(stage, i)] = block(x)
        return maps


def resnet_block(stage, i):
    """Caffe's name of a block: letters in stages 2 and 5, a, b1, b2, ... in stages 3 and 4."""
    if stage in (2, 5):
        return f"res{stage}{'abc'[i]}"
    return f"res{stage}a" if i == 0 else f"res{stage}b{i}"


class TorchvisionAlexNet(nn.Module):
    """torchvision's alexnet."""

    def __init__(self, width=1.0, in_channels=3, fc6_kernel=6):
        super().__init__()
        c = [round(channels * width) for channels in (64, 192, 384, 256, 256, 4096)]
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, c[0], 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(c[0], c[1], 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(c[1], c[2], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c[2], c[3], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c[3], c[4], 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((fc6_kernel, fc6_kernel))
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(c[4] * fc6_kernel**2, c[5]),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(c[5], c[5]),
            nn.ReLU(),
            nn.Linear(c[5], 1000),
        )

    def forward(self, x):
        """Every activation."""
        maps = {"gray": x}
        names = {1: "conv1", 4: "conv2", 7: "conv3", 9: "conv4", 11: "conv5"}
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in names:
                maps[names[i]] = x
        x = self.avgpool(x).flatten(1)
        for i, layer in enumerate(self.classifier[:6]):
            x = layer(x)
            if name := {2: "fc6", 5: "fc7"}.get(i):
                maps[name] = x[:, :, None, None]
        return maps


class AlexNet(nn.Module):
    """AlexNet in Caffe's form (two groups, LRN), which torchvision does not have.

    `padding` "SAME" pads as TensorFlow does, more at the end; "VALID" is the classifier of inputs
    of 227 pixels.
    """

    def __init__(self, width=1.0, in_channels=1, lrn=True, padding="SAME", fc6_kernel=6):
        super().__init__()
        c = [round(n * width) for n in (96, 256, 384, 384, 256, 4096)]
        self.conv1 = nn.Conv2d(in_channels, c[0], 11, stride=4)
        self.conv2 = nn.Conv2d(c[0], c[1], 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(c[1], c[2], 3, padding=1)
        self.conv4 = nn.Conv2d(c[2], c[3], 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(c[3], c[4], 3, padding=1, groups=2)
        self.fc6 = nn.Conv2d(c[4], c[5], fc6_kernel)
        self.fc7 = nn.Conv2d(c[5], c[5], 1)
        # torch divides alpha by the number of channels that are summed.
        self.lrn = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1) if lrn else nn.Identity()
        self.padding = padding

    def _pad(self, x, kernel, stride, value=0.0):
        if self.padding == "VALID":
            return x
        edges = []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            edges += [total // 2, total - total // 2]
        return F.pad(x, edges, value=value)

    def _pool(self, x):
        return F.max_pool2d(self._pad(x, 3, 2, -torch.inf), 3, 2)

    def forward(self, x):
        """Every activation."""
        maps = {"gray": x}
        x = maps["conv1"] = F.relu(self.conv1(self._pad(x, 11, 4)))
        x = self._pool(self.lrn(x))
        x = maps["conv2"] = F.relu(self.conv2(x))
        x = self._pool(self.lrn(x))
        for name in ("conv3", "conv4", "conv5"):
            x = maps[name] = F.relu(getattr(self, name)(x))
        x = self._pool(x)
        x = maps["fc6"] = F.relu(self.fc6(self._pad(x, self.fc6.kernel_size[0], 1)))
        maps["fc7"] = F.relu(self.fc7(x))
        return maps


class Zhang(nn.Module):
    """The released colorizer (eccv16), with its names; `colors` [2, 313] in units of 110."""

    def __init__(self, width, colors):
        super().__init__()
        below, self.names = 1, {}
        for number, (channels, convolutions, stride, dilation) in enumerate(
            ((64, 2, 2, 1), (128, 2, 2, 1), (256, 3, 2, 1), (512, 3, 1, 1),
             (512, 3, 1, 2), (512, 3, 1, 2), (512, 3, 1, 1)), 1
        ):  # fmt: skip
            layers, features = [], round(channels * width)
            for i in range(1, convolutions + 1):
                layers += [
                    nn.Conv2d(
                        below, features, 3, stride=stride if i == convolutions else 1,
                        padding=dilation, dilation=dilation,
                    ),
                    nn.ReLU(),
                ]  # fmt: skip
                self.names[f"model{number}", len(layers) - (i < convolutions)] = f"conv{number}_{i}"
                below = features
            setattr(self, f"model{number}", nn.Sequential(*layers, nn.BatchNorm2d(features)))
        features = round(256 * width)
        self.model8 = nn.Sequential(
            nn.ConvTranspose2d(below, features, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(features, features, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(features, features, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(features, 313, 1),
        )
        self.model_out = nn.Conv2d(313, 2, 1, bias=False)
        self.colors = torch.tensor(colors, dtype=torch.float32)[:, :, None, None]

    def forward(self, x):
        """Every activation, the last one of a block behind its batch norm; "logits" and "ab"."""
        maps = {"gray": x}
        for number in range(1, 8):
            for i, layer in enumerate(getattr(self, f"model{number}")):
                x = layer(x)
                if name := self.names.get((f"model{number}", i)):
                    maps[name] = x
        maps["logits"] = self.model8(x)
        maps["ab"] = 110 * self.model_out(F.softmax(maps["logits"], 1))
        return maps


class _VitBlock(nn.Module):
    """Attention and a perceptron, by the names of timm."""

    def __init__(self, features, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(features, eps=1e-6)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(features, 3 * features), "proj": nn.Linear(features, features)}
        )
        self.norm2 = nn.LayerNorm(features, eps=1e-6)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(features, 4 * features), "fc2": nn.Linear(4 * features, features)}
        )
        self.heads = heads

    def forward(self, x):
        batch, tokens, features = x.shape
        y = self.attn["qkv"](self.norm1(x))
        parts = y.reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*parts).transpose(1, 2).reshape(x.shape)
        x = x + self.attn["proj"](y)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class MaskedEncoder(nn.Module):
    """The encoder of a masked autoencoder, ViT-Ti with few blocks, as it is published."""

    def __init__(self, side, blocks=2, patch=8, features=192, heads=3, in_channels=3):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(in_channels, features, patch, patch)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, features))
        cells, quarter = side // patch, features // 4
        rows, columns = torch.meshgrid(*[torch.arange(cells).double()] * 2, indexing="ij")
        omega = 10_000.0 ** (-torch.arange(quarter).double() / quarter)
        waves = []
        for place in (columns.flatten(), rows.flatten()):
            angle = place[:, None] * omega
            waves += [angle.sin(), angle.cos()]
        where = torch.cat([torch.zeros(1, features).double(), torch.cat(waves, 1)])
        self.pos_embed = nn.Parameter(where[None].float(), requires_grad=False)
        self.blocks = nn.ModuleList(_VitBlock(features, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(features, eps=1e-6)

    def forward(self, x):
        """{layer: the patches after it as a map}."""
        maps = {"gray": x}
        x = self.patch_embed["proj"](x)
        shape = x.shape
        x = x.flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x], 1)

        def of_patches(x):
            return x[:, 1:].transpose(1, 2).reshape(shape)

        maps["embed"] = of_patches(x)
        for i, block in enumerate(self.blocks, 1):
            x = block(x)
            maps[f"block{i}"] = of_patches(x)
        maps["norm"] = of_patches(self.norm(x))
        return maps


def randomize(network, seed=0):
    """Weights that keep activations of order one, and batch norm that does something."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(x, low, high):
        return nn.init.uniform_(x, low, high, generator=generator)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, generator=generator)
                if module.bias is not None:
                    uniform(module.bias, -0.1, 0.1)
            if isinstance(module, nn.BatchNorm2d):
                uniform(module.weight, 0.3, 1.0)
                uniform(module.bias, -0.2, 0.2)
                uniform(module.running_mean, -0.2, 0.2)
                uniform(module.running_var, 0.5, 1.5)
                module.num_batches_tracked.fill_(7)
            if isinstance(module, nn.LayerNorm):
                uniform(module.weight, 0.3, 1.0)
                uniform(module.bias, -0.2, 0.2)
        if isinstance(network, MaskedEncoder):
            uniform(network.cls_token, -1, 1)
        if isinstance(network, Zhang):
            network.model_out.weight.copy_(network.colors)
    return network.eval()
