r"""Shows what a network has learned.

python -m colorize_jax.analysis fields --checkpoint=/ckpt/vgg16
python -m colorize_jax.analysis top --checkpoint=/ckpt/vgg16 --source=/data/photos --output=top
python -m colorize_jax.analysis shift --before=/ckpt/vgg16 --after=/ckpt/vgg16_seg \
    --source=/data/photos --output=shift
python -m colorize_jax.analysis neighbors --features=learned --features=random \
    --source=/data/photos --output=neighbors
"""

from colorize_jax import command_line, help
from colorize_jax.analysis import fields, neighbors, shift, top

# {name: module}. A module has the functions `add_arguments(parser)` and `main(asked)`; the first
# line of its docstring is in the list of commands. It imports JAX only in `main`.
COMMANDS = {"fields": fields, "top": top, "shift": shift, "neighbors": neighbors}


def parser() -> help.Parser:
    """Of all commands."""
    found = help.Parser("python -m colorize_jax.analysis", description=__doc__)
    commands = found.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        about = module.__doc__.splitlines()[0]
        own = commands.add_parser(name, help=about, description=module.__doc__)
        module.add_arguments(own)
        own.set_defaults(main=module.main)
    return found


if __name__ == "__main__":
    command_line.run(lambda asked: asked.main(asked), parser())
