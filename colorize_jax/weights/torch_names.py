"""Where in a file the names of a network begin, and how they are spelled.

Training programs wrap networks, and every wrapper puts a word before all names or into them:
"module.encoder_q.layer1.0.conv1.weight", "features.module.0.weight". A tree of names is found by
the names that torchvision gives to the layers, whatever stands before and between them.
"""

from collections.abc import Collection, Iterable, Iterator
import dataclasses
import itertools
import re

from colorize_jax.weights.tables import listed

_LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_PARTS = 32  # of a name, between dots; a network's has five


@dataclasses.dataclass(frozen=True)
class Spelling:
    """How the layers of a kind of network are called.

    Attributes:
        title: whose spelling it is, in words; "" for torchvision's of today.
        tops: words that a name may begin with.
        words: what a name consists of; anything else in it is a wrapper.
        layers: layers as torchvision calls them.
        renamed: pairs of beginnings, theirs and torchvision's.
        alone: arrays that are of no layer, such as a token.
    """

    title: str
    tops: frozenset[str]
    words: re.Pattern
    layers: re.Pattern
    renamed: tuple[tuple[str, str], ...] = ()
    alone: frozenset[str] = frozenset()

    def begins(self, parts: list[str], i: int) -> bool:
        """Whether a name of this spelling may begin with its part i."""
        return parts[i] in (self.alone if i == len(parts) - 1 else self.tops)

    def plain(self, parts: list[str]) -> str:
        """One of their names without wrappers, in torchvision's words as far as it has them."""
        kept = [part for part in parts[:-1] if self.words.fullmatch(part)]
        return _renamed(".".join([*kept, parts[-1]]), self.renamed)

    def torchvision(self, parts: list[str]) -> str | None:
        """torchvision's name for one of theirs, None if it has none."""
        name = self.plain(parts)
        layer, _, leaf = name.rpartition(".")
        known = leaf in _LEAVES and self.layers.fullmatch(layer)
        return name if known or name in self.alone else None

    def theirs(self, name: str) -> str:
        """Their name for one of torchvision's, without wrappers."""
        return _renamed(name, tuple((ours, theirs) for theirs, ours in self.renamed))


_VGG = re.compile(r"(features|classifier)\.\d+")
_RESNET = re.compile(r"conv1|bn1|fc|layer[1-4]\.\d+\.(conv[1-3]|bn[1-3]|downsample\.[01])")
_RESNET_WORDS = re.compile(r"conv\d|bn\d|fc|layer\d|downsample|\d+")

VGG = (
    Spelling(
        "", frozenset({"features", "classifier"}), re.compile(r"features|classifier|\d+"), _VGG
    ),
    Spelling(
        "torchvision's names before 2017",  # with dropout before fc6
        frozenset({"features", "classifier"}),
        re.compile(r"features|classifier|\d+"),
        _VGG,
        (("classifier.1.", "classifier.0."), ("classifier.4.", "classifier.3.")),
    ),
    Spelling(
        "timm's names",
        frozenset({"features", "pre_logits", "head"}),
        re.compile(r"features|pre_logits|head|fc\d?|\d+"),
        _VGG,
        (
            ("pre_logits.fc1.", "classifier.0."),
            ("pre_logits.fc2.", "classifier.3."),
            ("head.fc.", "classifier.6."),
        ),
    ),
    Spelling(
        "numbers, as of its features alone",
        frozenset(str(i) for i in range(44)),
        re.compile(r"\d+"),
        _VGG,
        (("", "features."),),
    ),
)
ALEXNET = VGG[:1]  # of torchvision: "features" and "classifier", too
RESNET = (
    Spelling(
        "",
        # Others are of networks that begin otherwise, which must not be passed over.
        frozenset({"fc", *(f"{kind}{i}" for kind in ("conv", "bn", "layer") for i in range(1, 5))}),
        _RESNET_WORDS,
        _RESNET,
    ),
    Spelling(
        "numbers, as of its parts in a Sequential",  # 2 and 3 are ReLU and the pool
        frozenset("014567"),
        _RESNET_WORDS,
        _RESNET,
        (("0.", "conv1."), ("1.", "bn1."), *((f"{i + 3}.", f"layer{i}.") for i in (1, 2, 3, 4))),
    ),
)
# Of vision transformers torchvision's own names are others; these are timm's, and those of the
# published masked autoencoders.
VIT = (
    Spelling(
        "",
        frozenset({"patch_embed", "blocks", "norm", "fc_norm", "head"}),
        re.compile(r"patch_embed|proj|blocks|norm[12]?|attn|qkv|mlp|fc[12]|fc_norm|head|\d+"),
        re.compile(
            r"patch_embed\.proj|blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12])|norm|head"
        ),
        alone=frozenset({"cls_token", "pos_embed"}),
    ),
)


@dataclasses.dataclass(frozen=True)
class Tree:
    """Names in a file that begin alike and are of one network, or could be.

    Attributes:
        prefix: what stands before all of them, "" or with a dot at its end.
        spelling: of what follows.
        names: {torchvision's name: the name in the file}.
        unknown: names in the file that torchvision's network does not have.
        wrappers: words that were left out between those of a name.
    """

    prefix: str
    spelling: Spelling
    names: dict[str, str]
    unknown: list[str]
    wrappers: list[str]

    def __str__(self):
        parts = [f"under {self.prefix!r}" if self.prefix else ""]
        parts.append(f"by {self.spelling.title}" if self.spelling.title else "")
        if self.wrappers:
            parts.append(f"without {listed(self.wrappers)} between")
        return " ".join(part for part in parts if part)

    @property
    def is_part(self) -> bool:
        """Whether they are the features of a VGG that is there by its own names."""
        return self.spelling is VGG[-1] and self.prefix.endswith("features.")

    def name(self, torchvision: str) -> str:
        """The name in the file, or what it would be if it were there."""
        return self.names.get(torchvision, self.prefix + self.spelling.theirs(torchvision))


def trees(names: Iterable[str], spellings: Iterable[Spelling]) -> Iterator[Tree]:
    """All trees of names in a file that have at least one of a network's."""
    split = [(name, name.split(".")) for name in names]
    for spelling in spellings:
        groups: dict[str, list[tuple[str, list[str]]]] = {}
        for name, parts in split:
            if len(parts) > _PARTS:
                continue
            for i in range(len(parts)):
                if spelling.begins(parts, i):
                    prefix = "".join(f"{before}." for before in parts[:i])
                    groups.setdefault(prefix, []).append((name, parts[i:]))
        for prefix, members in groups.items():
            if (tree := _tree(prefix, spelling, members)).names:
                yield tree


def beginnings(names: Collection[str]) -> list[str]:
    """How names begin, as far as all of them do and one word more, with the number of each."""
    split = [name.split(".") for name in names]
    # The first and the last in order differ where any two do.
    ends = zip(min(split)[:-1], max(split)[:-1], strict=False) if split else ()
    shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    counts: dict[str, int] = {}
    for parts in split:
        begin = ".".join(parts[: shared + 1]) + ("." if len(parts) > shared + 1 else "")
        counts[begin] = counts.get(begin, 0) + 1
    return [begin + (f" ({n} arrays)" if n > 1 else "") for begin, n in counts.items()]


def _tree(prefix: str, spelling: Spelling, members) -> Tree:
    found: dict[str, list[tuple[int, str, list[str]]]] = {}
    unknown, wrappers = [], {}
    for name, parts in members:
        known = spelling.torchvision(parts)
        if known is None:
            unknown.append(name)
        else:
            found.setdefault(known, []).append((len(parts), name, parts))
    names = {}
    for known, candidates in found.items():
        # The one without wrappers counts; among several with them there is no telling.
        candidates.sort()
        if len(candidates) > 1 and candidates[0][0] == candidates[1][0]:
            unknown += [name for _, name, _ in candidates]
            continue
        _, names[known], parts = candidates[0]
        unknown += [name for _, name, _ in candidates[1:]]
        wrappers |= dict.fromkeys(p for p in parts[:-1] if not spelling.words.fullmatch(p))
    return Tree(prefix, spelling, names, unknown, list(wrappers))


def _renamed(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for before, after in pairs:
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name
